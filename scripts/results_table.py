#!/usr/bin/env python3
"""Write the results section of a README from what scripts/compare.py wrote, so that no figure is ever typed.

    python scripts/results_table.py README.md examples/mini/results.json
    python scripts/results_table.py README.md mini/results.json digits/results.json --check      # writes nothing

Everything between these two lines of the README, which have to be there, is replaced:

    <!-- results: written by scripts/results_table.py -->
    <!-- end of results -->

Each file gives a heading (its `title`, or corpus and split), the table, and folded up what the tests say and the
signatures. --check ends with an error where the section is not what the files give.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.errors import ComparisonError
from lst_fairseq.evaluation.report.comparison import read_comparison, section
from lst_fairseq.utils.files import file_errors_in_one_line
from scripts.markers import update

BEGIN = "<!-- results: written by scripts/results_table.py -->"
END = "<!-- end of results -->"


def read_section(path: Path) -> str:
    """The section of one results file; ends the program with one line where it is not one of scripts/compare.py."""
    try:
        return section(read_comparison(path))
    except ComparisonError as error:
        sys.exit(f"error: {error}")


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", type=Path, metavar="README.md", help="the file with the two marker lines")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json", help="in the order of the section")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the section is stale")
    args = parser.parse_args(argv)
    command = shlex.join(["python", "scripts/results_table.py", str(args.readme), *map(str, args.results)])
    body = "\n\n".join(read_section(path) for path in args.results)
    update(args.readme, body, BEGIN, END, f"its results are stale; run {command}" if args.check else None)


if __name__ == "__main__":
    main()
