"""How this package's errors look when they end one of fairseq's commands: one line."""

import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
#: Set to show where an error was raised.
SHOW_TRACEBACK = "LST_TRACEBACK"
#: What a data loader's worker makes of an error: its traceback, and at its end the message.
_FROM_WORKER = re.compile(r"Caught \w+ in .*worker.*^[\w.]+: ", re.DOTALL | re.MULTILINE)

_default_hook = sys.excepthook


def end_in_one_line() -> None:
    """Let an error that this package raised on purpose end fairseq's commands with its message.

    They let every error out, and Python then prints some forty lines of fairseq's frames before the
    one that says what to do. Errors from elsewhere, and all of them where LST_TRACEBACK is set, are
    shown as ever.
    """
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    program = Path(sys.argv[0] if sys.argv else "").name
    if (
        not program.startswith("fairseq")
        or os.environ.get(SHOW_TRACEBACK)
        or not _is_meant(error, trace)
    ):
        _default_hook(kind, error, trace)
        return
    print(f"{program}: error: {_FROM_WORKER.sub('', str(error), count=1)}", file=sys.stderr)


def _is_meant(error: BaseException, trace: TracebackType | None) -> bool:
    """Whether it is of a class of this package, or was raised by this package's own code."""
    if type(error).__module__.partition(".")[0] == PACKAGE.name:
        return True
    frames = traceback.extract_tb(trace)
    raised_here = bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents
    meant = (ValueError, RuntimeError, FloatingPointError)
    return raised_here and (type(error) in meant or isinstance(error, OSError))
