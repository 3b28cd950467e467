"""Checkpoints of divided models: whole files as one process writes them, and shards.

A whole checkpoint is fairseq's file, gathered tensor by tensor. A sharded one is the same file with a placeholder for
each divided tensor, and beside it a folder to which each process writes its parts (``torch.distributed.checkpoint``):

    checkpoint_last.pt           settings, counters, and the folder's name
    checkpoint_shards_500.0/     the parts; read by any number of processes, each only what it needs

Whole or sharded, the file is written beside the old one and then renamed, after the folder is complete.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from lst_fairseq.checkpoints.failures import readable_checkpoint
from lst_fairseq.checkpoints.optimizer_state import MASTER_KEY
from lst_fairseq.checkpoints.purpose import TASK, Purpose, reading_for
from lst_fairseq.checkpoints.safe_reader import read_tensors, readable_shards
from lst_fairseq.checkpoints.shard_checksums import shard_checksums, shard_faults, shards_error, write_shard_checksums
from lst_fairseq.checkpoints.sharded import (
    SHAPE_KEY,
    changed,
    failed_shards,
    fp32,
    is_large,
    is_placeholder,
    read_file,
    shards_folder,
    split,
)
from lst_fairseq.distributed.collectives import first_decides, gathered
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY
from lst_fairseq.utils.checksums import check_records

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


def is_divided(value: Any) -> bool:
    return isinstance(value, DTensor)


class Progress:
    """A line in the log now and then while gigabytes go by."""

    def __init__(self, what: str, tensors: Mapping[str, Tensor]):
        self.what = what
        self.total = sum(tensor.nbytes for tensor in tensors.values())
        self.done = 0
        self.said = time.monotonic()

    def add(self, tensor: Tensor) -> None:
        self.done += tensor.nbytes
        if time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            logger.info(f"{self.what}: {self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB")


def gather(state: Mapping[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The whole state in the first process's memory, None in the others; all of them have to call.

    No process but the first ever holds more than one whole tensor.
    """
    skeleton, tensors = split(state, is_divided)
    first = torch.distributed.get_rank() == 0
    progress = Progress("gathering the checkpoint", tensors)
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.detach().to(device).full_tensor()
        if first:
            whole[name] = fp32(full).cpu()
        progress.add(full)
        del full
    if not first:
        return None
    return changed(skeleton, is_placeholder, lambda name, _: whole[name])


def save_shards(state: Mapping[str, Any], save_dir: str, updates: int) -> dict[str, Any]:
    """Write each process's parts into a new folder; the state with placeholders and the folder's name.

    All processes have to call, and to see the same ``save_dir``.

    Raises:
        CheckpointError: a process could not write; what was there before is untouched.
    """
    skeleton, tensors = split(state, is_divided)
    name = first_decides(lambda: _start_folder(Path(save_dir), updates))
    folder = Path(save_dir) / name
    partial = folder.with_name(f"{name}.tmp")
    try:
        dcp.save(dict(tensors), checkpoint_id=str(partial))
    except (Exception, CheckpointException) as error:
        raise failed_shards(partial, error) from error
    tables = gathered(_own_checksums(partial, torch.distributed.get_rank()))

    def finish() -> None:
        for table in tables:
            if isinstance(table, OSError):
                raise failed_shards(partial, table)
        write_shard_checksums(partial, {name: entry for table in tables for name, entry in table.items()})
        os.rename(partial, folder)

    first_decides(finish)
    return {**skeleton, SHARDS_KEY: name}


def _own_checksums(folder: Path, rank: int) -> dict[str, Any] | OSError:
    """Of the files that a process has written; the first one wrote the index too."""
    try:
        own = shard_checksums(folder, f"__{rank}_*")
        return {**own, **shard_checksums(folder, ".metadata")} if rank == 0 else own
    except OSError as error:
        return error


