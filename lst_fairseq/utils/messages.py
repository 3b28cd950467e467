"""Values and errors of others in messages: on one line, and of bounded length."""

from typing import Any


def one_line(value: object, most: int | None = 300) -> str:
    """The text of a value without line breaks, its first ``most`` characters."""
    return " ".join(str(value).split())[:most]


def end_of(error: BaseException) -> str:
    """Type and end of an error's text, where its cause stands last."""
    return f"{type(error).__name__}: {one_line(error, None)[-300:]}"


def in_words(error: BaseException) -> str:
    """The text of an error of a library, with its type where the text is short."""
    text = one_line(error)
    return text if len(text) > 20 else with_type(error)


def with_type(error: BaseException) -> str:
    """Type and text of an error."""
    return f"{type(error).__name__}: {one_line(error)}"


def shown(value: Any) -> str:
    """A value in an error message: on one line, and not much of it."""
    try:
        text = one_line(repr(value), None)  # a tensor's has several lines
    except (ValueError, RecursionError, RuntimeError, NotImplementedError):
        text = f"something of the type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
