"""What a tree of JSON values should look like, and where one does not.

A shape is one of these:

    str, int, float              a text, a whole number from 0 on, a finite number
    None                         null
    (SHAPE, ...)                 one of several
    [SHAPE]                      a list
    {"a": SHAPE, "b?": SHAPE}    names with values, b may be missing, others may be there
    {PATTERN: SHAPE}             any names that the compiled pattern matches as a whole
"""

import math
import re
from typing import Any

_NAMES = {str: "a text", int: "a whole number from 0 on", float: "a number", None: "null"}


class ShapeError(ValueError):
    """A value of another shape; the message names the entry, what it is, and what it should be."""


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits a float, and not a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)  # a whole number may be too large


def check_shape(value: Any, shape: Any, where: str = "the whole") -> None:
    """Compare a value with a shape.

    Args:
        value: as the json module reads it.
        shape: see the module.
        where: the entry, for the message.

    Raises:
        ShapeError: at the first entry that differs.
    """
    if not _fits(value, shape):
        raise ShapeError(f"{where} is {repr(value)[:80]}, and should be {_said(shape)}")
    if isinstance(shape, tuple):
        shape = next(one for one in shape if _fits(value, one))
    below = "" if where == "the whole" else f"{where}."
    if isinstance(shape, list):
        for number, entry in enumerate(value):
            check_shape(entry, shape[0], f"{below}{number}")
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            if isinstance(key, re.Pattern):
                _check_names(value, key, inner, where)
            elif key.removesuffix("?") in value:
                name = key.removesuffix("?")
                check_shape(value[name], inner, below + name)
            elif not key.endswith("?"):
                raise ShapeError(f"{below}{key} is missing")


def _check_names(value: dict[str, Any], pattern: re.Pattern[str], inner: Any, where: str) -> None:
    for name, entry in value.items():
        if not pattern.fullmatch(name):
            raise ShapeError(f"{where}.{name[:80]!r}: no such name is known")
        check_shape(entry, inner, f"{where}.{name}")


def _fits(value: Any, shape: Any) -> bool:
    """Whether the outermost of a value fits."""
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if shape is None:
        return value is None
    if shape is float:
        return is_number(value)
    if shape is int:
        return isinstance(value, int) and is_number(value) and value >= 0
    return isinstance(value, shape if isinstance(shape, type) else type(shape))


def _said(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_said, shape))
    if isinstance(shape, list | dict):
        return "a list" if isinstance(shape, list) else "names with values"
    return _NAMES[shape]
