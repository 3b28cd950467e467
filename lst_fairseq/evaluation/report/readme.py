"""A part of a README that a command writes, between two lines of its own; the results are one."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lst_fairseq.evaluation.report.comparison import read_comparison, section
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.text_files import Unreadable, read_data

BEGIN = "<!-- results: written by lst report -->"
END = "<!-- end of results -->"


class ReadmeError(ValueError):
    """A README that lacks its marker lines, or is stale; the message says what to do."""


def update_results(readme: Path, results: Sequence[Path], *, check: bool = False) -> None:
    """Write the results section of a README.

    Args:
        readme: with the lines ``BEGIN`` and ``END``.
        results: results.json of comparisons, in the order of the section.
        check: write nothing, and raise where the section is not what the files give.

    Raises:
        ComparisonError: of a file that holds no comparison.
        ReadmeError, Unreadable: as :func:`update`.
    """
    body = "\n\n".join(section(read_comparison(path)) for path in results)
    command = shlex.join(["lst", "report", *map(str, results), "--readme", str(readme)])
    update(readme, body, BEGIN, END, f"its results are stale; run {command}" if check else None)


def update(path: Path, body: str, begin_line: str, end_line: str, stale: str | None = None) -> None:
    """Write ``body`` between a README's two marker lines, the file whole or not at all.

    Args:
        path: of the README.
        body: what is to stand there.
        begin_line, end_line: the marker lines.
        stale: instead of writing, what to say where something else stands there.

    Raises:
        Unreadable: the README cannot be read.
        ReadmeError: the markers are not there once each, in this order; or it is stale.
    """
    try:
        before = read_data(path, "give the README with the marker lines").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(path, f"not UTF-8 text ({error.reason}); save it as UTF-8") from None
    after = _replaced(before, path, body, begin_line, end_line)
    if stale is None:
        with atomic_text(path) as file:
            file.write(after)
    elif after != before:
        raise ReadmeError(f"{path}: {stale}")


def _replaced(text: str, path: Path, body: str, begin_line: str, end_line: str) -> str:
    """The text of a README with ``body`` between its two marker lines."""
    lines = text.split("\n")
    for marker in (begin_line, end_line):
        if (count := lines.count(marker)) != 1:
            raise ReadmeError(
                f"{path}: {count} lines {marker!r}, one is needed; put one where it belongs"
            )
    begin, end = lines.index(begin_line), lines.index(end_line)
    if begin > end:
        raise ReadmeError(f"{path}: {end_line!r} stands before {begin_line!r}; put it behind")
    return "\n".join([*lines[: begin + 1], "", body, "", *lines[end:]])
