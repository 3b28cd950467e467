"""Checkpoints of trained parts: what they hold, and strict loading that says what does not fit.

A checkpoint holds the parameters of each module that is no longer what its directory holds, and names the directories
of the others by path and fingerprint. That record travels inside the model's state dict, as a tensor, because the
state dict is all that fairseq hands to a model when it resumes, fine-tunes or generates.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from lst_fairseq.errors import CheckpointError

RECORD_KEY = "lst_record"
FORMAT = 1

MODULES = ("frontend", "adapter", "lora", "llm")
#: Where each of them lies in the model; ``adapter`` includes the speech markers, ``lora`` lies inside the LLM.
MODULE_PREFIXES: dict[str, tuple[str, ...]] = {
    "frontend": ("encoder.frontend.",),
    "adapter": ("encoder.adapter.", "encoder.markers."),
    "llm": ("decoder.llm.",),
}
#: peft keeps a linear map's own weight under this name once it has a low-rank update beside it.
WRAPPED = ".base_layer."
KEYS_LISTED = 20


def module_of(key: str) -> str:
    """Which module a parameter belongs to."""
    for module, prefixes in MODULE_PREFIXES.items():
        if key.startswith(prefixes):
            return "lora" if module == "llm" and ".lora_" in key else module
    raise KeyError(key)


def plain_name(key: str) -> str:
    """A parameter's name in checkpoints: the same with and without low-rank updates in the model."""
    return key.replace(WRAPPED, ".")


@dataclass
class CheckpointRecord:
    """What a checkpoint says about itself."""

    held: list[str]  # MODULES whose parameters are in the checkpoint
    sources: dict[str, dict[str, str]]  # "frontend" and "llm": {"path", "fingerprint"}
    prompt: dict[str, Any]  # PromptSettings.as_dict()
    tokenizer: str  # fingerprint of the vocabulary
    format: int = field(default=FORMAT)

    def to_tensor(self) -> Tensor:
        """As int64 [L]: fairseq's checkpoint averaging adds tensors and divides, which leaves this one as it is."""
        return torch.tensor(list(json.dumps(asdict(self), sort_keys=True).encode()), dtype=torch.int64)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "CheckpointRecord":
        """As :meth:`parse`, of what :meth:`to_tensor` returned."""
        try:
            content = json.loads(bytes(tensor.tolist()).decode())
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _no_record(f"it is no JSON: {error}") from None
        return cls.parse(content)

    @classmethod
    def parse(cls, content: Any) -> "CheckpointRecord":
        """From JSON.

        Raises:
            CheckpointError: of another format, or damaged; says in which field.
        """
        if not isinstance(content, dict):
            raise _no_record(f"it is a {type(content).__name__} and not an object")
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint format {content.get('format')!r} is not this version's {FORMAT}; update lst_fairseq"
            )
        known = {entry.name for entry in fields(cls)}
        if odd := known ^ content.keys():
            raise _no_record(f"fields missing or unknown: {_listed(sorted(odd))}")
        record = cls(**content)
        if not isinstance(record.held, list) or any(module not in MODULES for module in record.held):
            raise _no_record(f"`held` is {record.held!r:.100}, and not a list of {', '.join(MODULES)}")
        sources = record.sources
        if not isinstance(sources, dict) or sources.keys() != {"frontend", "llm"}:
            raise _no_record("`sources` does not name frontend and llm")
        for name, source in sources.items():
            texts = isinstance(source, dict) and all(isinstance(value, str) for value in source.values())
            if not texts or source.keys() != {"path", "fingerprint"}:
                raise _no_record(f"`sources.{name}` is not a path and a fingerprint")
        if not isinstance(record.prompt, dict) or not isinstance(record.tokenizer, str):
            raise _no_record("`prompt` is no object, or `tokenizer` is no text")
        return record


def _no_record(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the record of what it holds ({RECORD_KEY}) is damaged ({reason}); copy it again from where it is whole, or "
        "use an earlier one"
    )


def aliases(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one under a second name (tied output and input embeddings)."""
    first: dict[int, str] = {}
    second: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            second[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return second


def held_state(model: nn.Module, full_state: dict[str, Tensor], record: CheckpointRecord) -> dict[str, Tensor]:
    """The part of a full state dict that goes into a checkpoint, with its record."""
    second_names = aliases(model)
    held = {k: v for k, v in full_state.items() if k not in second_names and module_of(k) in record.held}
    state = {plain_name(k): v for k, v in held.items()}
    state[RECORD_KEY] = record.to_tensor()
    return state


def complete_state(
    model: nn.Module, full_state: dict[str, Tensor], state: dict[str, Tensor], record: CheckpointRecord
) -> dict[str, Tensor]:
    """A checkpoint's state, with the frozen rest filled in from the model itself.

    Args:
        model: the model that loads.
        full_state: its own complete state dict.
        state: the checkpoint's, without the record.
        record: the checkpoint's record.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape; the message lists them.
    """
    second_names = aliases(model)
    own_names = {plain_name(k): k for k in full_state if k not in second_names and module_of(k) in record.held}
    expected = {name: full_state[key] for name, key in own_names.items()}
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{k} (checkpoint {list(state[k].shape)}, model {list(expected[k].shape)})"
            for k in sorted(expected.keys() & state.keys())
            if state[k].shape != expected[k].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_listed(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(
            f"the checkpoint does not fit this model (it holds {', '.join(record.held)}): {listed}. "
            "Use the --arch, adapter, LoRA and frontend settings, --speech-encoder and --llm that it was trained with"
        )
    complete = {**full_state, **{own_names[name]: value for name, value in state.items()}}
    return {**complete, **{alias: complete[name] for alias, name in second_names.items()}}


def check_sources(own: CheckpointRecord, loaded: CheckpointRecord) -> None:
    """Refuse a checkpoint whose frozen parts are not this model's.

    Raises:
        CheckpointError: another frontend or LLM, named with both paths and fingerprints.
    """
    flags = {"frontend": "--speech-encoder", "llm": "--llm"}
    for module, flag in flags.items():
        mine, theirs = own.sources[module], loaded.sources[module]
        if module not in loaded.held and mine["fingerprint"] != theirs["fingerprint"]:
            raise CheckpointError(
                f"the checkpoint was trained with {flag} {theirs['path']} (fingerprint {theirs['fingerprint']}), and "
                f"{flag} {mine['path']} has other weights (fingerprint {mine['fingerprint']}): give the first, "
                "wherever it lies now"
            )
    if own.tokenizer != loaded.tokenizer:
        raise CheckpointError(
            f"the checkpoint was trained with the tokenizer of {loaded.sources['llm']['path']}, and --llm "
            f"{own.sources['llm']['path']} has another vocabulary: give the first, wherever it lies now"
        )


def record_of(state_dict: dict[str, Any]) -> CheckpointRecord:
    """The record in a checkpoint's model state; a CheckpointError if it is another kind of model's."""
    if RECORD_KEY not in state_dict:
        raise CheckpointError(
            f"not a checkpoint of this plugin's model `lst` (no {RECORD_KEY}; keys such as {_listed(state_dict)}): "
            "give one that `fairseq-train --task lst_st` wrote"
        )
    return CheckpointRecord.from_tensor(state_dict[RECORD_KEY])


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - KEYS_LISTED} more" if len(keys) > KEYS_LISTED else ""
    return ", ".join(keys[:KEYS_LISTED]) + more
