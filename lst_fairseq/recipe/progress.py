"""What fairseq's commands say while they run, in short lines."""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from lst_fairseq.evaluation.training_curve import TRAINING, logged_losses

#: Lines of a failed command's log that are shown.
LOG_LINES = 3
#: Translations between two lines of progress.
TRANSLATIONS = 100
#: Of a training's log, what is shown besides losses.
_WORTH_SHOWING = re.compile(
    r"encoding [0-9,]+ segments|loading pretrained model from|Loaded checkpoint|skipped|nothing is left to train|"
    r"WARNING.*segments"
)
#: How this package, srun and torchrun name a process that ended of itself...
_LOST = re.compile(r"(^error|LostProcess): rank \d|^srun: error: .*task")
#: ... and torchrun behind this line alone: before it stand those that it has stopped.
_ROOT_CAUSE, _OF_ROOT_CAUSE = "Root Cause", re.compile(r"  rank +: \d")


class Tail:
    """The lines that a file gets from now on, also where it is moved away or emptied meanwhile.

    Args:
        path: the file, which is there.
    """

    def __init__(self, path: Path):
        self._file, self._rest = path.open("rb"), b""
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> "Tail":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        """Whole lines that have come since the last look; none while the file cannot be read."""
        lines: list[bytes] = []
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_size < self._file.tell():
                self._file.seek(0)
            *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return iter([line.decode("utf-8", "replace") for line in lines])


def training_line(line: str, updates: str, seconds: float) -> str | None:
    """A line of fairseq-train's log as one of progress, or None.

    Args:
        line: of the log.
        updates: at which training ends, ``?`` where time decides.
        seconds: that it has taken, over all attempts; fairseq's own ``wall`` starts anew with each.
    """
    found = logged_losses(line)
    if found is None:
        return line.rpartition("| ")[2] if _WORTH_SHOWING.search(line) else None
    tag, values = found
    done, loss = (
        f"{values[key]:.10g}" if key in values else "?" for key in ("num_updates", "loss")
    )
    if tag != TRAINING:
        return f"{tag} loss {loss}"
    return f"update {done} of {updates}, loss {loss}, {seconds:.0f} s"


def last_words(log: Path, start: int = 0) -> list[str]:
    """The last lines of a failed command's log, behind what it says of the process that was lost first.

    Args:
        log: of it.
        start: bytes of the log that earlier attempts have written.
    """
    lost, last = lost_process(_lines(log, start)), deque(_lines(log, start), LOG_LINES)
    return [*([lost] if lost else []), *last]


def lost_process(log: Iterable[str]) -> str | None:
    """What a log says of the process that was lost first, of several that trained together."""
    root_cause = False
    for line in log:
        root_cause |= line.startswith(_ROOT_CAUSE)
        if _LOST.search(line) or (root_cause and _OF_ROOT_CAUSE.match(line)):
            return line
    return None


def _lines(log: Path, start: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), open(log, "rb") as file:
        file.seek(start)
        for line in file:
            yield line.decode("utf-8", "replace").rstrip("\n")
