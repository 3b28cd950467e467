"""What setup.py asks for, its extras included, in the form that pip's -r and -c take: a requirement a line.

    python scripts/requirements.py              # ranges: torch>=2.6,<3
    python scripts/requirements.py --lowest     # their lower ends: torch==2.6

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
    """``torch==2.6`` of ``torch>=2.6,<3``. Raises ValueError where a range lacks one of its ends."""
    match = RANGE.fullmatch(requirement)
    if match is None:
        raise ValueError(f"{requirement}: write a range with both ends, as in torch>=2.6,<3")
    name, version, marker = match.groups(default="")
    return f"{name}=={version}{marker}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowest", action="store_true", help="the lower end of each range")
    found = requirements()
    print(*(map(lowest, found) if parser.parse_args().lowest else found), sep="\n")


if __name__ == "__main__":
    main()
