"""A part of a README that a command writes, between two lines of its own."""

import os
import sys
from pathlib import Path

from lst_fairseq.utils.text_files import Unreadable, read_data


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


def update(path: Path, body: str, begin_line: str, end_line: str, stale: str | None = None) -> None:
    """Write ``body`` between a README's two marker lines, the file whole or not at all.

    Ends the program with one line where the README is not there or lacks the markers.

    Args:
        path: of the README.
        body: what is to stand there.
        begin_line, end_line: the marker lines.
        stale: instead of writing, what to say where something else stands there; the program ends with it.
    """
    try:
        before = read_data(path, "give the README with the marker lines").decode("utf-8")
    except Unreadable as error:
        sys.exit(f"error: {error}")
    except UnicodeDecodeError as error:
        sys.exit(f"error: {path}: not UTF-8 text ({error.reason}); save it as UTF-8")
    after = replaced(before, path, body, begin_line, end_line)
    if stale is not None:
        if after != before:
            sys.exit(f"error: {path}: {stale}")
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(after.encode("utf-8"))
    os.replace(partial, path)
