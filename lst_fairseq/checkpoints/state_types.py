"""Types of what every checkpoint of fairseq holds, looked at before it is used."""

from typing import Any

import torch


def check_state(state: Any) -> None:
    """Look at the types of what every checkpoint of fairseq holds.

    Raises:
        TypeError, KeyError: one is of another type, or missing.
    """
    kinds = {"optimizer_history": list, "model": dict, "extra_state": dict, "task_state": dict}
    if not isinstance(state, dict) or "optimizer_history" not in state:
        raise KeyError("optimizer_history")
    for name, kind in kinds.items():
        if state.get(name) is not None and not isinstance(state[name], kind):
            raise TypeError(f"its {name} is a {type(state[name]).__name__} and not a {kind.__name__}")
    for entry in state["optimizer_history"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("num_updates", 0), int):
            raise TypeError("an entry of its optimizer_history is no dict with a number of updates")
    iterator = (state.get("extra_state") or {}).get("train_iterator", {})
    counts = ("epoch", "iterations_in_epoch")
    if not isinstance(iterator, dict) or not all(isinstance(iterator.get(name, 0), int) for name in counts):
        raise TypeError("its place in the data (train_iterator) is no dict with an epoch and iterations")
    optimizer = state.get("last_optimizer_state") or {}
    moments = optimizer.get("state", {}) if isinstance(optimizer, dict) else None
    if not isinstance(moments, dict) or not all(isinstance(entry, dict) for entry in moments.values()):
        raise TypeError("its last_optimizer_state is not what an optimiser holds")
    model = state.get("model") or {}
    for name, value in model.items() if "lst_record" in model else ():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor | dict):
            raise TypeError(f"its parameter {name!r:.200} is a {type(value).__name__} and not a tensor")
        if isinstance(value, torch.Tensor):
            _check_tensor(f"parameter {name!r:.200}", value)
    for i, entry in moments.items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                _check_tensor(f"optimiser's {name!r:.200} of parameter {i!r:.20}", value)


def _check_tensor(name: str, tensor: Any) -> None:
    """Look at a tensor that was read from a file: whether all of its numbers are there.

    Raises:
        TypeError: it is sparse, complex or quantised, or says more numbers than the file holds.
    """
    if str(tensor.layout) != "torch.strided" or tensor.is_complex() or tensor.is_quantized:
        raise TypeError(f"its {name} is no plain tensor, but one of {tensor.dtype}, {tensor.layout}")
    if tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError(f"its {name} has {tensor.numel():,} numbers, and the file does not hold so many")
