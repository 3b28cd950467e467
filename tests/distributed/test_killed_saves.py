"""A process that is killed while it writes a checkpoint: the last good one is readable, and training goes on."""

import signal

import pytest

from tests.support.ranks import SAVING, Harm, run_ranks, start_ranks
from tests.support.running import differences, read_checkpoint

SETTINGS = {**SAVING, "max_update": 4}
SHARDED = {"use_sharded_state": True}
#: Of the second checkpoint: the function at whose call it happens, and how many calls the first one takes.
MOMENTS = {
    "no part is there": (SHARDED, "torch.distributed.checkpoint.FileSystemWriter.write_data", 1),
    "parts without the list of them": (SHARDED, "torch.distributed.checkpoint.FileSystemWriter.finish", 1),
    "the folder without the file": (SHARDED, "fairseq.checkpoint_utils._torch_persistent_save", 1),
    "the file not yet renamed": (SHARDED, "fairseq.file_io.PathManager.rename", 2),
    "a whole file begun": ({}, "fairseq.checkpoint_utils._torch_persistent_save", 1),
    "a whole file not yet renamed": ({}, "fairseq.file_io.PathManager.rename", 2),
}


@pytest.fixture(scope="module")
def straight(corpus, backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder / "run", run_ranks(1, folder, corpus, backbones, {"run": SETTINGS})["run"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_saving(moment, straight, corpus, backbones, tmp_path):
    kind, function, calls = MOMENTS[moment]
    runs = {"run": {**SETTINGS, **kind}}
    killed = start_ranks(1, tmp_path, corpus, backbones, runs, Harm(0, calls, signal.SIGKILL, function))[0]
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    folder, (straight_folder, steps) = tmp_path / "run", straight
    for name in ("checkpoint_last.pt", "checkpoint_1_2.pt"):
        left, wanted = (read_checkpoint(path) for path in (folder / name, straight_folder / "checkpoint_1_2.pt"))
        for part in ("model", "last_optimizer_state"):
            assert differences(left[part], wanted[part], part) == []
    assert run_ranks(1, tmp_path, corpus, backbones, runs)["run"] == steps[2:]
    last, wanted = (read_checkpoint(path / "checkpoint_last.pt") for path in (folder, straight_folder))
    for part in ("model", "last_optimizer_state"):
        assert differences(last[part], wanted[part], part) == []
    assert not list(folder.glob("*.tmp"))
