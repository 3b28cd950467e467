"""What setup.py asks for, its extras included, a requirement a line, as pip's -r and -c take it.

    python scripts/requirements.py                  # ranges: torch>=2.8,<3
    python scripts/requirements.py --lowest         # their lower ends: torch==2.8
    python scripts/requirements.py --python 3.10    # the ranges for this Python

The file is read and not run, so that this works in an environment where nothing is installed.
"""

import argparse
import ast
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
RANGE = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+),<[0-9.]+(; .*)?")


def requirements(path: Path = SETUP) -> list[str]:
    """The strings in ``REQUIREMENTS`` and, of each extra, in ``EXTRAS``."""
    assigned = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            assigned[statement.targets[0].id] = statement.value
    extras = ast.literal_eval(assigned["EXTRAS"])
    found = ast.literal_eval(assigned["REQUIREMENTS"])
    return [*found, *(requirement for extra in extras.values() for requirement in extra)]


def lowest(requirement: str) -> str:
    """``torch==2.8`` of ``torch>=2.8,<3``. Raises ValueError where a range lacks one of its ends."""
    match = RANGE.fullmatch(requirement)
    if match is None:
        raise ValueError(f"{requirement}: write a range with both ends, as in torch>=2.8,<3")
    name, version, marker = match.groups(default="")
    return f"{name}=={version}{marker}"


def for_python(lines: list[str], version: str) -> list[str]:
    """The lines that hold for this Python, without saying so: pip judges by the one it runs on."""
    from packaging.requirements import Requirement  # missing from a bare environment

    found = [Requirement(line) for line in lines]
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in found
        if requirement.marker is None or requirement.marker.evaluate({"python_version": version})
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowest", action="store_true", help="the lower end of each range")
    parser.add_argument("--python", metavar="VERSION", help="what this Python gets, as in 3.10")
    arguments = parser.parse_args()
    lines = requirements()
    if arguments.python:
        lines = for_python(lines, arguments.python)
    print(*(map(lowest, lines) if arguments.lowest else lines), sep="\n")


if __name__ == "__main__":
    main()
