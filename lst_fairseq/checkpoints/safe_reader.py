"""Sharded checkpoints read without running code from them."""

import io
import pathlib
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.messages import end_of, one_line

#: All that the index of a folder of tensors is made of, as torch 2.13 writes it. ``BytesStorageMetadata`` is not among
#: them: it stands for something pickled, which torch would unpickle with no regard to what is in it.
_INDEX_TYPES = {
    (module, name)
    for module, names in {
        metadata.__name__: (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        ),
        filesystem.__name__: ("_StorageInfo",),
        pathlib.__name__: ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
        torch.__name__: ("Size",),
        torch.serialization.__name__: ("_get_layout",),
        "collections": ("OrderedDict",),
    }.items()
    for name in names
}


def _memory_format(kind: Any, name: Any) -> metadata._MEM_FORMAT_ENCODING:
    """What stands for ``getattr``, by which early releases of Python 3.11 pickle a member of an enumeration."""
    if kind is not metadata._MEM_FORMAT_ENCODING or name not in kind.__members__:
        raise pickle.UnpicklingError("builtins.getattr")
    return kind[name]


class _IndexUnpickler(pickle.Unpickler):
    """Knows the types of an index and the names of torch's number types, and nothing that could do anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if module == "pathlib._local":  # where Python 3.13 says that its paths are; others have no such module
            module = pathlib.__name__
        known = (module, name) in _INDEX_TYPES
        if known or (module == torch.__name__ and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


class _TensorsOnly(DefaultLoadPlanner):
    """torch's planner, which unpickles entries that are no tensors (default_planner.py:387)."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise CheckpointError(f"{read_item.dest_index.fqn} is no tensor")


def read_tensors(folder: pathlib.Path, targets: Mapping[str, Tensor], no_dist: bool = False) -> None:
    """Fill tensors in place, by name, from a folder of shards, running no code from it.

    Args:
        folder: where the shards are.
        targets: of the folder's shapes; DTensors are filled with their own parts.
        no_dist: in this process alone; else all of them have to call.

    Raises:
        CheckpointError, CheckpointException: a tensor is not there, or cannot be read.
    """
    dcp.load(dict(targets), storage_reader=SafeReader(folder), planner=_TensorsOnly(), no_dist=no_dist)


class SafeReader(FileSystemReader):
    """torch's reader of sharded checkpoints, which unpickles an index (``.metadata``) with no regard to what is in it.

    The tensors themselves it reads with weights only; for anything else see :func:`read_tensors`.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """The index of the folder.

        Raises:
            CheckpointError: it is missing or damaged, or reading it could run code; names the file.
        """
        path = pathlib.Path(self.path) / ".metadata"
        try:
            with open(path, "rb") as file:
                index = _IndexUnpickler(file).load()
            if not isinstance(index, metadata.Metadata):
                raise pickle.UnpicklingError(type(index).__name__)
            _check_places(index)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: not there, so that this is no complete sharded checkpoint") from None
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: refused, since it holds more than the places of tensors, and reading it could run code "
                f"({error}); use a sharded checkpoint that fairseq-train wrote with this plugin"
            ) from None
        except Exception as error:  # of what a damaged pickle may raise there is no end
            reason = one_line(error) or type(error).__name__
            raise CheckpointError(f"{path}: damaged ({reason}); use an earlier checkpoint") from None
        if index.storage_meta is None:
            index.storage_meta = metadata.StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


def _check_places(index: metadata.Metadata) -> None:
    """Raise an UnpicklingError unless the index names tensors alone, and files of the folder."""
    for name, entry in index.state_dict_metadata.items():
        if type(entry) is not metadata.TensorStorageMetadata:
            raise pickle.UnpicklingError(f"{name} is no tensor")
    for place in index.storage_data.values():
        if pathlib.PurePath(place.relative_path).name != place.relative_path:
            raise pickle.UnpicklingError(f"a tensor in the file {place.relative_path} elsewhere")


def cause_of(error: BaseException) -> BaseException:
    """The first process's error of those that torch reports together."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    return next((failure for failure, _ in failures.values()), error)


@contextmanager
def readable_shards(folder: pathlib.Path) -> Iterator[None]:
    """Turn what reading a folder of shards raises into a CheckpointError that names the folder and the remedy."""
    try:
        yield
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:
        cause = cause_of(error)
        if isinstance(cause, CheckpointError):
            raise CheckpointError(str(cause)) from None
        raise CheckpointError(
            f"{folder}: shards that cannot be read ({end_of(cause)}); copy the folder again from "
            "where it is whole, or use an earlier checkpoint"
        ) from error
