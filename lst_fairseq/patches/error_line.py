"""How this package's errors look when they end one of fairseq's commands: one line."""

import re
import sys
from pathlib import Path
from types import TracebackType

from lst_fairseq.errors import is_meant

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
    if not program.startswith("fairseq") or not is_meant(error):
        _default_hook(kind, error, trace)
        return
    print(f"{program}: error: {_FROM_WORKER.sub('', str(error), count=1)}", file=sys.stderr)
