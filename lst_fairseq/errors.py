"""Errors that more than one part of the package raises, and what tells them from a program's own faults."""

import os
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


class SettingsError(ValueError):
    """A setting that cannot be used; the message begins with its file or flag and has the remedy."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, written or used; the message names the file and the remedy."""


class ComparisonError(ValueError):
    """Systems that cannot be compared; the message says why and what to do."""


def is_meant(error: BaseException) -> bool:
    """Whether an error's message is all that a user needs: the package raised it on purpose.

    Of a class of this package, or raised by this package's own code. Never where LST_TRACEBACK is
    set, which asks for all that Python knows.
    """
    if os.environ.get("LST_TRACEBACK"):
        return False
    if type(error).__module__.partition(".")[0] == _PACKAGE.name:
        return True
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and _PACKAGE in Path(frames[-1].filename).resolve().parents
    meant = (ValueError, RuntimeError, FloatingPointError, ImportError)
    return raised_here and (type(error) in meant or isinstance(error, OSError))
