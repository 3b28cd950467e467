"""Where the recipe lies: in the checkout, or where a wheel has put it."""

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lst_fairseq.errors import RecipeError

#: Of setup.py's ``data_files``, below the environment's own folder.
_SHARE = Path("share/lst-fairseq")
_SETTINGS = Path("examples/mustc/settings.sh")
_ABOVE = Path(__file__).resolve().parents[2]


@cache
def recipe_root() -> Path:
    """What the recipe calls LST_ROOT: the folder of examples/mustc and scripts/env.sh.

    Raises:
        RecipeError: the recipe is neither beside the package nor among what was installed with it.
    """
    # What `pip install --target` puts in `share`, its list of files has elsewhere.
    for root in (_ABOVE, _ABOVE / _SHARE, *_installed()):
        if (root / _SETTINGS).is_file():
            return root
    raise RecipeError(
        f"{_SETTINGS.parent} was not installed with the package in {_ABOVE}: "
        "install lst-fairseq by pip, or work in a checkout"
    )


def _installed() -> list[Path]:
    try:
        files = distribution("lst-fairseq").files or ()
    except PackageNotFoundError:
        return []
    found = [file for file in files if file.match(str(_SHARE / _SETTINGS))]
    return [Path(file.locate()).resolve().parents[2] for file in found]


def recipe() -> Path:
    """The folder of the recipe's scripts."""
    return recipe_root() / _SETTINGS.parent


@cache
def recipe_settings() -> tuple[str, ...]:
    """Names of all settings of the recipe, as its own scripts know them."""
    ask = ["bash", "-c", 'source "$0" && settings_names', str(recipe() / "lib.sh")]
    alone = {**os.environ, "BASH_ENV": ""}  # whose file might print, too
    return tuple(
        subprocess.run(ask, env=alone, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    )


def lst_command(python: str) -> list[str]:
    """The command ``lst`` of an interpreter's environment; by ``-m``, which imports from the current
    directory first, only where there is none."""
    beside = Path(python).with_name("lst")
    return [str(beside)] if beside.exists() else [python, "-m", "lst_fairseq.cli"]


def checkout() -> Path | None:
    """The checkout that the package lies in, if it does: what PYTHONPATH has to name."""
    return _ABOVE if recipe_root() == _ABOVE else None


def study_folder(name: str) -> Path:
    """Where a study goes unless told: into the checkout, or else into the current directory."""
    return (checkout() or Path.cwd()) / "results" / "study" / name
