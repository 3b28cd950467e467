"""The step engine: a command that fills a folder, once, and goes on where it was interrupted."""

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from lst_fairseq.errors import RecipeError
from lst_fairseq.recipe.attempt import run_measured
from lst_fairseq.recipe.folder import StepFolder
from lst_fairseq.recipe.progress import TRANSLATIONS, Tail, last_words, training_line
from lst_fairseq.utils.files import Lock

TRAIN, GENERATE = "fairseq-train", "fairseq-generate"
#: In a command, behind what decides its outcome: where it runs, reads and writes, how often it saves.
NOT_COMPARED = "--not-compared"


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
        self.place.begin(as_typed(self.launched))
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
