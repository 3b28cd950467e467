"""config.json of a pretrained model, looked at before transformers builds what it says.

A wrong number there costs hours or all memory: layers are built one by one, and tables that the
weights do not fill are drawn at random in the size that is asked for.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lst_fairseq.utils.checksums import read_model_json
from lst_fairseq.utils.messages import shown

#: Names of numbers of layers, of what is a dimension of some weight, and of positions.
LAYERS = re.compile(r"(^|_)(layers?|blocks?|depths?)$")
WIDTHS = re.compile(
    r"(size|dims?|channels|heads?|groups|bins|embd|embed|model|ffn?|inner|experts|labels|kernel|"
    r"rank|pos_embeddings)$"
)
NO_WIDTHS = re.compile("window|chunk|block|image|patch|batch|cache|buffer")
POSITIONS = re.compile(r"(positions|position_embeddings|ctx|seq_len|seq_length)$")
#: A table of positions among the weights.
POSITION_TABLE = re.compile("wpe|position")
#: What any model may have, whatever its weights are.
FEW_LAYERS, MOST_LAYERS = 100, 1_000
FEW_COLUMNS = 4_096
FEW_POSITIONS, MOST_POSITIONS = 100_000, 20_000_000
#: Speech encoders are used without the table of their labels, which is then in no file.
MOST_LABELS = 10_000_000
MOST_NUMBER = 2**63 - 1
#: What may name a program of the hub, as attention may (models/foreign_code.py).
KERNELS = re.compile("experts_implementation")


@dataclass(frozen=True)
class StoredSizes:
    """What a model's weight files are known to hold.

    Attributes:
        tensors: how many.
        widest: the largest dimension of any.
        has_positions: whether a table of positions is among them.
    """

    tensors: int
    widest: int
    has_positions: bool

    @classmethod
    def of(cls, shapes: Mapping[str, list[int]]) -> "StoredSizes":
        """Of tensors by their names."""
        widest = max((size for shape in shapes.values() for size in shape), default=0)
        return cls(len(shapes), widest, any(map(POSITION_TABLE.search, shapes)))


def check_config(directory: Path, flag: str, stored: StoredSizes) -> None:
    """Refuse a config.json that asks for far more than the weights hold, or for code from the hub.

    One that is no JSON is left to transformers.

    Args:
        directory: of the model.
        flag: that named it, for messages.
        stored: what is in its weight files.

    Raises:
        ValueError: names flag, directory, entry and remedy.
    """
    try:
        config = read_model_json(directory / "config.json")
    except (ValueError, OSError):
        return
    if not isinstance(config, dict):
        return
    where = f"{flag} {directory}: config.json: "
    if config.get("quantization_config") is not None:
        raise ValueError(
            f"{where}quantization_config: quantised weights do not serve here, and reading some kinds "
            "runs code from the hub; give the model with its weights in float32, bfloat16 or float16"
        )
    for name, value in _entries(config):
        last = name.rpartition(".")[2]
        if KERNELS.search(name) and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"{where}{name} is {shown(value)}, code from the hub, which is never run; remove the entry"
            )
        if isinstance(value, int | float) and (reason := _excess(last, value, flag, stored)):
            raise ValueError(
                f"{where}{name} is {shown(value)}, {reason}; copy config.json and the weights again"
            )


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names, levels joined by dots, and values; the numbers of a list have the list's name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _entries(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, name)
    else:
        yield name, value


def _excess(name: str, value: float, flag: str, stored: StoredSizes) -> str:
    """Why a number is beyond reason; empty if it is not."""
    most, reason = MOST_NUMBER, "beyond reason"
    if LAYERS.search(name):
        most = min(MOST_LAYERS, max(FEW_LAYERS, stored.tensors))
        reason = f"and its weight files hold {stored.tensors:,} tensors"
    elif name == "vocab_size" and flag != "--llm":
        most = MOST_LABELS
    elif POSITIONS.search(name):
        learned = stored.has_positions or name == "max_source_positions"
        most = max(FEW_POSITIONS, 2 * stored.widest) if learned else MOST_POSITIONS
    elif WIDTHS.search(name) and not NO_WIDTHS.search(name):
        most = max(FEW_COLUMNS, 2 * stored.widest)
        reason = f"and no dimension of its weights is larger than {stored.widest:,}"
    if math.isnan(value):
        return "and should be a number"
    return reason if value > most else ""
