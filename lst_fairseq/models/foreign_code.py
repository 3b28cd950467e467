"""What a model's directory or settings may ask transformers for, and is refused: code and weights from elsewhere."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Implementations of attention that transformers has itself. ORG/NAME is a program of the hub, which it downloads and
#: runs where the package kernels is installed.
OWN_ATTENTION = frozenset(("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"))


def check_adapter(directory: Path, flag: str) -> None:
    """Refuse a directory with an adapter of peft's, which transformers would add to the weights without a word.

    Raises:
        ValueError: names the file.
    """
    path = directory / "adapter_config.json"
    if path.is_file():
        raise ValueError(
            f"{flag} {path}: an adapter of peft's, which would change the weights beside it or name others: merge it "
            "into its model (merge_and_unload, then save_pretrained) and give that, or remove the adapter's files"
        )


def foreign_attention(settings: Any) -> str:
    """What a model's settings name as its attention, at any depth, that is not transformers' own; else empty.

    Args:
        settings: content of config.json, or what a frontend's ``settings`` returned.
    """
    return next(_foreign(settings), "")


def _foreign(settings: Any, of_attention: bool = False) -> Iterator[str]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _foreign(value, of_attention or "attn_implementation" in str(name))
    elif isinstance(settings, list):
        for value in settings:
            yield from _foreign(value, of_attention)
    elif of_attention and isinstance(settings, str) and settings.rpartition("|")[2] not in OWN_ATTENTION:
        yield settings
