"""Sharded checkpoints as files: what stands for their tensors; whole ones made of them, and back, in one process.

    checkpoint_last.pt           settings, counters, and the folder's name
    checkpoint_shards_500.0/     the parts; read by any number of processes, each only what it needs

In the file, a placeholder stands for each sharded tensor; the folder is one of ``torch.distributed.checkpoint``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from lst_fairseq.checkpoints.failures import readable_checkpoint
from lst_fairseq.checkpoints.plain import refused_setting
from lst_fairseq.checkpoints.safe_reader import SafeReader, cause_of, read_tensors, readable_shards
from lst_fairseq.checkpoints.settings import inspected
from lst_fairseq.checkpoints.shard_checksums import shard_checksums, shard_faults, shards_error, write_shard_checksums
from lst_fairseq.checkpoints.state_types import check_state
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY
from lst_fairseq.utils.checksums import check_records
from lst_fairseq.utils.files import making
from lst_fairseq.utils.messages import end_of, shown

#: Of a placeholder, which is a dictionary of this one entry.
SHAPE_KEY = "lst_sharded_shape"
#: Entries of a checkpoint that hold large tensors.
PARTS = ("model", "last_optimizer_state")


def placeholder(tensor: Tensor) -> dict[str, list[int]]:
    """What stands for a tensor in a file without its values."""
    return {SHAPE_KEY: list(tensor.shape)}


def is_placeholder(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {SHAPE_KEY}


def changed(value: Any, wanted: Callable[[Any], bool], change: Callable[[str, Any], Any], name: str = "") -> Any:
    """A copy of nested dictionaries and lists in which ``change(name, leaf)`` replaces the leaves that are wanted."""
    if wanted(value):
        return change(name, value)
    if isinstance(value, dict):
        return {
            key: changed(inner, wanted, change, f"{name}/{key}" if name else str(key)) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [changed(inner, wanted, change, f"{name}/{i}") for i, inner in enumerate(value)]
    return value


def split(state: Mapping[str, Any], wanted: Callable[[Any], bool]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state with placeholders, and the tensors that they stand for by name: ``model/encoder.markers.start``."""
    tensors: dict[str, Tensor] = {}

    def take(name: str, tensor: Tensor) -> dict[str, list[int]]:
        tensors[name] = tensor
        return placeholder(tensor)

    parts = {part: state[part] for part in PARTS if part in state}
    return {**state, **changed(parts, wanted, take)}, tensors


def is_large(value: Any) -> bool:
    """Tensors that are worth handing out one by one, and not the numbers and records among them."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def fp32(tensor: Tensor) -> Tensor:
    """As fairseq stores half precision (utils.move_to_cpu)."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def read_file(path: str) -> dict[str, Any]:
    """A checkpoint's file, its tensors left on disk until they are looked at."""
    with readable_checkpoint(path):
        check_records(path)
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        check_state(state)
        return inspected(path, state)


def shards_folder(path: str, state: Mapping[str, Any]) -> Path:
    """The folder that a sharded checkpoint names.

    Raises:
        CheckpointError: it is not there.
    """
    name = state[SHARDS_KEY]
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".."):
        raise refused_setting(path, SHARDS_KEY, f"is {shown(name)}, and should be the name of a folder beside it")
    folder = Path(path).parent / name
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: a sharded checkpoint without its folder {folder}; keep the two beside each other"
        )
    return folder


def assemble(path: str, state: Mapping[str, Any], parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """A sharded checkpoint's whole state in one process, without a process group; others are returned as they are.

    Args:
        path: the checkpoint's file.
        state: what it holds.
        parts: entries to be read; the others are left out.
    """
    if SHARDS_KEY not in state:
        return dict(state)
    folder = shards_folder(path, state)
    if faults := shard_faults(folder):
        raise shards_error(folder, faults)
    stored = SafeReader(folder).read_metadata().state_dict_metadata
    state = {key: value for key, value in state.items() if key not in PARTS or key in parts}
    tensors: dict[str, Tensor] = {}

    def target(name: str, value: dict[str, list[int]]) -> Tensor:
        found = stored.get(name)
        if list(getattr(found, "size", ())) != value[SHAPE_KEY]:
            raise CheckpointError(
                f"{folder}: holds no {name} of the shape {value[SHAPE_KEY]} that {path} names; the two do not belong "
                "together: copy both again, or use an earlier checkpoint"
            )
        tensors[name] = torch.empty(value[SHAPE_KEY], dtype=found.properties.dtype)
        return tensors[name]

    with readable_shards(folder):
        whole = changed(state, is_placeholder, target)
        read_tensors(folder, tensors, no_dist=True)
    del whole[SHARDS_KEY]
    return changed(whole, lambda value: isinstance(value, Tensor), lambda _, tensor: fp32(tensor))


def disassemble(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a whole state's large tensors into a new folder, in one process; the state with placeholders."""
    skeleton, tensors = split(state, is_large)
    with making(folder) as partial:
        try:
            dcp.save(dict(tensors), checkpoint_id=str(partial), no_dist=True)
        except (Exception, CheckpointException) as error:
            raise failed_shards(partial, error) from error
        write_shard_checksums(partial, shard_checksums(partial))
    return {**skeleton, SHARDS_KEY: folder.name}


def failed_shards(partial: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{partial}: writing a sharded checkpoint failed ({end_of(cause_of(error))}); those written "
        "before are untouched: free some space, or set another --save-dir that all processes see, "
        "and run the same command again to go on"
    )
