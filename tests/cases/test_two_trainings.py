"""Two trainings into one --save-dir: the second ends with a line that names the first."""

import os
import signal
import socket
import time

from fairseq_cli import train

from tests.support.forks import serve
from tests.support.running import run_train, train_configuration


def train_until_killed(corpus, backbones, folder):
    """Train, and then stay as a training does that has more updates to make."""
    train.main(train_configuration(corpus, backbones, folder, max_update=1))
    print("trained", flush=True)
    signal.pause()


def test_the_second_is_told_and_a_killed_one_keeps_nobody_out(corpus, backbones, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    first = serve(train_until_killed, corpus, backbones, run, log=tmp_path / "first")
    while "trained\n" not in (
        text := (tmp_path / "first").read_text() if (tmp_path / "first").exists() else ""
    ):
        assert first.is_alive(), text
        time.sleep(0.05)
    before = (run / "checkpoint_last.pt").read_bytes()
    second = serve(run_train, corpus, backbones, run, max_update=2, log=log)
    second.join()
    said = log.read_text()
    assert second.exitcode == 1 and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    start = (
        f"error: --save-dir {run}: in use by process {first.pid} on {socket.gethostname()} (since "
    )
    assert line.startswith(start)
    assert line.endswith(
        "wait until that one has ended, end it, or give this run another --save-dir"
    )
    assert (run / "checkpoint_last.pt").read_bytes() == before
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert len(run_train(corpus, backbones, run, max_update=2).losses) == 1
