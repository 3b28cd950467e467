"""A part of a README that a command writes, between two lines of its own."""

import sys
from pathlib import Path


def replaced(text: str, path: Path, body: str, begin_line: str, end_line: str) -> str:
    """The text of a README with ``body`` between its two marker lines.

    Ends the program with one line where the markers are not there once each, in this order.

    Args:
        text: of the README.
        path: of the README, for the message.
        body: what is to stand there.
        begin_line, end_line: the marker lines.
    """
    lines = text.split("\n")
    for marker in (begin_line, end_line):
        if lines.count(marker) != 1:
            sys.exit(f"error: {path}: {lines.count(marker)} lines {marker!r}, one is needed; put one where it belongs")
    begin, end = lines.index(begin_line), lines.index(end_line)
    if begin > end:
        sys.exit(f"error: {path}: {end_line!r} stands before {begin_line!r}; put it behind")
    return "\n".join([*lines[: begin + 1], "", body, "", *lines[end:]])
