"""Two trainings into one --save-dir: the second ends with a line that names the first and says what to do."""

import os
import signal
import socket

from tests.forks import ended, fork, outcome
from tests.running import run_train


def train_until_killed(corpus, backbones, folder, ready):
    """Train, and then stay as a training does that has more updates to make."""
    from fairseq_cli import train

    from tests.running import train_configuration

    train.main(train_configuration(corpus, backbones, folder, max_update=1))
    os.write(ready, b"!")
    signal.pause()


def test_the_second_is_told_and_a_killed_one_keeps_nobody_out(corpus, backbones, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    ready, told = os.pipe()
    first = fork(train_until_killed, corpus, backbones, run, told, log=tmp_path / "first")
    assert os.read(ready, 1) == b"!"
    try:
        before = (run / "checkpoint_last.pt").read_bytes()
        status, said = outcome(run_train, corpus, backbones, run, max_update=2, log=log)
        assert status == 1 and "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert line.startswith(
            f"error: --save-dir {run}: in use by process {first} on {socket.gethostname()} (since "
        )
        assert line.endswith("wait until that one has ended, end it, or give this run another --save-dir")
        assert (run / "checkpoint_last.pt").read_bytes() == before
    finally:
        os.kill(first, signal.SIGKILL)
    ended(first)
    assert len(run_train(corpus, backbones, run, max_update=2).losses) == 1
