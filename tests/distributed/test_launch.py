"""What torchrun's and Slurm's environments become."""

import logging
import re
from unittest import mock

import pytest
from fairseq_cli import train

from lst_fairseq.distributed import launch
from lst_fairseq.distributed.launch import LaunchError, distributed_flags

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}


def flags(where: str, rank: int, size: int, local: int) -> list[str]:
    return [
        *("--distributed-world-size", str(size), "--distributed-rank", str(rank), "--device-id", str(local)),
        *("--distributed-init-method", where, "--distributed-no-spawn"),
    ]


def test_each_launcher(tmp_path):
    assert distributed_flags(TORCHRUN) == flags("env://", 3, 4, 1)
    meeting = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert distributed_flags({**SLURM, **meeting}) == flags("tcp://node1:29500", 9, 16, 1)
    shared = {**SLURM, **meeting, "RENDEZVOUS": str(tmp_path)}
    assert distributed_flags(shared) == flags(f"file://{tmp_path}/lst-77-0-0", 9, 16, 1)
    assert distributed_flags({**shared, "SLURM_RESTART_COUNT": "2"})[7].endswith("/lst-77-0-2")
    assert distributed_flags({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) == ["--distributed-world-size", "1"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [({}, "neither torchrun's variables"), (SLURM, "where shall the processes meet"), ({"RANK": "1"}, "neither")],
)
def test_an_environment_without_a_launcher(environment, message, capsys, monkeypatch):
    with pytest.raises(LaunchError, match=message):
        distributed_flags(environment)
    for name in (*TORCHRUN, *SLURM, "MASTER_ADDR", "RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.main(["data"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lst_fairseq.distributed.launch: ") and error.count("\n") == 1


def test_fairseq_train_gets_them(monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(logging.root, "handlers", [])  # so that pytest's stay as they are
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    seen = []

    def cli_main() -> None:
        seen.append(list(launch.sys.argv))
        logging.getLogger("train_inner").info("epoch 001")

    with mock.patch.object(train, "cli_main", cli_main):
        monkeypatch.setattr(launch.sys, "argv", ["launch"])
        assert launch.main(["data", "--cpu"]) == 0
    expected = ["fairseq-train", "data", "--cpu", *flags("env://", 3, 4, 1), "--distributed-backend", "gloo"]
    assert seen == [expected]
    assert re.search(r"^\d{4}-.* \| INFO \| train_inner \| epoch 001$", capsys.readouterr().out, re.MULTILINE)
    assert launch.main(["--help"]) == 0 and "torchrun" in capsys.readouterr().out
