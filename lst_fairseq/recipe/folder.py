"""The folder of a step: what it was made with, whether it is finished or in use, and what it has cost.

.settings      what decides the outcome: the command's flags and what it is made from, a line each
.done          the hash of .settings, once the command has come to its end
.step.lock     locked while the command runs
command.txt    the command, to be run by hand
cost.json      what it has cost so far (``attempt.Cost``), and in ``seconds`` the seconds of it
"""

import contextlib
import difflib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lst_fairseq.errors import RecipeError
from lst_fairseq.recipe.attempt import Cost
from lst_fairseq.utils.files import InUse, Lock, remove, replacing

LOCK = ".step.lock"
#: In which order a folder is cleared: first goes what says that a step has finished, last that one has begun.
_CLEARED = {".done": 0, ".settings": 2}
#: What a folder has beside what the command makes: the engine's files, logs, and the lock of fairseq-train.
_OWN = {
    ".settings",
    LOCK,
    "command.txt",
    "cost.json",
    "seconds",
    "train.log",
    "generate.log",
    ".lock",
}


class StepInUse(RecipeError):
    """Another run has the step's folder."""


@dataclass(frozen=True)
class StepFolder:
    """The folder of a step with some settings.

    Attributes:
        path: the folder; it need not be there.
        settings: what decides the outcome, a line each; see ``step.settings_of``.
    """

    path: Path
    settings: str

    def made_with(self) -> str | None:
        """Its .settings; None where no step has begun there."""
        return _text(self.path / ".settings")

    def is_ours(self) -> bool:
        """Whether it was begun with these settings, in whatever order."""
        there = self.made_with()
        return there is not None and _lines(there) == _lines(self.settings)

    def is_finished(self) -> bool:
        """Whether the step has come to its end with these settings."""
        text = self.made_with() if self.is_ours() else self.settings
        return (_text(self.path / ".done") or "").strip() == _hash(text or "")

    def is_untouched(self) -> bool:
        """Whether a step has begun there, and ended before it made anything."""
        if self.made_with() is None:
            return False
        others = [path for path in self.path.iterdir() if path.name not in _OWN]
        return not any(path.is_dir() or path.stat().st_size for path in others)

    def is_in_use(self) -> bool:
        """Whether a run has the folder now."""
        if not (self.path / LOCK).exists():
            return False
        try:
            self.hold().release()
        except StepInUse:
            return True
        return False

    def cost(self) -> Cost:
        """What the step has cost so far."""
        with contextlib.suppress(ValueError, TypeError):
            return Cost(**json.loads(_text(self.path / "cost.json") or ""))
        with contextlib.suppress(ValueError):  # of a version that noted no more
            return Cost(float(_text(self.path / "seconds") or ""), attempts=1)
        return Cost()

    def check(self) -> None:
        """Raise a RecipeError where the folder was made with other settings, which shows both."""
        if self.made_with() is None or self.is_ours():
            return
        before, now = _lines(self.made_with() or ""), _lines(self.settings)
        _, _, *compared = difflib.unified_diff(before, now, n=0, lineterm="")
        marks = {"-": "< ", "+": "> "}
        differing = [marks[line[0]] + line[1:] for line in compared if line[0] in marks]
        raise RecipeError(
            f"{self.path} was made with other settings (<) than these (>):\n"
            + "\n".join(differing)
            + "\ngive FORCE=1 to make it again, or another WORK to keep both"
        )

    def hold(self, descriptor: int | None = None) -> Lock:
        """Make the folder, and keep other runs out of it.

        Args:
            descriptor: of the lock's file, opened by the process that is to hold the lock.

        Raises:
            StepInUse: another run has it.
            RecipeError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return Lock(self.path / LOCK, str(self.path), "", descriptor)
        except InUse as error:
            raise StepInUse(
                f"{self.path} is being made by another run ({error.holder}): wait until that one has ended, "
                "or give this one another WORK"
            ) from None
        except OSError as error:
            raise RecipeError(
                f"{self.path} cannot be written ({error.strerror}): set WORK to a directory that can"
            ) from None

    def begin(self, command: str) -> None:
        """Note settings and command, as one would type it.

        Raises:
            OSError: they cannot be written.
        """
        _write(self.path / "command.txt", command)
        # What is there stays as it is, and with it the hash that later steps know.
        if self.made_with() is None:
            _write(self.path / ".settings", f"{self.settings}\n")

    def clear(self) -> None:
        """Remove what a step has left there, so that it is nobody's result at any moment.

        Raises:
            RecipeError: something cannot be removed.
        """
        for path in sorted(self.path.iterdir(), key=lambda path: _CLEARED.get(path.name, 1)):
            if path.name != LOCK:
                remove(path)
        if left := sorted(set(os.listdir(self.path)) - {LOCK}):
            raise RecipeError(
                f"{self.path / left[0]} cannot be removed: change its permissions, or set another WORK"
            )

    def note(self, cost: Cost) -> None:
        """Write down what the step has cost; a disk that is full is no reason to end it."""
        with contextlib.suppress(OSError):
            _write(self.path / "cost.json", json.dumps(asdict(cost)) + "\n")
            _write(self.path / "seconds", f"{int(cost.seconds)}\n")

    def finish(self) -> None:
        """Mark the step as finished.

        Raises:
            OSError: the mark cannot be written.
        """
        _write(self.path / ".done", _hash(self.made_with() or "") + "\n")


def _lines(settings: str) -> list[str]:
    """Settings by flag: their order does not decide, but of one that is given twice the last counts."""
    lines = re.split(r"\n(?=--)", settings.rstrip("\n"))
    return sorted(lines, key=lambda line: line.split(" ")[0])


def _hash(settings: str) -> str:
    return hashlib.sha256(_bytes(settings.rstrip("\n") + "\n")).hexdigest()


def _bytes(text: str) -> bytes:
    """With names of files that are no UTF-8 as they were given."""
    return text.encode("utf-8", "surrogateescape")


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_bytes(_bytes(text))


def _text(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes().decode("utf-8", "surrogateescape")
    return None
