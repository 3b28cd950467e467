"""A process that is killed, or stands still, in mid-step."""

import os
import signal
import time

import pytest

from tests.support.ranks import SAVING, Harm, read, run_ranks, start_ranks
from tests.support.running import differences, read_checkpoint

TIMEOUT = 3.0
SETTINGS = {**SAVING, "max_update": 5, "lost_process_timeout": TIMEOUT}


@pytest.mark.slow
def test_a_killed_process_is_named_and_training_goes_on(corpus, backbones, tmp_path):
    """Rank 1 dies at the start of the fourth update; restarted, the run goes on from the second one's checkpoint."""
    straight = run_ranks(2, tmp_path / "straight", corpus, backbones, {"run": SETTINGS})["run"]
    harm = Harm(rank=1, after=3, signal=signal.SIGKILL)
    processes = start_ranks(2, tmp_path / "killed", corpus, backbones, {"run": SETTINGS}, harm)
    processes[1].join(300)
    assert processes[1].exitcode == -signal.SIGKILL
    died = time.monotonic()
    processes[0].join(20 * TIMEOUT)
    assert time.monotonic() - died < 10 * TIMEOUT
    result = read(tmp_path / "killed" / "run.0.json")
    assert len(result["steps"]) == 3
    assert result["error"].startswith("LostProcess: rank 1 (") and f"process {processes[1].pid}" in result["error"]
    assert result["error"].endswith("Run the same command again: training goes on from the last checkpoint")
    resumed = run_ranks(2, tmp_path / "killed", corpus, backbones, {"run": SETTINGS})["run"]
    assert resumed == straight[2:]
    states = [read_checkpoint(tmp_path / name / "run" / "checkpoint_last.pt") for name in ("straight", "killed")]
    for part in ("model", "last_optimizer_state"):
        assert differences(states[0][part], states[1][part], part) == []


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_others(corpus, backbones, tmp_path):
    """Its connection stays open, so that the other waits in a call that nothing interrupts."""
    harm = Harm(rank=1, after=1, signal=signal.SIGSTOP)
    processes = start_ranks(2, tmp_path, corpus, backbones, {"run": SETTINGS}, harm)
    try:
        processes[0].join(300)
        assert processes[0].exitcode == 1
        log = (tmp_path / "rank0.log").read_text(encoding="utf-8")
        assert f"error: rank 1 ({os.uname().nodename}, process {processes[1].pid}) is gone: no sign of life" in log
    finally:
        processes[1].kill()
