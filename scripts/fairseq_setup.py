"""Takes the place of fairseq's setup.py while scripts/setup.sh builds it, and leaves some extensions out.

Three of them (libbase, libnat and an alignment binding: mixtures of experts, Levenshtein transformers, monotonic
attention) include torch's headers and take three minutes to compile; speech translation calls none of them. Those that
it does call are built: data_utils_fast and token_block_utils_fast, which make batches, and libbleu, the scorer that
fairseq-generate takes unless told otherwise. torch itself is not imported.

fairseq's own setup.py lies beside this file under the name of ``ORIGINAL``, and runs unchanged.
"""

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension
from setuptools.command.build_ext import build_ext

ORIGINAL = "setup_of_fairseq.py"


class TorchExtension(Extension):
    """An extension that includes torch's headers."""


class BuildWithoutTorch(build_ext):
    """Builds the other extensions, several at a time."""

    def finalize_options(self) -> None:
        extensions = self.distribution.ext_modules or []
        self.distribution.ext_modules = [
            extension for extension in extensions if not isinstance(extension, TorchExtension)
        ]
        self.parallel = self.parallel or os.cpu_count()
        super().finalize_options()


def main() -> None:
    torch, utils = ModuleType("torch"), ModuleType("torch.utils")
    utils.cpp_extension = ModuleType("torch.utils.cpp_extension")
    utils.cpp_extension.CppExtension = TorchExtension
    utils.cpp_extension.BuildExtension = BuildWithoutTorch
    for module in (torch, utils, utils.cpp_extension):
        sys.modules[module.__name__] = module
    runpy.run_path(str(Path(__file__).resolve().with_name(ORIGINAL)), run_name="__main__")


if __name__ == "__main__":
    main()
