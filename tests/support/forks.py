"""Functions run in forked processes, which have the imports behind them and can be killed."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.ranks import CONTEXT


def fork(
    function: Callable[..., Any], *arguments: Any, log: Path, group: bool = False, **keywords: Any
) -> int:
    """Start ``function`` in a forked process, its output appended to ``log``; the process's id.

    The exit status is 0, what SystemExit says, or 1 after another exception, whose traceback is in
    the log.

    Args:
        function: to call, with ``arguments`` and ``keywords``.
        group: give the process a group of its own, so that it can be killed with all that it
        starts.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if process := os.fork():
        return process
    with contextlib.suppress(BaseException):
        if group:
            os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _served(function, arguments, keywords, log)
    os._exit(1)


def _status_of(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> int:
    try:
        function(*arguments, **keywords)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, flush=True)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def ended(process: int) -> int:
    """Wait for a forked process; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(
    function: Callable[..., Any], *arguments: Any, log: Path, **keywords: Any
) -> tuple[int, str]:
    """Exit status and output of a function in a forked process."""
    log.unlink(missing_ok=True)
    status = ended(fork(function, *arguments, log=log, **keywords))
    return status, log.read_text(encoding="utf-8") if log.exists() else ""


def serve(function: Callable[..., Any], *arguments: Any, log: Path, **keywords: Any) -> Any:
    """As :func:`fork`, from a server that has never trained: no other can be forked to train.

    Returns:
        the started ``multiprocessing.Process``.
    """
    process = CONTEXT.Process(target=_served, args=(function, arguments, keywords, log))
    process.start()
    return process


def _served(function: Callable[..., Any], arguments: Any, keywords: Any, log: Path) -> None:
    """Call a function with its output in a file, and end the process with its status."""
    with (
        open(log, "a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        status = _status_of(function, *arguments, **keywords)
    os._exit(status)