def _start_folder(save_dir: Path, updates: int) -> str:
    """Remove folders that no checkpoint names any more, and choose a name for a new one."""
    try:
        named = {_shards_named_in(path) for path in save_dir.glob("*.pt")}
    except (CheckpointError, OSError) as error:
        logger.warning(f"{error}; until it can be read, or is removed, no folder of shards beside it is removed")
    else:
        for folder in save_dir.glob("checkpoint_shards_*"):
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
    taken = {folder.name for folder in save_dir.glob("checkpoint_shards_*")}
    return next(name for i in range(len(taken) + 1) if (name := f"checkpoint_shards_{updates}.{i}") not in taken)


def _shards_named_in(path: Path) -> str | None:
    with readable_checkpoint(str(path)):
        check_records(path, tensors=False)
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state.get(SHARDS_KEY) if isinstance(state, dict) else None


class WholeFile:
    """A whole checkpoint, which the first process reads and hands out; the others need not see the file."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device):
        self.tensors = tensors
        self.device = device

    def read(self, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, by name; all processes have to call, with the same names."""
        first = torch.distributed.get_rank() == 0
        progress = Progress("loading the checkpoint", targets)
        for name, target in targets.items():
            full = torch.empty(target.shape, dtype=target.dtype, device=self.device)
            if first:
                full.copy_(self.tensors[name])
            if isinstance(target, DTensor):
                part = distribute_tensor(full, target.device_mesh, target.placements).to_local()
                target.to_local().copy_(part)
            else:
                torch.distributed.broadcast(full, src=0)
                target.copy_(full)
            progress.add(full)


class Shards:
    """A sharded checkpoint, of which each process reads what it needs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, targets: Mapping[str, Tensor]) -> None:
        """As :meth:`WholeFile.read`."""
        with readable_shards(self.folder):
            read_tensors(self.folder, targets)


Source = WholeFile | Shards


def check_shards(folder: Path) -> None:
    """Compare the files of a folder with their checksums, each process some of them; all processes have to call.

    Raises:
        CheckpointError: one is not what was written; in all processes alike.
    """
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if faults := [fault for found in gathered(shard_faults(folder, rank, size)) for fault in found]:
        raise shards_error(folder, faults)


def open_checkpoint(path: str, device: torch.device) -> tuple[dict[str, Any], Source] | None:
    """A checkpoint's state with placeholders, the same in all processes, and where the values are.

    Returns:
        None if there is no such file.

    Raises:
        CheckpointError: it cannot be read; in all processes alike.
    """
    tensors: dict[str, Tensor] = {}

    def load() -> dict[str, Any] | None:
        if not os.path.isfile(path):
            return None
        with reading_for(Purpose(TASK, criterion=False)):
            skeleton, found = split(read_file(path), is_large)
        tensors.update(found)
        return skeleton

    skeleton = first_decides(load)
    if skeleton is None:
        return None
    if SHARDS_KEY in skeleton:
        folder = shards_folder(path, skeleton)
        check_shards(folder)
        return skeleton, Shards(folder)
    return skeleton, WholeFile(tensors, device)


def with_meta(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[int, str]]:
    """A state with a tensor of the meta device for each placeholder, and the name of each by its ``id``."""
    found: dict[int, str] = {}

    def tensor(name: str, value: dict[str, list[int]]) -> Tensor:
        made = torch.empty(value[SHAPE_KEY], dtype=torch.float32, device="meta")
        found[id(made)] = name
        return made

    return changed(dict(state), is_placeholder, tensor), found


def changed_parts(state: Mapping[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """An optimiser's state in which ``change(i, tensor)`` replaces the tensors of its i-th parameter."""
    new = dict(state)
    new["state"] = {
        i: {key: change(i, value) if is_large(value) else value for key, value in entries.items()}
        for i, entries in state["state"].items()
    }
    if MASTER_KEY in state:
        new[MASTER_KEY] = [change(i, value) for i, value in enumerate(state[MASTER_KEY])]
    return new
