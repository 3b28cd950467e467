#!/usr/bin/env python3
"""Write the benchmark table of a README from the files that the benchmarks wrote, so that no figure is ever typed.

    python benchmarks/table.py README.md benchmarks/results/*.json
    python benchmarks/table.py README.md benchmarks/results/*.json --check      # writes nothing

Everything between these two lines of the README, which have to be there, is replaced:

    <!-- benchmarks: written by benchmarks/table.py -->
    <!-- end of benchmarks -->

A file with a `ratio` is a row: its title, the peer it was measured against, the ratio and its unit, whether the output
was identical, and the machine; one with several `peers`, each with a ratio, as many rows. One with a `table` gives that
table, one with neither a line of its own numbers. --check ends with an error where the section is not what the files
give.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.evaluation.report.readme import ReadmeError, update
from lst_fairseq.utils.text_files import Unreadable

BEGIN = "<!-- benchmarks: written by benchmarks/table.py -->"
END = "<!-- end of benchmarks -->"


def read(path: Path) -> dict[str, Any]:
    """One benchmark's numbers; ends the program with one line where they are not there."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"error: {path}: no such file; make it with a benchmark's --json")
    except ValueError as error:
        sys.exit(f"error: {path}: not JSON ({error}); run the benchmark again")
    if not isinstance(result, dict):
        sys.exit(f"error: {path}: not what a benchmark writes; run it again with --json")
    return {"title": path.stem, **result}


def identical(result: Mapping[str, Any]) -> str:
    """Whether both sides gave the same, in a cell; empty where it was not asked."""
    if "identical" not in result:
        return ""
    if not result["identical"]:
        return "no"
    difference = result.get("score_difference", result.get("loss_difference"))
    return "yes" if difference is None else f"yes, within {difference:.0e}"


def machine(result: Mapping[str, Any]) -> str:
    """Where it ran."""
    found = result.get("machine", {})
    if not found:
        return ""
    if found.get("device", "CPU") != "CPU":
        return str(found["device"])
    name, threads = found.get("processor", "CPU"), found.get("threads", "?")
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}, load {found.get('load', '?')}"


def ratio(result: Mapping[str, Any]) -> str:
    """The ratio, and in brackets the processor's where the clock may have counted other work."""
    text = f"{result['ratio']:.2f} {result.get('unit', 'times')}"
    return f"{text} ({result['cpu_ratio']:.2f} by processor time)" if "cpu_ratio" in result else text


def compared(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A result for each peer it was measured against."""
    if "peers" in result:
        return [{**result, **peer} for peer in result["peers"].values()]
    return [result] if "ratio" in result else []


def section(results: Sequence[Mapping[str, Any]]) -> str:
    """The README's section."""
    lines = ["| what | against | result | same output | where |", "|---|---|---|---|---|"]
    for row in (row for result in results for row in compared(result)):
        cells = [str(row["title"]), str(row.get("peer", "")), ratio(row), identical(row), machine(row)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    parts = ["\n".join(lines)] if len(lines) > 2 else []
    for result in results:
        where = machine(result)
        heading = f"**{result['title']}**" + (f" ({where})" if where else "")
        if "table" in result:
            parts.append(f"{heading}:\n\n{result['table']}")
        elif "ratio" not in result:
            numbers = [
                f"{name.replace('_', ' ')} {value:,g}"
                for name, value in result.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            ]
            parts.append(f"{heading}: {', '.join(numbers)}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", type=Path, metavar="README.md", help="the file with the two marker lines")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json", help="in the order of the table")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the section is stale")
    args = parser.parse_args(argv)
    stale = "its benchmarks are stale; run benchmarks/table.py without --check" if args.check else None
    body = section([read(path) for path in args.results])
    try:
        update(args.readme, body, BEGIN, END, stale)
    except (ReadmeError, Unreadable) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
