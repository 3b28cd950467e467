"""The rooms of the package stand in one order, and a module imports only what stands before it."""

import ast
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
    "study",
    "patches",
    "plugin",
    "cli",
)


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name to file, of every module of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, modules: dict[str, Path]) -> dict[str, int]:
    """The package's modules that a file imports, wherever in it, with the line of each."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: say the whole name of the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            module = name if name in modules else name.rpartition(".")[0]
            if module in modules:
                found.setdefault(module, node.lineno)
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def arrows_back(package: Path) -> list[str]:
    """Imports of what stands later, as ``FILE:LINE: ROOM imports MODULE``.

    Not of the package itself: ``register``, which leads to ``plugin``, is for anyone to call.
    """
    modules = modules_of(package)
    face = package.name
    return [
        f"{path.relative_to(package.parent)}:{line}: {room_of(module)} imports {other}"
        for module, path in modules.items()
        if module != face
        for other, line in imported(path, modules).items()
        if other != face and ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    ]


def order_of(package: Path) -> list[str]:
    """Every module after those that it imports; CycleError where two need each other."""
    modules = modules_of(package)
    face = package.name
    graph = {m: set(imported(path, modules)) - {face, m} for m, path in modules.items() if m != face}
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


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_an_arrow_back_is_found_at_the_top_of_a_file_and_within_a_function(tmp_path: Path) -> None:
    package = tmp_path / "house"
    for name in ("__init__", "utils/__init__", "models/__init__", "models/lst"):
        write(package / f"{name}.py", "")
    write(package / "utils/files.py", "import os\n\ndef late():\n    from house.models import lst\n")
    write(package / "utils/masks.py", "from house.models.lst import Model\nimport house\n")
    assert arrows_back(package) == [
        "house/utils/files.py:4: utils imports house.models.lst",
        "house/utils/masks.py:1: utils imports house.models.lst",
    ]


def test_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "house"
    for name, text in {"__init__": "", "utils/__init__": "", "utils/a": "import house.utils.b"}.items():
        write(package / f"{name}.py", text)
    write(package / "utils/b.py", "def late():\n    import house.utils.a\n")
    with pytest.raises(CycleError):
        order_of(package)
