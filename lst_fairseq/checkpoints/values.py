"""Which values a setting of the model and the task may have in a file: those of its dataclass, within reason."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fairseq.dataclass import FairseqDataclass

from lst_fairseq.checkpoints.plain import refused_setting
from lst_fairseq.models.adapters import ADAPTERS
from lst_fairseq.models.adapters.base import NORMS
from lst_fairseq.models.config import DTYPES, TRAINABLE
from lst_fairseq.models.frontends.base import BATCHINGS, WINDOWS
from lst_fairseq.models.pretrained import ATTENTIONS
from lst_fairseq.utils.messages import shown

#: Where a setting has no limits of its own: whole numbers, and numbers.
LIMITS = (0, 10_000_000)
#: Lowest and highest value.
RANGES: dict[str, tuple[float, float]] = {
    "frontend_layer": (1, 1_000),
    "frontend_top_layers": (0, 1_000),
    "adapter_channels": (1, 65_536),
    "adapter_stack": (1, 1_000),
    "adapter_window": (1, 10_000),
    "adapter_queries": (1, 10_000),
    "adapter_layers": (1, 1_000),
    "adapter_heads": (1, 1_000),
    "lora_r": (1, 65_536),
    "lora_dropout": (0, 1),
    "max_source_seconds": (0.01, 10_000_000),
    "min_source_seconds": (-1e6, 1e6),
    "max_target_positions": (1, 10_000_000),
    "seed": (-(2**63), 2**63 - 1),
}
CHOICES: dict[str, Collection[str]] = {
    "frontend_window": WINDOWS,
    "frontend_batching": BATCHINGS,
    "adapter": ADAPTERS,
    "adapter_norm": NORMS,
    "llm_dtype": DTYPES,
    "attn_implementation": ATTENTIONS,
}
#: Settings that are a list in one text.
PATTERNS = {
    "train_modules": (
        rf"( *({'|'.join(TRAINABLE)}) *,?)+",
        f"some of {', '.join(TRAINABLE)}, joined by commas",
    ),
    "adapter_kernel_sizes": (r" *\d{1,4} *(, *\d{1,4} *){0,15}", "numbers joined by commas"),
}
#: The only text that may have several lines.
SEVERAL_LINES = {"prompt"}
LONGEST_LINE = 4_096
_CONTROL = re.compile(r"[\0-\x1f\x7f\x85\u2028\u2029]")


@cache
def _types(dataclass: type[FairseqDataclass]) -> dict[str, Any]:
    return {field.name: get_type_hints(dataclass)[field.name] for field in fields(dataclass)}


def check_section(
    path: str, section: str, values: Mapping[str, Any], dataclass: type[FairseqDataclass]
) -> None:
    """Refuse settings that the dataclass does not have, and values that are not of its types or beyond reason.

    Args:
        path: the file, for messages.
        section: ``model``, ``task`` or ``criterion``.
        values: its settings, plain.
        dataclass: where they are declared.

    Raises:
        CheckpointError: names the file, the setting, what it may be, and the remedy.
    """
    types = _types(dataclass)
    for name, value in values.items():
        if name not in types:
            raise refused_setting(path, f"{section}.{name}", "is none that this version knows")
        check_value(path, f"{section}.{name}", value, types[name])


def check_value(path: str, setting: str, value: Any, kind: Any) -> None:
    """As :func:`check_section`, one value, of a type as dataclasses name it."""
    if get_origin(kind) in (Union, UnionType):  # Optional[...], ... | None
        if value is None:
            return
        kind = next(option for option in get_args(kind) if option is not type(None))
    wanted = _problem(setting.rpartition(".")[2], value, kind)
    if wanted:
        raise refused_setting(path, setting, f"is {shown(value)}, and should be {wanted}")


def _problem(name: str, value: Any, kind: Any) -> str:
    """What a value should be; empty if it is."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        known = [str(member.value) for member in kind]
        return "" if value in known else f"one of {', '.join(known)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind in (int, float):
        low, high = RANGES.get(name, LIMITS)
        described = f"a {'whole ' * (kind is int)}number from {low:,} to {high:,}"
        allowed = int if kind is int else int | float
        right = isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
        return "" if right and low <= value <= high else described
    if kind is str:
        return _text_problem(name, value)
    return ""


def _text_problem(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return "a text"
    if name in CHOICES:
        return "" if value in CHOICES[name] else f"one of {', '.join(CHOICES[name])}"
    if name in PATTERNS:
        pattern, described = PATTERNS[name]
        return "" if re.fullmatch(pattern, value) else described
    if name in SEVERAL_LINES:
        return (
            "a text without control characters"
            if _CONTROL.search(re.sub(r"[\n\t]", "", value))
            else ""
        )
    described = f"a text on one line, at most {LONGEST_LINE:,} characters"
    return described if _CONTROL.search(value) or len(value) > LONGEST_LINE else ""
