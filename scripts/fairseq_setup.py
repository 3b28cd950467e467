"""Takes the place of fairseq's setup.py while scripts/setup.sh builds fairseq, and leaves out what is compiled against torch.

Three of fairseq's extensions (libbase, libnat and an alignment binding, for mixtures of experts, Levenshtein
transformers and monotonic attention) include torch's headers and take three minutes to compile; speech translation
calls none of them. Those it does call are built: data_utils_fast and token_block_utils_fast, which make batches, and
libbleu, the scorer that fairseq-generate takes unless told otherwise. torch itself is not imported.

fairseq's own setup.py lies beside this file under the name of ``ORIGINAL``, and runs unchanged.
"""

import os
import runpy
import sys
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
    runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), ORIGINAL), run_name="__main__")


if __name__ == "__main__":
    main()
