"""What scripts/setup.sh goes by: fairseq's build, and ranges of requirements that are tested at both ends."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.helpers import REPOSITORY, load_script

FAIRSEQ_SETUP = """\
from pathlib import Path
from setuptools import Extension, setup
from torch.utils import cpp_extension

Path("torch.txt").write_text(str(hasattr(cpp_extension, "load")))
setup(
    name="tiny",
    version="1",
    ext_modules=[
        Extension("tiny.libbleu", ["bleu.cpp"]),
        Extension("tiny.data.data_utils_fast", ["fast.pyx"], language="c++"),
        cpp_extension.CppExtension("tiny.libnat", sources=["edit_dist.cpp"]),
    ],
    cmdclass={"build_ext": cpp_extension.BuildExtension},
)
"""
LIST_EXTENSIONS = """
from distutils.core import run_setup
distribution = run_setup("setup.py", stop_after="commandline")
build = distribution.get_command_obj("build_ext")
build.ensure_finalized()
print(distribution.get_name(), *(extension.name for extension in build.extensions), build.parallel > 0)
"""


def test_fairseq_is_built_without_what_includes_torch(tmp_path: Path) -> None:
    load_script("fairseq_setup")
    (tmp_path / sys.modules["fairseq_setup"].ORIGINAL).write_text(FAIRSEQ_SETUP, encoding="utf-8")
    shutil.copy(REPOSITORY / "scripts" / "fairseq_setup.py", tmp_path / "setup.py")
    command = [sys.executable, "-c", "import setuptools" + LIST_EXTENSIONS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["tiny", "tiny.libbleu", "tiny.data.data_utils_fast", "True"], done.stderr
    assert (tmp_path / "torch.txt").read_text() == "False"  # the real cpp_extension has load


def test_setup_puts_fairseqs_own_file_where_the_build_looks_for_it() -> None:
    script = (REPOSITORY / "scripts" / "setup.sh").read_text(encoding="utf-8")
    assert f'"$source/{load_script("fairseq_setup").ORIGINAL}"' in script


def test_what_is_installed_is_in_range() -> None:
    """Every range has two ends, and the environment that runs the tests lies between them."""
    requirements = load_script("requirements")
    found = [Requirement(line) for line in requirements.requirements()]
    assert {"torch", "transformers", "pytest", "espeakng-loader"} <= {r.name for r in found}
    for requirement in found:
        assert {part.operator for part in requirement.specifier} == {">=", "<"}, requirement
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(version(requirement.name)), requirement


@pytest.mark.parametrize(
    ("range_", "pin"),
    [
        ("torch>=2.8,<3", "torch==2.8"),
        ('a-b>=1.0.2,<2; python_version < "3.11"', 'a-b==1.0.2; python_version < "3.11"'),
    ],
)
def test_lower_end_of_a_range(range_: str, pin: str) -> None:
    assert load_script("requirements").lowest(range_) == pin


@pytest.mark.parametrize("range_", ["torch", "torch>=2.6", "torch<3", "torch==2.6"])
def test_a_range_without_both_ends_is_refused(range_: str) -> None:
    with pytest.raises(ValueError, match=f"^{range_}: write a range with both ends"):
        load_script("requirements").lowest(range_)


@pytest.mark.parametrize(("python", "lower"), [("3.10", "1"), ("3.9", "1"), ("3.13", "2")])
def test_ranges_for_another_python(python: str, lower: str) -> None:
    lines = ["b>=1,<3", 'a>=2,<3; python_version >= "3.11"', 'a>=1,<3; python_version < "3.11"']
    found = [Requirement(line) for line in load_script("requirements").for_python(lines, python)]
    assert found == [Requirement("b>=1,<3"), Requirement(f"a>={lower},<3")]
