"""Settings of wav2vec 2.0 and HuBERT in fairseq's checkpoint files, old and new, without running code from them."""

import ast
import dataclasses
import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.dataclass import FairseqDataclass
from omegaconf import OmegaConf

from lst_fairseq.models.frontends.base import beyond_reason, check_rate
from lst_fairseq.utils.checksums import check_records
from lst_fairseq.utils.messages import one_line
from lst_fairseq.utils.read_errors import UNREADABLE

#: fairseq's name of a model -> where the encoder's parameters are in its checkpoint, and the frontend's kind.
MODELS = {
    "wav2vec2": ("", "fairseq-wav2vec2"),
    "hubert": ("", "fairseq-hubert"),
    "wav2vec_ctc": ("w2v_encoder.w2v_model.", "fairseq-wav2vec2"),
    "hubert_ctc": ("w2v_encoder.w2v_model.", "fairseq-hubert"),
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, read with weights only, so that no file can run code.

    Raises:
        ValueError: it is refused or truncated; the message names it.
    """
    try:
        check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"--speech-encoder {path}: refused, since it is no checkpoint or holds more than tensors and settings, and "
            f"reading it could run code ({asked[1] if asked else 'unknown content'}); use the file as its authors "
            "publish it"
        ) from None
    except UNREADABLE as error:
        if getattr(error, "filename", None):  # cannot be opened, and says which
            raise
        reason = one_line(error)
        raise ValueError(
            f"--speech-encoder {path}: not a complete checkpoint, perhaps truncated ({reason}); copy it again"
        ) from None
    return state


def checkpoint_settings(state: Any) -> tuple[dict[str, Any], str]:
    """What ``FairseqFrontend.settings`` would return for a checkpoint, and where its encoder's parameters are.

    Raises:
        ValueError: it is no fairseq checkpoint, or one of another kind of model.
    """
    known = ", ".join(MODELS)
    stored = plain(state.get("cfg")) or plain(state.get("args")) if isinstance(state, dict) else None
    if not isinstance(stored, dict) or not isinstance(state.get("model"), dict):
        raise ValueError(f"no fairseq checkpoint (no `model` with its `cfg` or `args`); known kinds: {known}")
    model, task = sections(stored)
    prefix, kind = MODELS.get(model_name(model), (None, None))
    if kind is None:
        raise ValueError(f"a checkpoint of kind {model_name(model)!r}, which is no speech encoder; known: {known}")
    _check_rate(task)
    encoder, apply_mask, normalize = model, True, [task, model]
    if prefix:
        if not isinstance(model.get("w2v_args"), dict):
            raise ValueError("its settings lack w2v_args, those of the encoder; use the file as its authors publish it")
        encoder, pretraining_task = sections(model["w2v_args"])
        _check_rate(pretraining_task)
        if model_name(encoder) not in MODELS or MODELS[model_name(encoder)] != ("", kind):
            raise ValueError(f"its encoder is of kind {model_name(encoder)!r}, which does not serve; known: {known}")
        # Wav2VecEncoder takes the type of layer from the fine-tuned model's settings (wav2vec2_asr.py:441).
        encoder = {**encoder, "layer_type": model.get("layer_type") or encoder.get("layer_type")}
        apply_mask, normalize = model.get("apply_mask", False), [task, model, pretraining_task, encoder]
    flags = [section["normalize"] for section in normalize if isinstance(section.get("normalize"), bool)]
    config = {**encoder, "apply_mask": bool(apply_mask)}
    return {"kind": kind, "config": config, "preprocessor": {"normalize": bool(flags and flags[0])}}, prefix


def _check_rate(task: dict[str, Any]) -> None:
    rate = task.get("sample_rate")
    # A reference to another section says nothing.
    check_rate(None if isinstance(rate, str) and rate.startswith(("${", "???")) else rate, "its task's sample_rate")


def plain(stored: Any) -> Any:
    """Settings in any of fairseq's containers (Namespace, DictConfig, numpy scalars) as plain Python values."""
    if OmegaConf.is_config(stored):
        stored = OmegaConf.to_container(stored, enum_to_str=True)
    if isinstance(stored, Namespace):
        stored = vars(stored)
    if isinstance(stored, dict):
        return {name: plain(value) for name, value in stored.items()}
    if isinstance(stored, (list, tuple)):
        return [plain(value) for value in stored]
    return stored.item() if isinstance(stored, np.generic) else stored


def sections(stored: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the model and of the task: two sections of a ``cfg``, one and the same of the older ``args``."""
    if isinstance(stored.get("model"), dict):
        return stored["model"], stored.get("task") or {}
    return stored, stored


def model_name(model: dict[str, Any]) -> str | None:
    """fairseq's name of a model, in newer and older settings."""
    return model.get("_name") or model.get("arch")


def encoder_settings(config_class: type[FairseqDataclass], stored: dict[str, Any]) -> dict[str, Any]:
    """The encoder's fields of stored settings, with fairseq's defaults for those that an older file lacks."""
    settings = {}
    for field in dataclasses.fields(config_class):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        value = stored.get(field.name)
        # A reference to another section ("${task.label_rate}") is of no use here.
        unset = value is None or (isinstance(value, str) and value.startswith(("${", "???")))
        settings[field.name] = default if unset else value
    if name := beyond_reason(settings):
        raise ValueError(f"its setting {name} is {str(settings[name])[:80]}, beyond reason; copy the file again")
    # How the pretraining saved memory does not bind those who use its encoder.
    settings["checkpoint_activations"] = False
    if "label_rate" in settings:
        settings["label_rate"] = 1.0  # of pretraining's targets
    return settings


#: Of a feature extractor, and of its text.
MOST_CONVOLUTIONS, LARGEST_CONVOLUTION, LONGEST_TEXT = 100, 65_536, 2_000


def parse_convolutions(text: str) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, from a text like ``[(512, 10, 5)] + [(512, 3, 2)] * 4``.

    Raises:
        ValueError: the text is anything but sums and multiples of lists of three whole numbers, or makes too many.
    """

    def layers(node: ast.expr) -> list[tuple[int, int, int]]:
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return layers(left) + layers(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 < times < 100:
                several = layers(left)
                if len(several) * times <= MOST_CONVOLUTIONS:
                    return several * times
            case ast.List(elts=elements):
                return [numbers(element) for element in elements]
        raise ValueError

    def numbers(node: ast.expr) -> tuple[int, int, int]:
        channels, kernel, stride = ast.literal_eval(node)
        if not all(type(number) is int and 0 < number <= LARGEST_CONVOLUTION for number in (channels, kernel, stride)):
            raise ValueError
        return channels, kernel, stride

    try:
        convolutions = layers(ast.parse(text.strip(), mode="eval").body) if len(text) <= LONGEST_TEXT else []
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        convolutions = []
    if not 0 < len(convolutions) <= MOST_CONVOLUTIONS:
        raise ValueError(f"conv_feature_layers {str(text)[:200]!r} is no list of (channels, kernel, stride)")
    return convolutions
