"""A pretended accelerator: tensors that say that they are on a device of their own, computed on the CPU.

What goes wrong on a GPU and not on a CPU can be tested without one: tensors of both devices in one operation are an
error, as there, and each time that the host would wait for the device is noted down. It does not tell how fast a GPU
is, nor what its kernels compute.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.replay import WAITING

aten = torch.ops.aten

DEVICE = "pretended"
#: Earlier versions of PyTorch cannot register a device that is written in Python.
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")

#: Operators that copy from one device to another.
_COPIES = {aten.copy_.default, aten._to_copy.default}
#: Operators that take indices on the CPU for tensors on any device.
_INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._unsafe_index_put.default,
    aten._index_put_impl_.default,
}
_WAITS: Counter[str] = Counter()
_TORCH = str(Path(torch.__file__).parent)


class OnDevice(Tensor):
    """A tensor that is on the pretended device; ``inner`` has its values on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))

    def tolist(self) -> Any:
        _note_wait()
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"


class _Module:
    """What PyTorch asks of ``torch.pretended``; there is one device, and it draws the CPU's random numbers."""

    _initialized = True

    def __getattr__(self, name: str) -> Any:
        fixed = {"is_initialized": True, "is_available": True, "_is_in_bad_fork": False, "device_count": 1}
        answers = {**fixed, "current_device": 0, "manual_seed_all": None, "get_amp_supported_dtype": [torch.bfloat16]}
        if name not in answers:
            raise AttributeError(name)
        return lambda *args: answers[name]

    def device(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class _Factories(TorchDispatchMode):
    """Makes tensors on the pretended device where they are asked for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


@contextmanager
def device() -> Iterator[Counter[str]]:
    """While it lasts, ``torch.device("pretended")`` serves; yields where the host has waited for it, FILE:FUNCTION."""
    register()
    _WAITS.clear()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    # A parameter's data cannot be exchanged for those of another class.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) makes its tensor on the CPU first
    try:
        with _Factories():
            yield _WAITS
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


@functools.cache
def register() -> None:
    """Make the device known, before the process computes a gradient: autograd starts a thread for each device then."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _is_composite(func):  # in inference mode these come as they are
        with _Factories():
            return func.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    if here and func not in _COPIES:
        _check_devices(func, args, tensors)
    if here and _waits(func, args, kwargs):
        _note_wait()
    wanted = kwargs.get("device")
    if func is aten.copy_.default:
        on_device = isinstance(args[0], OnDevice)
    elif wanted is not None:
        on_device = torch.device(wanted).type == DEVICE
        kwargs["device"] = torch.device("cpu") if on_device else wanted
    else:
        on_device = bool(here)
    wrapped = {id(tensor.inner): tensor for tensor in here}
    args, kwargs = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnDevice) else leaf, (args, kwargs))
    result = func(*args, **kwargs)

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.device.type == "meta" or not on_device:
            return leaf
        return wrapped[id(leaf)] if id(leaf) in wrapped else OnDevice(leaf)

    return tree_map(wrap, result)


def _check_devices(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Raise what PyTorch raises for tensors of two devices."""
    if func in _INDEXING and isinstance(args[0], OnDevice):
        indices = {id(index) for index in args[1]}
        tensors = [tensor for tensor in tensors if id(tensor) not in indices]
    others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    if others:
        raise RuntimeError(f"{func}: tensors on {DEVICE} and on {others[0].device}, {tuple(others[0].shape)}")


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func is aten._to_copy.default:
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else args[0].device.type
        return wanted != args[0].device.type
    if func is aten.copy_.default:
        return type(args[0]) is not type(args[1])
    if func in _INDEXING:
        found = [index for index in args[1] if index is not None]
        return any(index.dtype == torch.bool or not isinstance(index, OnDevice) for index in found)
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
        return False
    return func in WAITING


def _note_wait() -> None:
    """Count a wait for the innermost function that is not PyTorch's."""
    frame = inspect.currentframe()
    while frame is not None and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(_TORCH)):
        frame = frame.f_back
    # Autograd's thread has no other frames.
    _WAITS[f"{frame.f_code.co_filename}:{frame.f_code.co_name}" if frame else "autograd"] += 1
