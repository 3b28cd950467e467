"""A CUDA graph's rules, on the CPU: operators are recorded with the memory that they use, and replayed on it.

As with a CUDA graph, recording computes nothing that lasts, values that the host would have to know are an error, and
Python does not run again: what it did while recording is what each replay does. Memory from before the recording must
be alive at each replay; a CUDA graph would use it all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

#: Operators that need a value on the host, or make as many elements as the values say.
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.bincount.default,
}


class _Outside:
    """A tensor on memory that the recording has not made and does not keep alive."""

    def __init__(self, tensor: Tensor):
        self.storage = StorageWeakRef(tensor.untyped_storage())
        self.layout = (tensor.storage_offset(), tensor.size(), tensor.stride())
        self.dtype = tensor.dtype

    def tensor(self) -> Tensor:
        if self.storage.expired():
            raise RuntimeError(f"a replay reads or writes memory that was given up: {self.dtype} {self.layout}")
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.layout)


class RecordedGraph:
    """A ``cuda_graphs.Graph``; ``log`` gets a line for each recording and each replay."""

    log: ClassVar[list[str]] = []

    def __init__(self, run: Callable[[], Tensor], device: torch.device):
        self.log.append("record")
        recorder = _Recorder()
        with recorder:
            self.output = run()
        self._work = recorder.work
        recorder.undo()

    def replay(self) -> None:
        self.log.append("replay")
        for func, args, kwargs, made in self._work:
            args, kwargs = tree_map(lambda leaf: leaf.tensor() if isinstance(leaf, _Outside) else leaf, (args, kwargs))
            result = tree_leaves(func(*args, **kwargs))
            for index, tensor in made.items():
                tensor.copy_(result[index])

    @staticmethod
    @contextmanager
    def waits() -> Iterator[list[str]]:
        found: list[str] = []
        with _Watch(found):
            yield found


class _Watch(TorchDispatchMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _waits(func, args):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []
        self.own: dict[int, Tensor] = {}  # memory that the recording has made, each with a tensor that keeps it
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _waits(func, args):
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        written = [a for a, declared in zip(args, func._schema.arguments) if _is_written(declared)]
        self.before += [(tensor, tensor.clone()) for tensor in written if _memory(tensor) not in self.own]
        result = func(*args, **kwargs)
        leaves = tree_leaves(result)
        made = {i: t for i, t in enumerate(leaves) if isinstance(t, Tensor) and _memory(t) not in given}
        if made or written:  # a view has its place already
            kept = tree_map(self._kept, (args, kwargs))
            self.own |= {_memory(tensor): tensor for tensor in made.values()}
            self.work.append((func, *kept, made))
        return result

    def _kept(self, leaf: Any) -> Any:
        return _Outside(leaf) if isinstance(leaf, Tensor) and _memory(leaf) not in self.own else leaf

    def undo(self) -> None:
        """Bring back what was there, and leave nothing of use in what was made."""
        for tensor, before in reversed(self.before):
            tensor.copy_(before)
        for tensor in self.own.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 1)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _waits(func: Any, args: tuple[Any, ...]) -> bool:
    by_mask = func in (aten.index.Tensor, aten.index_put_.default) and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )
    return by_mask or func in WAITING
