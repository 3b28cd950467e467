"""Text of others in Markdown: it stays text, whatever signs it has in it."""

import re
from collections.abc import Sequence

_SIGNS = re.compile(r"([\\`*_<>\[\]|#~])")
_LINE_BREAKS = re.compile(r"\s*[\r\n]+\s*")


def escape(text: str) -> str:
    """A text on one line, with a backslash before each sign that Markdown reads."""
    return _SIGNS.sub(r"\\\1", _LINE_BREAKS.sub(" ", text))


def code_span(text: str, in_table: bool = False) -> str:
    """A text as code within a line, in more backticks than it has one after another.

    Args:
        text: any text.
        in_table: whether it stands in a table, where bars part cells even within code.
    """
    text = _LINE_BREAKS.sub(" ", text)
    if not text.strip():
        return ""
    if in_table:
        text = text.replace("|", "\\|")
    ticks = "`" * (_longest_run(text) + 1)
    # A span loses one space at both ends; a backtick must not touch the fence.
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def code_block(text: str) -> str:
    """Lines as they are, in a fence that none of them closes."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def table_rows(rows: Sequence[Sequence[str]]) -> str:
    """A table, of cells that are Markdown already, the first row being the headings."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
