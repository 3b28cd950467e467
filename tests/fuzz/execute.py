"""Run a program on an input, in a child of this process or as a command, and see what it does."""

import ast
import gc
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests.fuzz.base import MARKER_WORD
from tests.fuzz.case import Case, Outcome
from tests.fuzz.programs import Program

#: Events of Python's audit hooks that start another program or talk to the network.
_STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
_CONNECTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "urllib.Request",
)
#: Address space beyond what is in use: a lie about a length is no more than a MemoryError.
_MORE_ADDRESSES = 3 << 30
_KEPT_OUTPUT = 200_000
#: How a chat template begins as it is compiled.
_TEMPLATE = b"from jinja2.runtime import "

Main = Callable[[list[str]], Any]


def in_child(
    main: Main, case: Case, folder: Path, environment: Mapping[str, str], patience: float
) -> Outcome:
    """Run a function in a forked child, which has this process's imports.

    Args:
        main: takes the arguments; ends as a program's main function does.
        case: what it is to take.
        folder: for the output; the child's working directory.
        environment: variables to set.
        patience: seconds until the child is killed.
    """
    files = _files(folder, "stdout", "stderr", "events")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setsid()
            _enter(files, folder, environment, case.standard_input)
            status = _call(main, case, files["events"])
        finally:
            os._exit(status)
    return _outcome(pid, files, patience)


def as_command(
    program: Program, case: Case, folder: Path, environment: Mapping[str, str], patience: float
) -> Outcome:
    """Run a program as a user would; what Python's audit hooks would tell is not known."""
    files = _files(folder, "stdout", "stderr")
    process = subprocess.Popen(
        [*program.command, *case.arguments],
        stdin=subprocess.PIPE,
        stdout=files["stdout"],
        stderr=files["stderr"],
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(case.standard_input.encode())
        process.stdin.close()
    return _outcome(process.pid, files, patience)


def _files(folder: Path, *names: str) -> dict[str, IO[bytes]]:
    """New files, which :func:`_outcome` reads and closes."""
    return {name: open(folder / name, "w+b") for name in names}


def _outcome(pid: int, files: Mapping[str, IO[bytes]], patience: float) -> Outcome:
    """Wait for a child that leads a session of its own, and collect what it left."""
    started = time.monotonic()
    descriptor = os.pidfd_open(pid)
    ended = bool(select.select([descriptor], [], [], patience)[0])
    os.close(descriptor)
    with suppress(ProcessLookupError):  # also whatever it left behind
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - started
    texts = {}
    for name, file in files.items():
        file.seek(0)
        texts[name] = file.read(_KEPT_OUTPUT).decode("utf-8", "backslashreplace")
        file.close()
    events = tuple(dict.fromkeys(texts.get("events", "").splitlines()))
    code = os.waitstatus_to_exitcode(status) if ended else None
    return Outcome(code, texts["stdout"], texts["stderr"], seconds, usage.ru_maxrss / 1024, events)


# --- in the child ---------------------------------------------------------------------------------


def _enter(
    files: Mapping[str, IO[bytes]], folder: Path, environment: Mapping[str, str], typed: str
) -> None:
    """Standard streams, working directory, variables and limits of the child."""
    standard_input = os.memfd_create("input")
    os.write(standard_input, typed.encode())
    os.lseek(standard_input, 0, os.SEEK_SET)
    for number, descriptor in enumerate(
        (standard_input, files["stdout"].fileno(), files["stderr"].fileno())
    ):
        os.dup2(descriptor, number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.update(environment)
    with open("/proc/self/statm", encoding="ascii") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MORE_ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _call(main: Main, case: Case, events: IO[bytes]) -> int:
    """Call a main function as Python ends a program with it: the exit status."""
    sys.addaudithook(_listener(events.fileno()))
    sys.argv = [case.program, *case.arguments]
    try:
        result = main(list(case.arguments))
        status = result if isinstance(result, int) else 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 255


def _listener(descriptor: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes what an input must not bring about."""

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS or event in _CONNECTS:
            note(f"{event} {arguments!r:.300}")
        elif event == "compile" and arguments and arguments[0] is not None:
            source = arguments[0]
            source = source if isinstance(source, bytes) else str(source).encode(errors="replace")
            # Jinja compiles a template with its texts in it and runs it in a sandbox; had it come
            # out of that, the marker would be there.
            # Literals are read by compiling them, too, and never run.
            read_as_literal = sys._getframe(1).f_code.co_filename == ast.__file__
            if MARKER_WORD.encode() in source and not (
                source.startswith(_TEMPLATE) or read_as_literal
            ):
                note(f"evaluated {source[:200]!r}")

    def note(line: str) -> None:
        os.write(descriptor, (" ".join(line.split()) + "\n").encode(errors="replace"))

    return listen


def settle() -> None:
    """Before the first child: let garbage collection leave alone what all children share."""
    gc.collect()
    gc.freeze()


def remove(folder: Path) -> None:
    """Remove a folder, whatever an input or a program put there."""
    shutil.rmtree(folder, ignore_errors=True)
