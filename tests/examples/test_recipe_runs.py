"""Steps of the recipe that meet each other, that are killed, and whose clock is set."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.recipe import RECIPE, Sandbox, wait_for

#: Says what it has done before and after a while, and then goes on for ever.
SLOW = """\
while [[ $# -gt 0 ]]; do [[ $1 == --save-dir ]] && dir=$2; shift; done
line="2026-01-01 | INFO | train_inner | epoch 001: 50 / 90 loss=4.5, ppl=9, num_updates=50, wall=7"
echo "$line"; sleep 2; echo "$line"; echo weights >"$dir/checkpoint_last.pt"; sleep 60
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@contextmanager
def started(sandbox: Sandbox, script: str, **settings: str) -> Iterator[subprocess.Popen]:
    """A script of the recipe that runs; killed with all that it has started at the end of the
    block.
    """
    process = subprocess.Popen(
        ["bash", str(RECIPE / f"{script}.sh")],
        env={**sandbox.settings, **settings},
        cwd=sandbox.root,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def slow_training(sandbox: Sandbox) -> str:
    """Make the stub a slow one; what it was."""
    command = sandbox.root / "env" / "bin" / "fairseq-train"
    before = command.read_text()
    command.write_text("#!/usr/bin/env bash\n" + SLOW)
    return before


def test_two_runs_in_one_folder(sandbox: Sandbox) -> None:
    """The second is refused in a line; other systems may be trained there; a killed one is in
    nobody's way.
    """
    before = slow_training(sandbox)
    stage1 = sandbox.work / "stage1"
    with started(sandbox, "run") as first:
        wait_for(
            lambda: (stage1 / "train.log").exists() and (stage1 / "train.log").stat().st_size > 0
        )
        log = (stage1 / "train.log").read_bytes()
        said = sandbox.run("run", fails=True).splitlines()
        assert said[0] == f"== done already: {sandbox.work}/data"
        assert re.fullmatch(
            rf"error: {stage1} is being made by another run \(process \d+ on .+\): "
            "wait until that one has ended, or give this one another WORK",
            said[1],
        )
        assert len(said) == 2 and (stage1 / "train.log").read_bytes().startswith(log)
        assert "is being made by another run" in sandbox.run("stage1", fails=True, FORCE="1")
        assert (stage1 / "train.log").exists()  # which FORCE would have removed
        (sandbox.root / "env" / "bin" / "fairseq-train").write_text(before)
        sandbox.run("stage2", ONE_STAGE="1")
        assert first.poll() is None
    assert sandbox.run("run").endswith("== tst-HE\n")


def test_what_a_script_has_made_is_nobody_elses_until_it_ends(sandbox: Sandbox) -> None:
    """The features of a baseline that trains are not made anew under its hands."""
    slow_training(sandbox)
    sandbox.run("prep")
    settings = {"BASELINE_UPDATES": "10", "BASELINE_PRETRAIN": "0"}
    features = sandbox.work / "baseline" / "data"
    with started(sandbox, "baseline", **settings):
        wait_for((sandbox.work / "baseline" / "model" / "train.log").exists)
        said = sandbox.run("baseline", fails=True, FORCE="1", **settings)
        assert said.startswith(f"error: {features} is being made by another run (process ")
        assert (features / ".done").exists()


def test_seconds_of_a_killed_training_count(sandbox: Sandbox) -> None:
    before = slow_training(sandbox)
    sandbox.run("prep")
    seconds = sandbox.work / "stage1" / "seconds"
    with started(sandbox, "stage1"):
        wait_for((sandbox.work / "stage1" / "checkpoint_last.pt").exists)
        wait_for(lambda: int(seconds.read_text()) >= 1)
    noted = int(seconds.read_text())
    (sandbox.root / "env" / "bin" / "fairseq-train").write_text(before)
    sandbox.run("stage1", TRAIN_SECONDS="1.1")
    assert int(seconds.read_text()) >= noted + 1
    assert sorted(path.name for path in seconds.parent.glob("seconds*")) == ["seconds"]


def test_a_note_that_was_cut_short_is_no_number(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    (sandbox.work / "stage1").mkdir()
    (sandbox.work / "stage1" / "seconds").write_text("")
    sandbox.run("stage1")
    assert int((sandbox.work / "stage1" / "seconds").read_text()) < 60


def test_no_time_of_day_decides_what_is_scored_again(sandbox: Sandbox) -> None:
    """Translations that are made again are scored again, and others are not, however the clock was
    set between.
    """
    tuning = {"TUNE_BEAMS": "1 4"}
    for script in ("prep", "stage1", "stage2"):
        sandbox.run(script)
    sandbox.run("generate", **tuning)
    scored = len(sandbox.calls("score"))
    future = time.time() + 1e6
    for path in sandbox.work.glob("hypotheses/*/*/dev/.done"):
        os.utime(path, (future, future))
    sandbox.run("generate", **tuning)
    assert len(sandbox.calls("score")) - scored == 2  # the test splits
    for path in sandbox.work.glob("tuning/*/*.json"):
        os.utime(path, (future, future))
    sandbox.run("generate", **tuning, FORCE="1")
    assert len(sandbox.calls("score")) - scored == 2 + 4
