"""The wheel: what is in it, and that all of the package works from it, outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import lst_fairseq
from tests.support.helpers import REPOSITORY, train_arguments

#: Of the checkout, what a build reads, and what a wheel must not have.
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
SOURCES += ("lst_fairseq", "scripts", "examples", "tests", "benchmarks")
RECIPE = Path("share/lst-fairseq/examples/mustc")


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints, which must succeed; it knows nothing of the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
    known = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env={**known, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is, from a copy: a build leaves folders behind."""
    root = tmp_path_factory.mktemp("wheel")
    copy = root / "copy"
    copy.mkdir()
    without = shutil.ignore_patterns("__pycache__")
    for path in (REPOSITORY / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, copy / path.name, ignore=without)
        else:
            shutil.copy(path, copy)
    flags = ("--wheel", "--no-isolation", "--outdir", root)
    run(sys.executable, "-m", "build", *flags, copy, cwd=root)
    (built,) = root.glob("*.whl")
    return built


class Installed:
    """The wheel in an environment of its own, which has what it requires from the tests' own."""

    def __init__(self, wheel: Path, root: Path):
        self.bin, self.root = root / "env" / "bin", root
        run(sys.executable, "-m", "venv", root / "env", cwd=root)
        self("python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)
        # A path in a .pth file brings packages, but not the .pth files beside them, by which the
        # checkout is installed.
        paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (own,) = (root / "env").glob("lib/python*/site-packages")
        (own / "tests.pth").write_text("\n".join(paths) + "\n")
        self.package = own / "lst_fairseq"

    def __call__(self, command: str, *arguments: object) -> str:
        """What a command of the environment prints, in a folder without a checkout."""
        return run(self.bin / command, *arguments, cwd=self.root)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_it_has_the_package_and_the_recipe_and_nothing_else(wheel: Path) -> None:
    name = f"lst_fairseq-{lst_fairseq.__version__}"
    about, share = f"{name}.dist-info", f"{name}.data/data/share/lst-fairseq"
    files = [path for path in (REPOSITORY / "lst_fairseq").rglob("*") if path.is_file()]
    recipe = [*(REPOSITORY / "examples" / "mustc").iterdir(), REPOSITORY / "scripts" / "env.sh"]
    expected = {str(path.relative_to(REPOSITORY)) for path in files if path.suffix != ".pyc"}
    expected |= {f"{share}/{path.relative_to(REPOSITORY)}" for path in recipe}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.startswith(f"{about}/")}
        entries = ConfigParser()
        entries.read_string(archive.read(f"{about}/entry_points.txt").decode())
    assert found == expected, sorted(found ^ expected)
    main = "lst_fairseq.cli.main"
    commands = {"lst": f"{main}:main", "lst-translate": f"{main}:lst_translate"}
    assert dict(entries["console_scripts"]) == commands


def test_its_commands_know_where_they_are(installed: Installed) -> None:
    assert "lst prep mustc --data-root" in installed("lst", "--help")
    for words in ("lst user-dir", "lst-translate --user-dir", "python -m lst_fairseq.cli user-dir"):
        assert installed(*words.split()) == f"{installed.package}\n"


def test_a_study_finds_its_recipe(installed: Installed) -> None:
    code = "from lst_fairseq.recipe.location import *; print(recipe()); print(study_folder('mini'))"
    recipe, folder = map(Path, installed("python", "-c", code).splitlines())
    assert recipe == installed.root / "env" / RECIPE
    assert folder == installed.root / "results" / "study" / "mini"
    # Its scripts find each other and the commands: it is the corpus that is not there.
    path = f"{installed.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with pytest.raises(AssertionError, match=r"error: MUSTC_ROOT=.*/nowhere: no such directory"):
        run("bash", recipe / "prep.sh", cwd=installed.root, PATH=path, MUSTC_ROOT="nowhere")


@pytest.mark.slow
def test_it_trains_and_translates(
    installed: Installed, corpus: Path, backbones: dict[str, str]
) -> None:
    user_dir = installed("lst", "user-dir").strip()
    settings = {"user_dir": user_dir, "max_update": 3, "save_dir": installed.root / "run"}
    flags = train_arguments(corpus, backbones, "--disable-validation", **settings)
    assert '"num_updates": "3"' in installed("python", "-m", "fairseq_cli.train", *flags)
    flags = ["--checkpoint", installed.root / "run" / "checkpoint_last.pt", "--device", "cpu"]
    flags += ["--json", "--max-len-b", "9", corpus / "dev.wav:1000:16000"]
    said = installed("lst", "translate", *flags)
    assert json.loads(said)["seconds"] == 1.0
