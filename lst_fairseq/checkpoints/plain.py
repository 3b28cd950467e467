"""The settings in a file as plain Python values, or an error that names the one that is anything else."""

from argparse import Namespace
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from omegaconf.nodes import ValueNode

from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.messages import shown

#: More than any configuration of fairseq has; a file in which settings contain each other has more than any number.
MOST_SETTINGS = 100_000
MOST_LEVELS = 20
MOST_CHARACTERS = 100_000
REMEDY = "use a file that fairseq-train or lst export wrote with this plugin"


def refused_setting(path: str, setting: str, reason: str) -> CheckpointError:
    """The error for one setting of a file."""
    return CheckpointError(f"{path}: refused, its setting {setting[:200]!r} {reason}; {REMEDY}")


def plain(path: str, value: Any, setting: str = "", references: bool = False) -> Any:
    """Settings in any of fairseq's containers (DictConfig, Namespace, numpy's numbers) as plain values.

    Nothing in them is resolved: text like ``${oc.env:HOME}`` stands for something else in OmegaConf, and no file may
    ask for that. Namespaces stay what they are, since fairseq's older models expect one.

    Args:
        path: the file, for messages.
        value: what it holds.
        setting: its name, levels joined by dots.
        references: whether ``${task.label_rate}`` may stand for another setting of the file, as in files that
            fairseq publishes; never what comes from elsewhere.

    Raises:
        CheckpointError: a value is no text, number, truth value, list or mapping of them, or holds ``${``.
    """
    return _Reader(path, references).read(value, setting, MOST_LEVELS)


class _Reader:
    def __init__(self, path: str, references: bool):
        self.path = path
        self.references = references
        self.left = MOST_SETTINGS

    def read(self, value: Any, setting: str, levels: int) -> Any:
        self.left -= 1
        if self.left < 0 or levels < 0:
            raise refused_setting(
                self.path,
                setting,
                "is one of more, or more deeply nested ones, than a checkpoint has",
            )
        # Their contents as they are stored: OmegaConf's own conversions may resolve what is in them.
        if isinstance(value, DictConfig | ListConfig):
            value = value.__dict__.get("_content")
        elif isinstance(value, ValueNode):
            value = value.__dict__.get("_val")
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            return self._text(value, setting)
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, Namespace):
            return Namespace(**self._mapping(vars(value), setting, levels))
        if isinstance(value, dict):
            return self._mapping(value, setting, levels)
        if isinstance(value, list | tuple):
            return [self.read(inner, f"{setting}.{i}", levels - 1) for i, inner in enumerate(value)]
        raise refused_setting(
            self.path,
            setting,
            f"is of the type {type(value).__name__}, and no text, number or list",
        )

    def _text(self, text: str, setting: str) -> str:
        if "${" in text and not (self.references and ":" not in text):
            raise refused_setting(
                self.path,
                setting,
                f"is {shown(text)}, and ${{...}} stands for something else, such as an environment variable, which "
                "no file may ask for",
            )
        if len(text) > MOST_CHARACTERS:
            raise refused_setting(self.path, setting, f"has {len(text):,} characters")
        return str(text)

    def _mapping(self, values: dict[Any, Any], setting: str, levels: int) -> dict[str, Any]:
        read = {}
        for key, value in values.items():
            if not isinstance(key, str):
                raise refused_setting(self.path, setting, f"has a name that is no text, {shown(key)}")
            read[self._text(key, setting)] = self.read(
                value, f"{setting}.{key}" if setting else key, levels - 1
            )
        return read
