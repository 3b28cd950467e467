"""Errors that more than one part of the package raises, and what tells them from a program's own faults."""

import dis
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


class SettingsError(ValueError):
    """A setting that cannot be used; the message begins with its file or flag and has the remedy."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, written or used; the message names the file and the remedy."""


class RecipeError(RuntimeError):
    """A step of the recipe that cannot be run, or a recipe that is not there; the message has the remedy."""


class ComparisonError(ValueError):
    """Systems that cannot be compared; the message says why and what to do."""


def is_meant(error: BaseException) -> bool:
    """Whether an error's message is all that a user needs: the package raised it on purpose.

    Of a class of this package, or of a plain one and raised by a ``raise`` in this package's own
    code. Never where LST_TRACEBACK is set, which asks for all that Python knows.
    """
    if os.environ.get("LST_TRACEBACK"):
        return False
    if type(error).__module__.partition(".")[0] == _PACKAGE.name:
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:  # never raised
        return False
    code = last.tb_frame.f_code
    # What a builtin raises, as ``int("x")`` does, has no frame of its own, but no `raise` either.
    by_statement = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    meant = (ValueError, RuntimeError, FloatingPointError, ImportError)
    return _PACKAGE in Path(code.co_filename).resolve().parents and (
        isinstance(error, OSError) or (type(error) in meant and by_statement)
    )
