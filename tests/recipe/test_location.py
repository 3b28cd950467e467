"""Where a study finds the recipe's scripts, however the package was installed."""

from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from lst_fairseq.errors import RecipeError
from lst_fairseq.recipe import location
from tests.support.helpers import REPOSITORY

SETTINGS = "share/lst-fairseq/examples/mustc/settings.sh"


def find() -> Path:
    return location.recipe_root.__wrapped__()  # what is found once is kept


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder with the package alone, whose list of files names the recipe."""
    packages = tmp_path / "lib" / "python3" / "site-packages"
    about = packages / "lst_fairseq-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "RECORD").write_text(f"lst_fairseq/__init__.py,,\n../../../{SETTINGS},,\n")
    monkeypatch.setattr(location, "_ABOVE", packages)
    monkeypatch.setattr(location, "distribution", lambda name: PathDistribution(about))
    return packages


def put(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()


def test_the_checkouts_own_comes_first(monkeypatch, tmp_path):
    assert find() == REPOSITORY and location.recipe() == REPOSITORY / "examples" / "mustc"
    monkeypatch.chdir(tmp_path)
    assert location.study_folder("mini") == REPOSITORY / "results" / "study" / "mini"


def test_what_a_wheel_has_put_into_the_environment(packages, tmp_path):
    put(tmp_path, SETTINGS)
    assert find() == tmp_path / "share" / "lst-fairseq"


def test_what_pip_has_put_into_a_target_folder(packages):
    put(packages, SETTINGS)
    assert find() == packages / "share" / "lst-fairseq"


def test_the_command_beside_an_interpreter_is_taken(tmp_path):
    python = str(tmp_path / "python")
    assert location.lst_command(python) == [python, "-m", "lst_fairseq.cli"]
    (tmp_path / "lst").touch()
    assert location.lst_command(python) == [str(tmp_path / "lst")]


def test_neither_is_a_line_with_the_remedy(packages, monkeypatch):
    message = f"examples/mustc was not installed with the package in {packages}: install"
    with pytest.raises(RecipeError, match=message):
        find()

    def unknown(name: str) -> PathDistribution:
        raise location.PackageNotFoundError(name)

    monkeypatch.setattr(location, "distribution", unknown)
    with pytest.raises(RecipeError, match=message):
        find()
