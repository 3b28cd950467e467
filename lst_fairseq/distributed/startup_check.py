"""Before the first exchange of a sharded run: do all processes run the same thing?

Processes that disagree would wait for each other for ever. So each leaves a note at the meeting point, before it joins
the group, and reads those of the others: a note that differs is an error at once, one that does not come is an error
after ``--startup-timeout`` seconds.
"""

import hashlib
import json
import logging
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from torch.distributed import Store

import lst_fairseq
from lst_fairseq.utils.messages import one_line

logger = logging.getLogger(__name__)

#: Settings that may differ from one process to another.
OWN_SETTINGS = {
    "distributed_rank", "device_id", "distributed_num_procs", "distributed_init_method", "distributed_port",
    "log_format", "log_interval",
}  # fmt: skip
#: Folders may lie elsewhere on each node, and what is in them is compared later.
PATHS = {
    "data", "save_dir", "speech_encoder", "llm", "user_dir", "log_file", "tensorboard_logdir", "cache_features",
    "finetune_from_model", "restore_file",
}  # fmt: skip
KEY = "lst_note_{}"
SECONDS_BETWEEN_LOOKS = 0.2


class StartError(RuntimeError):
    """A run that cannot start; the message names the ranks and what differs."""


def code_version() -> str:
    """Versions that have to be the same, and a hash of this package's files."""
    folder = Path(lst_fairseq.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"lst_fairseq {lst_fairseq.__version__} ({digest.hexdigest()[:12]}), torch {torch.__version__}"


def note(cfg: Any) -> dict[str, str]:
    """What a process says of itself: world size, code, and each setting that all have to share."""
    settings = {
        f"--{name.replace('_', '-')}": str(value)
        for group in cfg.values()
        if hasattr(group, "items")
        for name, value in group.items()
        if name not in OWN_SETTINGS | PATHS and not name.startswith("_")
    }
    settings.pop("--distributed-world-size", None)
    return {
        "the number of processes (--distributed-world-size)": str(cfg.distributed_training.distributed_world_size),
        "the code": code_version(),
        **settings,
    }


def compare(notes: dict[int, dict[str, str]]) -> None:
    """Raise a StartError that names what differs between notes, by rank."""
    first = min(notes)
    for rank in sorted(notes):
        differing = [what for what in notes[first] if notes[rank].get(what) != notes[first][what]]
        if differing:
            said = "; ".join(
                f"{what} is {notes[first][what]} for rank {first} and {notes[rank].get(what)} for rank {rank}"
                for what in differing[:5]
            )
            raise StartError(f"the processes disagree: {said}. Start all of them with the same command and code")


def meet(store: Store, rank: int, own: dict[str, str], world_size: int, timeout: float) -> None:
    """Leave a note and read all others.

    Raises:
        StartError: one differs, or has not come after ``timeout`` seconds.
    """
    store.set(KEY.format(rank), json.dumps({**own, "host": socket.gethostname()}))
    notes: dict[int, dict[str, str]] = {}
    deadline = time.monotonic() + timeout
    while len(notes) < world_size:
        for other in range(world_size):
            if other not in notes and store.check([KEY.format(other)]):
                notes[other] = json.loads(store.get(KEY.format(other)))
                compare({rank: own, **{r: {k: v for k, v in n.items() if k != "host"} for r, n in notes.items()}})
        if time.monotonic() > deadline:
            missing = [r for r in range(world_size) if r not in notes]
            here = ", ".join(f"{r} on {n['host']}" for r, n in sorted(notes.items()))
            raise StartError(
                f"{len(notes)} of {world_size} processes have come within {timeout:g} s (ranks {here}); missing: "
                f"{', '.join(map(str, missing))}. Is --distributed-world-size {world_size} right, and did those start? "
                "If they are only slow, give a longer --startup-timeout"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    # The first process may keep the store: it must not be gone before all have read.
    store.add("lst_notes_read", 1)
    while rank == 0 and store.add("lst_notes_read", 0) < world_size and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def open_store(init_method: str, rank: int, world_size: int, timeout: float) -> Store:
    """The meeting point that ``--distributed-init-method`` names: tcp://HOST:PORT, file:///PATH or env://.

    Raises:
        StartError: it cannot be reached within ``timeout`` seconds.
    """
    address = urlparse(init_method)
    try:
        if address.scheme == "tcp":
            return dist.TCPStore(
                address.hostname, address.port, None, rank == 0, timedelta(seconds=timeout), wait_for_workers=False
            )
        if address.scheme == "file":
            return dist.FileStore(address.path, world_size)
        return next(dist.rendezvous(init_method, rank, world_size, timeout=timedelta(seconds=timeout)))[0]
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(error, 200)
        raise StartError(
            f"rank {rank} cannot reach {init_method} within {timeout:g} s ({reason}): rank 0 has to run on that host, "
            "and the port has to be free and open there"
        ) from None


def join(cfg: Any) -> None:
    """Compare notes and start the process group; fairseq's own start then finds it there (distributed/utils.py:273)."""
    settings = cfg.distributed_training
    rank, world_size = settings.distributed_rank, settings.distributed_world_size
    timeout = cfg.task.startup_timeout
    store = open_store(settings.distributed_init_method, rank, world_size, timeout)
    meet(store, rank, note(cfg), world_size, timeout)
    if torch.cuda.is_available() and not cfg.common.cpu:
        torch.cuda.set_device(settings.device_id)
    dist.init_process_group(
        settings.distributed_backend, store=dist.PrefixStore("lst", store), rank=rank, world_size=world_size
    )
    logger.info(f"rank {rank} of {world_size} on {socket.gethostname()}, process {os.getpid()}")
