"""Text of others in Markdown, where it must stay text."""

import re


def code_span(text: str, in_table: bool = False) -> str:
    """A text as inline code, whatever is in it: backticks, HTML, several lines, and in tables bars.

    Args:
        text: any text.
        in_table: whether it stands in a table, where bars part cells even within code.
    """
    line = " ".join(text.split()) or " "
    if in_table:
        line = line.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    # Spaces beside the fences belong to them, and not to the text.
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"
