"""An optimiser's state after a checkpoint was read into it: is all there that the next update needs?"""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import torch
from fairseq.optim.adam import Adam
from torch import Tensor

from lst_fairseq.errors import CheckpointError

#: In an optimiser's state: the fp32 master weights of --fp16 and --bf16 training.
MASTER_KEY = "lst_fp32_params"
#: Moments of Adam in each of its versions, of a parameter's shape.
MOMENTS = ("exp_avg", "exp_avg_sq")
REMEDY = (
    "copy the checkpoint again from where it is whole, use an earlier one from the same folder, or "
    "give --reset-optimizer"
)


def check_moments(optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> None:
    """Refuse a state that an update could not go on from, as that of a file that was changed.

    Args:
        optimizer: after ``load_state_dict``.
        settings: those of a group of parameters before, learning rate and the like.

    Raises:
        CheckpointError: an entry is missing, or of another type or shape; says which.
    """
    for group in optimizer.param_groups:
        _check_group(group, settings)
    known: dict[int, set[str]] = {}
    number = -1
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            number += 1
            state = optimizer.state.get(parameter)
            if not state:  # of a parameter that had no gradient yet
                continue
            names = known.setdefault(parameter.dim(), set(state))
            needed = {*names, *_needed(optimizer)}
            if missing := sorted(map(str, needed - set(state))):
                raise _misfit(number, f"lacks {', '.join(missing)[:200]}")
            if more := sorted(map(str, set(state) - names)):
                raise _misfit(number, f"has {', '.join(more)[:200]}, which others lack")
            _check_state(number, parameter, state, _needed(optimizer))


def _needed(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(optimizer, Adam):
        return ("step", *MOMENTS)
    name = type(optimizer).__name__
    return MOMENTS if "Adam" in name and "Adamax" not in name else ()


def _check_state(
    number: int, parameter: Tensor, state: Mapping[str, Any], needed: tuple[str, ...]
) -> None:
    for name, value in state.items():
        if name == "step":
            if not (isinstance(value, Number) or (isinstance(value, Tensor) and value.numel() == 1)):
                raise _misfit(number, f"has a step of the type {type(value).__name__}")
        elif name in needed:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise _misfit(number, f"has no numbers as {name}")
            if value.shape != parameter.shape:
                shapes = f"{list(value.shape)}, and the parameter {list(parameter.shape)}"
                raise _misfit(number, f"has the shape {shapes}, as {name}")


def _check_group(group: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """torch takes a group's settings from the file as they are."""
    for name, default in settings.items():
        value = group.get(name)
        if name not in group or (_kind(value) != _kind(default) and default is not None):
            raise CheckpointError(
                f"its optimiser's setting {name} is missing, or not of the type of {default!r}; {REMEDY}"
            )


def _kind(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_kind, value))
    return "number" if isinstance(value, Number | Tensor) else type(value)


def _misfit(number: int, reason: str) -> CheckpointError:
    return CheckpointError(f"its optimiser's state of parameter {number} {reason}; {REMEDY}")
