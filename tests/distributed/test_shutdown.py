"""A run that is over leaves no thread, no worker and no process group for the interpreter to trip over."""

import gc
import multiprocessing
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from fairseq.data.iterators import BackgroundConsumer, BufferedIterator
from fairseq.dataclass.configs import DistributedTrainingConfig, FairseqConfig
from fairseq.distributed import utils as distributed_utils
from torch.distributed import HashStore

from lst_fairseq.distributed import shutdown
from lst_fairseq.distributed.heartbeat import Watch
from tests.support.helpers import run_command, train_arguments
from tests.support.ranks import free_port


def consumers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, BackgroundConsumer)]


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def read_ahead() -> BufferedIterator:
    """Batches that workers and a thread read ahead, of which one was taken."""
    data = torch.utils.data.TensorDataset(torch.arange(400))
    batches = BufferedIterator(2, torch.utils.data.DataLoader(data, num_workers=2))
    next(batches)
    return batches


def test_all_of_it_ends(group):
    batches, watch = read_ahead(), Watch(timeout=60)
    assert consumers() and len(multiprocessing.active_children()) == 2 and Watch.running == [watch]
    shutdown.leave()
    assert not consumers() and not multiprocessing.active_children()
    assert not watch.thread.is_alive() and not Watch.running
    assert not torch.distributed.is_initialized()
    shutdown.leave()
    del batches
    gc.collect()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_error_too_which_is_raised(group, error):
    watch = Watch(timeout=60)

    def main(cfg: object) -> None:
        raise error("mine")

    alone = FairseqConfig(distributed_training=DistributedTrainingConfig(distributed_world_size=1))
    with pytest.raises(error, match="mine"):
        distributed_utils.call_main(alone, main)
    assert not watch.thread.is_alive() and not torch.distributed.is_initialized()


def test_nccl_is_left_to_the_end_where_others_may_be_gone(group, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    shutdown.leave(failed=True)
    assert torch.distributed.is_initialized()
    shutdown.leave()
    assert not torch.distributed.is_initialized()


def test_what_cannot_end_is_said_and_hides_no_error(group, monkeypatch, caplog):
    def fail() -> None:
        raise RuntimeError("stuck")

    monkeypatch.setattr(torch.distributed, "destroy_process_group", fail)
    shutdown.leave()
    assert "the run has not left cleanly (RuntimeError: stuck)" in caplog.text


def test_processes_that_fairseq_starts_leave_by_it():
    """They find the function by its module, before anything has registered the plugin there."""
    assert distributed_utils.distributed_main is shutdown.distributed_main
    assert (
        pickle.loads(pickle.dumps(distributed_utils.distributed_main)) is shutdown.distributed_main
    )
    assert b"lst_fairseq.distributed.shutdown" in pickle.dumps(shutdown.distributed_main)


READING = """
import torch
import fairseq, lst_fairseq
from fairseq.data.iterators import BufferedIterator
from fairseq.dataclass.configs import DistributedTrainingConfig, FairseqConfig
from fairseq.distributed import utils

class Long(torch.utils.data.Dataset):
    def __len__(self):
        return 10**6
    def __getitem__(self, index):
        return torch.nn.utils.rnn.pad_sequence([torch.randn(300), torch.randn(200)])

def main(cfg):
    global kept
    kept = BufferedIterator(10**6, torch.utils.data.DataLoader(Long(), batch_size=2))
    next(kept)

utils.call_main(FairseqConfig(distributed_training=DistributedTrainingConfig(distributed_world_size=1)), main)
"""


@pytest.mark.slow
def test_a_thread_that_reads_ahead_aborts_no_finished_run(tmp_path):
    """It did so each time, by "terminate called without an active exception"."""
    result = subprocess.run(
        [sys.executable, "-c", READING], capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode, "terminate" in result.stderr) == (0, False), result.stderr[-2000:]


PROGRAM = """
import multiprocessing, sys, threading
import torch
from lst_fairseq.distributed import launch

status = 0
try:
    launch.main(sys.argv[1:])
except ValueError as error:
    print("error:", error)
    status = 3
threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
print("left:", torch.distributed.is_initialized(), multiprocessing.active_children(),
      [name for name in threads if name == "lst-watch" or name.startswith("Thread-")], flush=True)
sys.exit(status)
"""


def torchrun(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of two processes that torchrun starts."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    torchrun = [
        "--nproc-per-node",
        "2",
        "--master-addr",
        "localhost",
        "--master-port",
        str(free_port()),
    ]
    result = run_command(
        "torch.distributed.run", *torchrun, str(folder / "program.py"), *arguments, check=False
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.slow
def test_under_torchrun(corpus, backbones, tmp_path):
    flags = {
        "batch_size": 1,
        "max_tokens": None,
        "max_update": 2,
        "num_workers": 1,
        "ddp_backend": "fully_sharded",
    }
    arguments = train_arguments(
        corpus, backbones, "--disable-validation", save_dir=tmp_path / "run", **flags
    )
    status, output = torchrun(tmp_path, *arguments)
    assert status == 0, output[-3000:]
    assert not re.search("abort|terminate called|SIGABRT", output, re.IGNORECASE)
    assert (
        output.count("left: False [] []") == 2
        and (tmp_path / "run" / "checkpoint_last.pt").exists()
    )
    # What ends in an error leaves with the error's own status.
    status, output = torchrun(
        tmp_path, *arguments, "--max-update", "4", "--train-modules", "nothing"
    )
    assert (
        status == 1
        and output.count("error: --train-modules 'nothing'") == 2
        and "exitcode  : 3" in output
    )
    assert output.count("left: False [] []") == 2
