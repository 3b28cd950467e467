"""The step engine: a command that fills a folder, once, and goes on where it was interrupted.

The folder has, beside what the command makes,

    .settings      what decides the outcome: the command's flags and what it is made from, a line each
    .done          the hash of .settings, once the command has come to its end
    .step.lock     locked while the command runs
    command.txt    the command, to be run by hand
    cost.json      what it has cost so far (``attempt.Cost``), and in ``seconds`` the seconds of it
"""

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from lst_fairseq.errors import RecipeError
from lst_fairseq.recipe.attempt import Cost, run_measured
from lst_fairseq.recipe.progress import TRANSLATIONS, Tail, last_words, training_line
from lst_fairseq.utils.files import InUse, Lock, remove, replacing

TRAIN, GENERATE = "fairseq-train", "fairseq-generate"
#: In a command, behind what decides its outcome: where it runs, reads and writes, how often it saves.
NOT_COMPARED = "--not-compared"
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
        settings: what decides the outcome, a line each; see ``settings_of``.
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

    def begin(self, command: Sequence[str]) -> None:
        """Note settings and command.

        Raises:
            OSError: they cannot be written.
        """
        _write(self.path / "command.txt", as_typed(command))
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


@dataclass(frozen=True)
class Step:
    """A command that fills a folder.

    Attributes:
        folder: to fill.
        command: program and arguments; ``NOT_COMPARED`` among them stands before those that decide nothing.
        made_from: what else decides the outcome, as hashes of what the command reads.
        name: for people, in lines of progress.
        title: what is said as it begins.
        launcher: what takes the place of the command ``fairseq-train``: torchrun or srun with their arguments.
    """

    folder: Path
    command: Sequence[str]
    made_from: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    title: str = ""
    launcher: Sequence[str] = (TRAIN,)

    @cached_property
    def place(self) -> StepFolder:
        """The folder with the step's settings."""
        return StepFolder(self.folder, settings_of(self.command, self.made_from))

    @property
    def program(self) -> str:
        """The name of the command's program, wherever it lies."""
        return Path(self.command[0]).name

    @property
    def launched(self) -> list[str]:
        """The command as it is run."""
        program, *arguments = (word for word in self.command if word != NOT_COMPARED)
        return [*(self.launcher if program == TRAIN else [program]), *arguments]

    def run(
        self, force: bool = False, follower: bool = False, descriptor: int | None = None
    ) -> int:
        """Run the command unless it has come to its end before.

        Args:
            force: run it from the start, whatever is there.
            follower: another node runs the step; this one takes part and leaves the folder alone.
            descriptor: of the file ``LOCK`` in the folder, opened by whoever is to hold the lock from now on.

        Returns:
            The command's exit status, 0 where there was nothing to do.

        Raises:
            StepInUse: another run has the folder.
            RecipeError: nothing says what decides the outcome, the folder was made with other settings
                or cannot be written, or one of fairseq's commands failed.
        """
        if not self.place.settings:
            raise RecipeError(
                f"{self.folder}: the command has no flags that could be compared: say what decides its outcome "
                "(--made-from KEY=VALUE)"
            )
        if shutil.which(self.launched[0]) is None:
            raise RecipeError(
                f"{self.launched[0]}: no such command; check its name, or activate its environment"
            )
        if self._is_done(force):
            print(f"== done already: {self.folder}", flush=True)
            return 0
        if follower:
            self._follow()
        lock = self.place.hold(descriptor)
        try:
            # Looked at again: another run may have had the folder until now.
            return 0 if self._is_done(force) else self._make(lock, force)
        finally:
            lock.release()

    def _is_done(self, force: bool) -> bool:
        if force and self.place.made_with() is not None:
            return False
        if self.place.is_finished():
            return True
        if not self.place.is_untouched():
            self.place.check()
        return False

    def _follow(self) -> NoReturn:
        if self.program != TRAIN:
            raise RecipeError(
                f"{self.folder}: only training takes several nodes: run this step on one alone"
            )
        print(f"== {self.title}", flush=True)
        os.execvp(self.launched[0], [*self.launched, "--log-format", "none"])

    def _make(self, lock: Lock, force: bool) -> int:
        begun = self.place.made_with() is not None
        if begun and (force or not self.place.is_ours()):
            self.place.clear()
        self.place.begin(self.launched)
        if self.title:
            print(f"== {self.title}", flush=True)
        run = {TRAIN: self._train, GENERATE: self._generate}.get(self.program, self._run)
        status = run(lock)
        if status == 0:
            self.place.finish()
        # This one is the engine's own, for a folder that is in use.
        return 1 if status == os.EX_TEMPFAIL else status

    def _run(self, lock: Lock, **options: Any) -> int:
        before = self.place.cost()
        os.set_inheritable(
            lock.fileno(), True
        )  # others stay out until all that the command starts has ended
        status = run_measured(
            self.launched, lambda cost: self.place.note(before + cost), close_fds=False, **options
        )
        if status >= 0:
            return status
        name = signal.Signals(-status).name
        why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        print(f"{self.program} was ended by {name}{why}", file=sys.stderr)
        return 128 - status

    def _train(self, lock: Lock) -> int:
        """Training's output goes to train.log, after that of earlier attempts."""
        log = self.folder / "train.log"
        began, before = time.monotonic(), self.place.cost().seconds
        updates = value_of(self.command, "--max-update", "?")
        with open(log, "ab") as output, Tail(log) as tail:

            def look() -> None:
                for line in tail:
                    seconds = before + time.monotonic() - began
                    if short := training_line(line, updates, seconds):
                        print(f"   {self.name}: {short}", flush=True)

            start = output.tell()
            status = self._run(lock, look=look, stdout=output, stderr=subprocess.STDOUT)
        if status:
            print(*last_words(log, start), sep="\n", file=sys.stderr)
            raise RecipeError(
                f"{TRAIN} failed ({self.name}); all of its output is in {log}; "
                "the same command goes on where it stopped"
            )
        print(f"== {self.name}: trained in {time.monotonic() - began:.0f} s", flush=True)
        return 0

    def _generate(self, lock: Lock) -> int:
        """Translations go to generate-SPLIT.txt, the rest of what is said to generate.log."""
        split = value_of(self.command, "--gen-subset", "test")
        manifest = Path(*self.command[1:2], f"{split}.tsv")
        segments = manifest.read_bytes().count(b"\n") - 1 if manifest.is_file() else "?"
        translations, log = self.folder / f"generate-{split}.txt", self.folder / "generate.log"
        done = 0
        print(f"== translating {split}: {segments} segments", flush=True)
        with (
            open(translations, "wb") as output,
            open(log, "wb") as errors,
            Tail(translations) as tail,
        ):

            def look() -> None:
                nonlocal done
                for _ in filter(lambda line: line.startswith("T-"), tail):
                    done += 1
                    if done % TRANSLATIONS == 0:
                        print(f"   {done} of {segments}", flush=True)

            status = self._run(lock, look=look, stdout=output, stderr=errors)
        if status:
            print(*last_words(log), sep="\n", file=sys.stderr)
            raise RecipeError(
                f"{GENERATE} failed; all of its output is in {log} and {translations}"
            )
        return 0


def settings_of(command: Sequence[str], made_from: Mapping[str, str]) -> str:
    """What decides a command's outcome: its flags with their values and what it is made from, a line each.

    Words before the first flag, such as the data's folder, and what stands behind ``NOT_COMPARED`` are left out.
    """
    compared = itertools.takewhile(lambda word: word != NOT_COMPARED, command)
    _, *flags = _by_flag(compared)
    return "\n".join(
        [*map(" ".join, flags), *(f"--{key} {text}" for key, text in made_from.items())]
    )


def value_of(command: Sequence[str], flag: str, default: str) -> str:
    """The value of a flag as argparse takes it, which is the last one's."""
    given = [after for word, after in itertools.pairwise(command) if word == flag]
    given += [word.partition("=")[2] for word in command if word.startswith(f"{flag}=")]
    return given[-1] if given else default


def as_typed(command: Sequence[str]) -> str:
    """A command for a shell, a flag a line."""
    return " \\\n    ".join(map(shlex.join, _by_flag(command))) + "\n"


def _by_flag(command: Iterable[str]) -> list[list[str]]:
    """A command's words before its first flag, and each flag with its values."""
    parts: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--"):
            parts.append([])
        parts[-1].append(word)
    return parts


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
