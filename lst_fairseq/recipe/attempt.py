"""One run of a step's command, and what it uses, noted while it runs."""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds between two notes, at most, of what a command has used, which are all that is known of one that is killed.
NOTE_EVERY = 5.0
#: Seconds between two looks at what it has said.
LOOK_EVERY = 0.2
#: Seconds that an interrupted command has to end by itself.
TIDIES_UP = 5.0


@dataclass(frozen=True)
class Cost:
    """What a step has cost, over all of its attempts.

    Attributes:
        seconds: by the wall clock.
        cpu_seconds: user and system time of all processes.
        peak_memory_gib: resident memory of the largest process.
        attempts: how often the command was started.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_gib: float = 0.0
    attempts: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            round(self.seconds + other.seconds, 2),
            round(self.cpu_seconds + other.cpu_seconds, 2),
            round(max(self.peak_memory_gib, other.peak_memory_gib), 3),
            self.attempts + other.attempts,
        )


def run_measured(
    command: Sequence[str],
    note: Callable[[Cost], None],
    look: Callable[[], None] = lambda: None,
    **popen: Any,
) -> int:
    """Run a command to its end, or end it with SIGTERM where this process is to end before.

    It has to be the first that this process runs: the kernel adds up what all its children used, and
    counts as a child's peak the memory of the process that started it, which should be small.

    Args:
        command: program and arguments.
        note: takes what the command has used so far: often at first, then every ``NOTE_EVERY`` seconds, and at the end.
        look: called every ``LOOK_EVERY`` seconds, and at the end.
        popen: of ``subprocess.Popen``.

    Returns:
        The exit status; negative: the signal that killed it.
    """
    began = noted = time.monotonic()
    process = subprocess.Popen(command, **popen)
    try:
        note(_used(began))
        while process.poll() is None:
            look()
            now = time.monotonic()
            if now >= noted + min(NOTE_EVERY, (now - began) / 2):
                noted = now
                note(_used(began))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY)
    except KeyboardInterrupt:  # of which a terminal has told the command as well
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TIDIES_UP)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        note(_used(began))
        look()
    return process.returncode


def _used(began: float) -> Cost:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = ended.ru_utime + ended.ru_stime + _cpu_seconds_of_running()
    return Cost(time.monotonic() - began, cpu_seconds, ended.ru_maxrss / 2**20, 1)


def _cpu_seconds_of_running() -> float:
    """Of this process's descendants that run, with those that these have waited for; 0 without /proc."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            process = int(path.parent.name)
            parents[process] = int(fields[1])
            ticks[process] = sum(map(int, fields[11:15]))

    def is_own(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == os.getpid() or (parent > 1 and is_own(parent))

    return sum(ticks[process] for process in parents if is_own(process)) / os.sysconf("SC_CLK_TCK")
