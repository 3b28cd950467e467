"""fairseq-train on several gloo processes, many runs in one group of processes: starting them is what takes time."""

import contextlib
import itertools
import json
import multiprocessing
import os
import pkgutil
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fairseq.trainer import Trainer
from fairseq_cli import train

from tests.support.running import forget_runs, train_configuration

#: Ranks are forked from a server that has imported everything once: a fork of the test process itself cannot train
#: after that has, because of autograd's threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.running"])
HANGS_AFTER = 900  # seconds, on a machine that does much else; a run takes some
#: Settings of a run of full training that saves after every second update.
SAVING = {
    "batch_size": 3,
    "train_modules": "adapter,llm",
    "disable_validation": True,
    "no_epoch_checkpoints": True,
    "save_interval_updates": 2,
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def recorded(steps: list[list[float]]) -> Iterator[None]:
    """Add [loss per unit of sample size, gradient norm] of each update to ``steps``."""
    reduce_and_log = Trainer._reduce_and_log_stats

    def recording(self: Trainer, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        if grad_norm is not None:
            loss = sum(float(output["loss"]) for output in logging_outputs)
            size = sum(float(output["sample_size"]) for output in logging_outputs)
            steps.append([loss / max(size, 1), float(grad_norm)])
        return reduce_and_log(self, logging_outputs, sample_size, grad_norm)

    with mock.patch.object(Trainer, "_reduce_and_log_stats", recording):
        yield


def train_once(rank: int, world_size: int, data: Any, backbones: Any, folder: Path, settings: Mapping[str, Any]) -> Any:
    """One run; its steps, or its error. A list of data has a folder for each rank."""
    forget_runs()
    distributed = {
        "distributed_world_size": world_size,
        "distributed_rank": rank,
        "distributed_no_spawn": True,
        "ddp_backend": "fully_sharded",
    }
    given = {**distributed, **settings}
    data = given.pop("data", data)
    cfg = train_configuration(data[rank] if isinstance(data, list) else data, backbones, folder, **given)
    steps: list[list[float]] = []
    try:
        with recorded(steps):
            train.main(cfg)
    except Exception as error:
        traceback.print_exc()
        return {"steps": steps, "error": f"{type(error).__name__}: {error}"}
    return {"steps": steps, "error": ""}


@dataclass(frozen=True)
class Harm:
    """A signal that a rank sends itself as it calls a function, after so many calls: by default as an update starts."""

    rank: int
    after: int
    signal: int
    function: str = "fairseq.trainer.Trainer.train_step"


@contextlib.contextmanager
def harmed(harm: Harm | None, rank: int) -> Iterator[None]:
    if harm is None or harm.rank != rank:
        yield
        return
    owner, name = harm.function.rsplit(".", 1)
    original = getattr(pkgutil.resolve_name(owner), name)
    calls = itertools.count()

    def harmed_call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == harm.after:
            os.kill(os.getpid(), harm.signal)
        return original(*args, **kwargs)

    with mock.patch(harm.function, harmed_call):
        yield


def rank_main(
    rank: int,
    world_size: int,
    port: int,
    folder: Path,
    data: Any,
    backbones: Any,
    runs: Mapping[str, Any],
    harm: Harm | None,
) -> None:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    with (
        open(folder / f"rank{rank}.log", "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        if world_size > 1:
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"tcp://localhost:{port}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=120),
            )
        for name, settings in runs.items():
            print("=== run", name, flush=True)
            with harmed(harm, rank):
                result = train_once(rank, world_size, data, backbones, folder / name, settings)
            (folder / f"{name}.{rank}.json").write_text(json.dumps(result), encoding="utf-8")
            if result["error"]:
                break
    os._exit(0)


def start_ranks(
    world_size: int,
    folder: Path,
    data: Any,
    backbones: Any,
    runs: Mapping[str, Mapping[str, Any]],
    harm: Harm | None = None,
) -> list[Any]:
    """The processes, started."""
    port = free_port()
    processes = [
        CONTEXT.Process(target=rank_main, args=(rank, world_size, port, folder, data, backbones, dict(runs), harm))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def run_ranks(
    world_size: int, folder: Path, data: Any, backbones: Any, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[list[float]]]:
    """Steps of each run on that many processes; a run is a name and its settings."""
    join_all(start_ranks(world_size, folder, data, backbones, runs), folder)
    results = {}
    for name in runs:
        ranks = [read(folder / f"{name}.{rank}.json") for rank in range(world_size)]
        assert [rank["error"] for rank in ranks] == [""] * world_size, (name, ranks)
        assert all(rank["steps"] == ranks[0]["steps"] for rank in ranks)
        results[name] = ranks[0]["steps"]
    return results


def join_all(processes: Sequence[BaseProcess], folder: Path) -> None:
    """Wait until all have ended, or fail, with those that hang killed."""
    for process in processes:
        process.join(HANGS_AFTER)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, f"hung; see {folder}/rank*.log"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
