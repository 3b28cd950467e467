"""Running a study: what can run does, N at once; what fails is noted and the rest goes on.

Each step is one of the step engine's (``recipe/step.py``), whose command is one of the recipe's scripts: it is never
run again once it has finished, and goes on where a killed one stopped. Several processes, on one machine or on several
with a common file system, may run one study: the engine locks a step, and outlives the runner.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lst_fairseq.recipe.location import checkout, lst_command, recipe_settings
from lst_fairseq.study.cells import Plan, Step
from lst_fairseq.study.grid import Arm, Study
from lst_fairseq.study.progress import finished, inspect, last_lines, made_otherwise, read_cost

#: As the step engine says how far a training is, or a translation.
_PROGRESS = re.compile(r"^ {3}(\S.*update \d+ of \S+ .*|\d+ of \d+)$", re.MULTILINE)


@dataclass
class Running:
    """A step that runs now."""

    step: Step
    process: subprocess.Popen
    slot: int
    started: float


@dataclass(frozen=True)
class Failure:
    """A step that failed, with the end of its log."""

    step: Step
    lines: str


class Runner:
    """Runs a study's steps.

    Args:
        plan: of the study.
        arms: those to run.
        jobs: steps at once.
        gpus: ids of GPUs that the steps take in turn, one each; empty: whatever CUDA_VISIBLE_DEVICES says.
        say: takes lines of progress.
        every: seconds between two lines about what is running.
        poll: seconds between two looks for what other processes have finished.
    """

    def __init__(
        self,
        plan: Plan,
        arms: Sequence[Arm],
        jobs: int = 1,
        gpus: Sequence[str] = (),
        say: Callable[[str], None] = print,
        every: float = 60,
        poll: float = 5,
    ):
        self.plan, self.arms, self.jobs, self.gpus, self.say = plan, arms, jobs, gpus, say
        self.every, self.poll = every, poll
        self.running: list[Running] = []
        self.failures: list[Failure] = []
        self._failed: set[Step] = set()
        self._spoke = time.monotonic()

    def run(self) -> list[Failure]:
        """Run until nothing is left that can; returns what failed. Stops its steps when it is interrupted."""
        try:
            while self._start_what_can() or self.running:
                looked = time.monotonic()
                # A slot that is free waits for a step that another process has.
                while not self._reap() and (self.running or time.monotonic() - looked < self.poll):
                    if time.monotonic() - self._spoke >= self.every:
                        self._report_running()
                    if len(self.running) < self.jobs and time.monotonic() - looked >= self.poll:
                        break
                    time.sleep(min(0.1, self.poll))
        finally:
            self._stop()
        return self.failures

    def _is_failed(self, step: Step) -> bool:
        return step in self._failed or any(self._is_failed(need) for need in step.needs)

    def _start_what_can(self) -> bool:
        """Fill the free slots; whether anything is left to do, here or elsewhere."""
        waiting = False
        for arm in self.arms:
            state = inspect(self.plan, arm, self._is_failed)
            for last in state.wanted:
                for step in last.with_needs():
                    if finished(step) or self._is_failed(step):
                        continue
                    waiting = True
                    if len(self.running) >= self.jobs:
                        return True
                    if all(map(finished, step.needs)) and not any(r.step == step for r in self.running):
                        self._start(step)
        return waiting

    def _start(self, step: Step) -> None:
        """Start a step, unless another process has it."""
        if step.place.is_in_use() or finished(step):
            return
        step.place.path.mkdir(parents=True, exist_ok=True)
        before = read_cost(step)
        if before and not step.place.is_ours():  # noted by a version before the step engine
            step.place.note(before)
        for name, target in step.links.items():
            with contextlib.suppress(FileExistsError):
                (step.work / name).symlink_to(os.path.relpath(target, step.work))
        taken = {running.slot for running in self.running}
        slot = next(number for number in range(self.jobs) if number not in taken)
        command = [*lst_command(sys.executable), "step", str(step.place.path), "--made-from", f"key={step.key}"]
        stale = made_otherwise(step)
        command += ["--force"] if stale else []
        with open(step.log, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*command, "--", "bash", "-c", _script(step, stale)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(step, slot),
                start_new_session=True,
            )
        self.running.append(Running(step, process, slot, time.monotonic()))
        self.say(f"start   {step.kind}: {step.name}")

    def _environment(self, step: Step, slot: int) -> dict[str, str]:
        """The user's environment without stray settings of the recipe, with the step's own."""
        known = {*recipe_settings(), "SETTINGS"}
        environment = {name: value for name, value in os.environ.items() if name not in known}
        environment |= step.environment
        # `lst` and fairseq's commands lie beside an environment's interpreter, active or not.
        beside = Path(sys.executable).parent
        if (beside / "lst").exists():
            path = environment.get("PATH", os.defpath)
            environment["PATH"] = os.pathsep.join([str(beside), path])
        threads = max(1, len(os.sched_getaffinity(0)) // self.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _reap(self) -> bool:
        """Note what has ended; whether anything has."""
        before = len(self.running)
        for running in list(self.running):
            code = running.process.poll()
            if code is None:
                continue
            self.running.remove(running)
            seconds = time.monotonic() - running.started
            if code == os.EX_TEMPFAIL:  # another process was faster; it is waited for
                continue
            if code:
                self._failed.add(running.step)
                self.failures.append(Failure(running.step, last_lines(running.step.log)))
                self.say(f"FAILED  {running.step.kind}: {running.step.name}; the rest goes on; {running.step.log}")
            else:
                self.say(f"done    {running.step.kind}: {running.step.name}, {duration(seconds)}; {self._left()}")
        return len(self.running) < before

    def _report_running(self) -> None:
        self._spoke = time.monotonic()
        for running in self.running:
            seconds = duration(self._spoke - running.started)
            said = _PROGRESS.findall(last_lines(running.step.log, 20))
            progress = f"{said[-1]}, " if said else ""
            self.say(f"running {running.step.kind}: {running.step.name}, {progress}{seconds}; {self._left()}")

    def _left(self) -> str:
        """``12 steps left, about 40 min``."""
        left: list[Step] = []
        for arm in self.arms:
            for last in inspect(self.plan, arm, self._is_failed).planned:
                left += [s for s in last.with_needs() if s not in left and not finished(s) and not self._is_failed(s)]
        seconds = time_left(self.plan, left, {r.step: time.monotonic() - r.started for r in self.running}, self.jobs)
        return f"{len(left)} steps left" + (f", about {duration(seconds)}" if seconds is not None and left else "")

    def _stop(self) -> None:
        """End what still runs: the scripts and all that they started; it goes on from its checkpoints next time."""
        for running in self.running:
            os.killpg(running.process.pid, signal.SIGTERM)
        for running in self.running:
            running.process.wait()
        self.running.clear()


def time_left(plan: Plan, left: Sequence[Step], running: Mapping[Step, float], jobs: int) -> float | None:
    """Seconds that steps will take, by the mean of those of their kind that have finished; None: nothing to go by.

    Args:
        plan: whose cells have the finished ones.
        left: steps to do, with those that run.
        running: seconds that those have run for.
        jobs: steps at once.
    """
    known: dict[str, list[float]] = {}
    for step in dict.fromkeys(step for cell in plan.cells() for step in cell.steps.values()):
        if finished(step) and (cost := read_cost(step)):
            known.setdefault(step.kind, []).append(cost.seconds)
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in known.items()}
    if not means or any(step.kind not in means for step in left):
        return None
    total = sum(max(0.0, means[step.kind] - running.get(step, 0.0)) for step in left)
    return total / min(jobs, max(1, len(left)))


def _script(step: Step, stale: bool) -> str:
    """The step's commands and files as one bash script.

    Args:
        step: to run.
        stale: what is there was made with other settings; translations by another beam, say, are removed.
    """
    first, *others = step.commands
    lines = ["set -euo pipefail", first]
    if stale:
        splits = step.environment.get("SPLITS", "").split()
        made = [str(path) for split in splits for path in (step.work / "hypotheses").glob(f"*/{split}")]
        lines.insert(1, shlex.join(["rm", "-rf", "--", *made]))
    for name, text in step.files.items():
        lines.append(f"cat >{shlex.quote(str(step.work / name))} <<'END_OF_FILE'\n{text}END_OF_FILE")
    return "\n".join([*lines, *others])


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def slurm_script(
    study_file: Path, study: Study, out: Path, python: str, options: str = "", rehearse: bool = False
) -> str:
    """A Slurm job array with an arm a task, each its whole search and all its seeds; tasks wait for shared steps.

    Args:
        study_file: what ``study`` was read from.
        study: what to run, or its rehearsal.
        out: folder of all that it makes.
        python: interpreter of the tasks.
        options: of sbatch, such as ``gpus=1;time=8:00:00``.
        rehearse: ``study`` is a rehearsal.
    """
    directives = "".join(f"#SBATCH --{option.strip()}\n" for option in options.split(";") if option.strip())
    arguments = [str(study_file), "--out", str(out), *(["--rehearse"] if rehearse else [])]
    command = shlex.join([*lst_command(python), "study", *arguments])
    own = checkout()
    path = f"export PYTHONPATH={shlex.quote(str(own))}${{PYTHONPATH:+:$PYTHONPATH}}\n" if own else ""
    arms = "\n".join(f"#   {number}  {arm.label}" for number, arm in enumerate(study.arms))
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={study.name}
#SBATCH --array=0-{len(study.arms) - 1}
#SBATCH --output={out}/slurm-%a.log
{directives}# One task an arm of the study:
{arms}
# A task that was ended goes on where it stopped when it is submitted again. Afterwards, for the report:
#   {command} --report
set -euo pipefail
{path}exec {command} --arm "$SLURM_ARRAY_TASK_ID" --jobs 1
"""
