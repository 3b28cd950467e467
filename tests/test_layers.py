"""The rooms of the package stand in one order, and a module imports only what stands before it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.helpers import REPOSITORY

PACKAGE = REPOSITORY / "lst_fairseq"
#: From the ground up. What is not named here may stand nowhere on the package's top floor.
ROOMS = (
    "errors",
    "utils",
    "data",
    "models",
    "criterions",
    "checkpoints",
    "generation",
    "evaluation",
    "tasks",
    "distributed",
    "planning",
    "corpora",
    "recipe",
    "study",
    "patches",
    "plugin",
    "cli",
)
#: What the package itself offers to its own modules. ``register`` leads to ``plugin``, and is for anyone to call.
FACE = ("register", "__file__", "__version__")
#: Folders of the repository that a wheel does not have.
OUTSIDE = ("benchmarks", "examples", "scripts", "tests")
#: The end of the name by which a study starts the command, in processes of its own.
PROGRAM = ".cli"


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name to file, of every module of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def names_in(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, names by ``a.b.c``, or has as a text, with the line of each."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: say the whole name of the module"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.endswith(PROGRAM):
            yield node.value, node.lineno  # for importlib, perhaps


def imported(path: Path, modules: dict[str, Path], face: str) -> dict[str, int]:
    """The package's modules that a file needs, wherever in it, with the line of each.

    The package itself is not among them, unless the file takes something else from it than its ``FACE``.
    """
    found: dict[str, int] = {}
    for name, line in names_in(path):
        if name.split(".")[0] in OUTSIDE and "." in name and " " not in name:
            found.setdefault(name, line)
        module, rest = name, ""
        while module and module not in modules:
            module, _, rest = module.rpartition(".")
        if module and (module != face or rest not in (*FACE, "")):
            found.setdefault(module, line)
    return found


def floor_of(module: str, face: str) -> int:
    """The place of a module's room; the package itself, and what stands outside of it, is above all."""
    room = module.split(".")[1] if module.startswith(f"{face}.") else ""
    return ROOMS.index(room) if room else len(ROOMS)


def arrows_back(package: Path) -> list[str]:
    """Imports of what stands later, as ``FILE:LINE: ROOM imports MODULE``."""
    modules, face = modules_of(package), package.name
    return [
        f"{path.relative_to(package.parent)}:{line}: {module.split('.')[1]} imports {other}"
        for module, path in modules.items()
        if module != face
        for other, line in imported(path, modules, face).items()
        if floor_of(other, face) > floor_of(module, face)
    ]


def order_of(package: Path) -> list[str]:
    """Every module after those that it imports; CycleError where two need each other."""
    modules, face = modules_of(package), package.name
    graph = {m: set(imported(path, modules, face)) - {m} for m, path in modules.items() if m != face}
    return list(TopologicalSorter(graph).static_order())


def test_the_top_floor_has_five_files_at_most_and_every_room_its_place() -> None:
    files = sorted(path.stem for path in PACKAGE.glob("*.py"))
    assert len(files) <= 5
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | set(files) - {"__init__"} == set(ROOMS)


def test_no_arrow_runs_back_up() -> None:
    assert arrows_back(PACKAGE) == []


def test_no_two_modules_need_each_other() -> None:
    assert len(order_of(PACKAGE)) == len(modules_of(PACKAGE)) - 1


def test_the_tests_have_the_same_rooms() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if not list((REPOSITORY / "tests" / room).rglob("test_*.py"))] == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with two rooms."""
    for name in ("__init__", "utils/__init__", "models/__init__", "models/lst"):
        write(tmp_path / f"house/{name}.py", "")
    return tmp_path / "house"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "from house.models.lst import Model": "house.models.lst",
        "from house.models import lst": "house.models.lst",
        "def late():\n    import house.models.lst": "house.models.lst",
        "import house\nprint(house.models.lst.Model)": "house.models.lst",
        "import importlib\nimportlib.import_module('house.models.lst')": "house.models.lst",
        "from house import Translator": "house",
        "from tests.helpers import build": "tests.helpers.build",
    }.items(),
)
def test_an_arrow_back_is_found(text: str, found: str, house: Path) -> None:
    write(house / "utils/files.py", text)
    line = len(text.splitlines())
    assert arrows_back(house) == [f"house/utils/files.py:{line}: utils imports {found}"]


def test_what_the_package_offers_is_for_anyone(house: Path) -> None:
    write(house / "utils/files.py", "import house\nfrom house import register\nprint(house.__file__)")
    write(house / "models/encoder.py", "import os\nfrom house.utils.files import replacing")
    assert arrows_back(house) == []


def test_a_process_of_its_own_is_no_import(house: Path) -> None:
    write(house / "cli/__init__.py", "")
    write(house / "cli/main.py", "")
    write(house / "utils/files.py", "COMMAND = ['python', '-m', 'house.cli', 'study']")
    assert arrows_back(house) == []
    write(house / "utils/files.py", "import importlib\nimportlib.import_module('house.cli.main')")
    assert arrows_back(house) == ["house/utils/files.py:2: utils imports house.cli.main"]


def test_a_circle_is_found(house: Path) -> None:
    write(house / "utils/a.py", "import house.utils.b")
    write(house / "utils/b.py", "def late():\n    import house.utils.a\n")
    with pytest.raises(CycleError):
        order_of(house)
