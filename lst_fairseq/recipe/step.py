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
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from lst_fairseq.errors import RecipeError
from lst_fairseq.recipe.attempt import Cost, run_measured
from lst_fairseq.recipe.progress import TRANSLATIONS, Tail, lost_process, training_line
from lst_fairseq.utils.files import InUse, Lock, remove, replacing

TRAIN, GENERATE = "fairseq-train", "fairseq-generate"
LOCK = ".step.lock"
#: Lines of a failed command's log that are shown.
LOG_LINES = 3
# Flags that decide nothing of the outcome: where a command runs, reads and writes, how often it saves, what it says.
_ELSEWHERE = set(
    "--user-dir --cpu --num-workers --out --save-dir --no-epoch-checkpoints --save-interval --validate-interval "
    "--save-interval-updates --keep-interval-updates --log-format --log-interval --log-file --tensorboard-logdir "
    "--startup-timeout --lost-process-timeout".split()
)
#: And those that name files of steps before, whose hashes are among what a step is made from.
_READ = {
    TRAIN: {"--finetune-from-model"},
    GENERATE: {"--path", "--gen-subset", "--required-batch-size-multiple", "--scoring"},
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
        compared = difflib.ndiff(_lines(self.made_with() or ""), _lines(self.settings))
        marks = {"-": "<", "+": ">"}
        differing = [marks[line[0]] + line[1:] for line in compared if line[0] in marks]
        raise RecipeError(
            f"{self.path} was made with other settings (<) than these (>):\n"
            + "\n".join(differing)
            + "\ngive FORCE=1 to make it again, or another WORK to keep both"
        )

    def hold(self) -> Lock:
        """Make the folder, and keep other runs out of it.

        Raises:
            StepInUse: another run has it.
            RecipeError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return Lock(self.path / LOCK, str(self.path), "")
        except InUse as error:
            raise StepInUse(
                f"{self.path} is being made by another run ({error.holder}): wait until that one has ended, "
                "or give this one another WORK"
            ) from None
        except OSError as error:
            raise RecipeError(
                f"{self.path} cannot be written ({error.strerror}): set WORK to a directory that can"
            ) from None

    def begin(self, command: Sequence[str], force: bool) -> None:
        """Note settings and command; with ``force``, remove what a step has left there before."""
        if force:
            for path in self.path.iterdir():
                if path.name != LOCK:
                    remove(path)
        _write(self.path / "command.txt", as_typed(command))
        # What is there stays as it is, and with it the hash that later steps know.
        if self.made_with() is None:
            _write(self.path / ".settings", f"{self.settings}\n")

    def note(self, cost: Cost) -> None:
        """Write down what the step has cost; a disk that is full is no reason to end it."""
        with contextlib.suppress(OSError):
            _write(self.path / "cost.json", json.dumps(asdict(cost)) + "\n")
            _write(self.path / "seconds", f"{int(cost.seconds)}\n")

    def finish(self) -> None:
        """Mark the step as finished."""
        _write(self.path / ".done", _hash(self.made_with() or "") + "\n")


@dataclass(frozen=True)
class Step:
    """A command that fills a folder.

    Attributes:
        folder: to fill.
        command: program and arguments.
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
        by_name = self.command[0] == TRAIN
        return [*(self.launcher if by_name else self.command[:1]), *self.command[1:]]

    def run(self, force: bool = False, follower: bool = False) -> int:
        """Run the command unless it has come to its end before.

        Args:
            force: run it from the start, whatever is there.
            follower: another node runs the step; this one takes part and leaves the folder alone.

        Returns:
            The command's exit status, 0 where there was nothing to do.

        Raises:
            RecipeError: the folder was made with other settings, cannot be written or is in use, or
                one of fairseq's commands failed.
        """
        place = self.place
        force = force and place.made_with() is not None
        if not force:
            place.check()
        if not force and place.is_finished():
            print(f"== done already: {self.folder}", flush=True)
            return 0
        if follower:
            if self.program != TRAIN:
                raise RecipeError(
                    f"{self.folder}: only training takes several nodes: run this step on one alone"
                )
            os.execvp(self.launched[0], [*self.launched, "--log-format", "none"])
        lock = place.hold()
        try:
            return self._make(lock, force)
        finally:
            lock.release()

    def _make(self, lock: Lock, force: bool) -> int:
        if not force:  # again: another run may have had the folder until now
            self.place.check()
            if self.place.is_finished():
                return 0
        self.place.begin(self.launched, force)
        if self.title:
            print(f"== {self.title}", flush=True)
        run = {TRAIN: self._train, GENERATE: self._generate}.get(self.program, self._run)
        status = run(lock)
        if status == 0:
            self.place.finish()
        return status

    def _run(self, lock: Lock, **options: object) -> int:
        before = self.place.cost()
        status = run_measured(
            self.launched,
            lambda cost: self.place.note(before + cost),
            pass_fds=(lock.fileno(),),  # so that others stay out until all that it starts has ended
            **options,
        )
        return status if status >= 0 else 128 - status

    def _train(self, lock: Lock) -> int:
        """Training's output goes to train.log, after that of earlier attempts."""
        log = self.folder / "train.log"
        began, before = time.monotonic(), self.place.cost().seconds
        updates = value_of(self.command, "--max-update", "?")
        with open(log, "ab") as output:
            tail, said = Tail(log), Tail(log)

            def look() -> None:
                for line in tail:
                    seconds = before + time.monotonic() - began
                    if short := training_line(line, updates, seconds):
                        print(f"   {self.name}: {short}", flush=True)

            status = self._run(lock, look=look, stdout=output, stderr=subprocess.STDOUT)
        if status:
            lines = list(said)
            lost = lost_process(lines)
            print(*([lost] if lost else []), *lines[-LOG_LINES:], sep="\n", file=sys.stderr)
            raise RecipeError(
                f"{TRAIN} failed ({self.name}); all of its output is in {log}; "
                "the same command goes on where it stopped"
            )
        print(f"== {self.name}: trained in {self.place.cost().seconds - before:.0f} s", flush=True)
        return 0

    def _generate(self, lock: Lock) -> int:
        """Translations go to generate-SPLIT.txt, the rest of what is said to generate.log."""
        split = value_of(self.command, "--gen-subset", "test")
        manifest = Path(self.command[1], f"{split}.tsv")
        segments = manifest.read_bytes().count(b"\n") - 1
        translations, log = self.folder / f"generate-{split}.txt", self.folder / "generate.log"
        done = 0
        print(f"== translating {split}: {segments} segments", flush=True)
        with open(translations, "wb") as output, open(log, "wb") as errors:
            tail = Tail(translations)

            def look() -> None:
                nonlocal done
                for _ in filter(lambda line: line.startswith("T-"), tail):
                    done += 1
                    if done % TRANSLATIONS == 0:
                        print(f"   {done} of {segments}", flush=True)

            status = self._run(lock, look=look, stdout=output, stderr=errors)
        if status:
            print(*(_text(log) or "").splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)
            raise RecipeError(
                f"{GENERATE} failed; all of its output is in {log} and {translations}"
            )
        return 0


def settings_of(command: Sequence[str], made_from: Mapping[str, str]) -> str:
    """What decides a command's outcome: its flags with their values and what it is made from, a line each.

    Words before the first flag, such as the data's folder, and flags that decide nothing are left out.
    """
    ignored = _READ.get(Path(command[0]).name, set())
    _, *flags = _by_flag(command)
    kept = [" ".join(words) for words in flags if words[0].partition("=")[0] not in ignored]
    return "\n".join(
        [*filter(_decides, kept), *(f"--{key} {text}" for key, text in made_from.items())]
    )


def value_of(command: Sequence[str], flag: str, default: str) -> str:
    """The value of a flag as argparse takes it, which is the last one's."""
    given = [after for word, after in itertools.pairwise(command) if word == flag]
    given += [word.partition("=")[2] for word in command if word.startswith(f"{flag}=")]
    return given[-1] if given else default


def as_typed(command: Sequence[str]) -> str:
    """A command for a shell, a flag a line."""
    return " \\\n    ".join(map(shlex.join, _by_flag(command))) + "\n"


def _by_flag(command: Sequence[str]) -> list[list[str]]:
    """A command's words before its first flag, and each flag with its values."""
    parts: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--"):
            parts.append([])
        parts[-1].append(word)
    return parts


def _decides(line: str) -> bool:
    return re.split("[ =\n]", line)[0] not in _ELSEWHERE


def _lines(settings: str) -> list[str]:
    """What decides, sorted, since the order of flags does not; of one that is given twice, the last counts."""
    lines = filter(_decides, re.split(r"\n(?=--)", settings.rstrip("\n")))
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
