"""Pretrained parts on disk: finding them, and telling one from another without reading all of it."""

import hashlib
import json
import pickle
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

#: Bytes hashed at the beginning, middle and end of each tensor: enough to tell two trainings apart, and a 13B LLM is
#: fingerprinted in a second.
SAMPLE_BYTES = 1024


def model_directory(path: str | None, flag: str) -> Path:
    """The directory a flag names, as ``save_pretrained`` writes it.

    Raises:
        ValueError: nothing was given, it is no directory, or it holds no config.json or no weights; the message names
            the flag, the path and the remedy.
    """
    if not path:
        raise ValueError(f"{flag} is not set: give the directory of a pretrained model (as save_pretrained writes it)")
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise ValueError(f"{flag} {path}: no such directory; download the model first and give its local path")
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:8]) or "nothing"
        raise ValueError(f"{flag} {path}: no config.json there (found: {found}); give a save_pretrained directory")
    if not weight_files(directory):
        raise ValueError(f"{flag} {path}: no weights there (*.safetensors or pytorch_model*.bin)")
    return directory


def model_config(directory: Path, flag: str, known: Collection[str] = ()) -> PretrainedConfig:
    """The configuration of a model directory.

    Raises:
        ValueError: config.json cannot be read, or its model type is none of the ``known`` ones (if any are given);
            the message names the flag, the directory and the known types.
    """
    try:
        model_type = PretrainedConfig.get_config_dict(directory, local_files_only=True)[0].get("model_type")
        if not known or model_type in known:
            return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{flag} {directory}: transformers cannot read its config.json: {error}") from error
    raise ValueError(
        f"{flag} {directory}: model type {model_type!r} is not one that serves here; known: {', '.join(sorted(known))}"
    )


def load_pretrained(
    cls: Any, directory: Path, config: PretrainedConfig, unused: tuple[str, ...] = ()
) -> PreTrainedModel:
    """Load a directory's weights in fp32, all of them or not at all.

    Args:
        cls: the transformers class, or auto class.
        directory: as :func:`model_directory` found it.
        config: its configuration.
        unused: names (endings) of parameters that the plugin never uses and that may be missing.

    Raises:
        ValueError: a weight file is truncated or unreadable, or parameters are missing or of another shape, listed.
    """
    for file in weight_files(directory):
        if file.suffix == ".safetensors":
            _safetensors_header(file)
    try:
        with without_load_report():
            model, info = cls.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_loaded lists them; transformers' own error does not
            )
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{directory}: the weights cannot be loaded ({reason}); copy the model again") from error
    check_loaded(info, directory, unused)
    return model


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights, safetensors before pickled ones."""
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def fingerprint(directory: Path) -> str:
    """A short hash of a model's weights: names, types, shapes and samples of every tensor's bytes.

    It does not depend on where the directory lies or on how many files the tensors are split over (for safetensors).
    """
    digest = hashlib.sha256()
    pieces = [piece for file in weight_files(directory) for piece in _tensor_samples(file)]
    for name, content in sorted(pieces):
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def encoder_fingerprint(path: str) -> str:
    """What a frontend's features depend on: its weights and both of its configurations."""
    directory = model_directory(path, "--speech-encoder")
    digest = hashlib.sha256(fingerprint(directory).encode())
    for name in ("config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:16]


def _tensor_samples(file: Path) -> list[tuple[str, bytes]]:
    if file.suffix != ".safetensors":
        return [(file.name, str(file.stat().st_size).encode() + _samples(file, 0, file.stat().st_size))]
    header, start = _safetensors_header(file)
    samples = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        described = f"{entry['dtype']} {entry['shape']}".encode()
        samples.append((name, described + _samples(file, start + begin, end - begin)))
    return samples


def _safetensors_header(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says about each tensor, and where its data begins; an error if the file is cut short."""
    with open(file, "rb") as f:
        header_bytes = f.read(8)
        if len(header_bytes) < 8:
            raise ValueError(f"{file}: not a safetensors file, or truncated; copy it again")
        (length,) = struct.unpack("<Q", header_bytes)
        start = 8 + length
        try:
            header = json.loads(f.read(length)) if start <= file.stat().st_size else None
        except ValueError:
            header = None
    if header is None:
        raise ValueError(f"{file}: not a safetensors file, or truncated; copy it again")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if start + entry["data_offsets"][1] > file.stat().st_size:
            raise ValueError(f"{file}: truncated in tensor {name}; copy it again")
    return header, start


def _samples(file: Path, begin: int, size: int) -> bytes:
    with open(file, "rb") as f:
        content = []
        for offset in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            f.seek(begin + offset)
            content.append(f.read(min(SAMPLE_BYTES, size - offset)))
    return b"".join(content)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of a tokenizer's vocabulary."""
    vocabulary: dict[str, Any] = tokenizer.get_vocab()
    text = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep transformers from reporting dropped heads as unexpected; :func:`check_loaded` reports what matters."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def check_loaded(info: dict[str, Any], directory: Path, unused: tuple[str, ...] = ()) -> None:
    """Turn a partial load into an error that lists the keys.

    Args:
        info: what ``from_pretrained(..., output_loading_info=True)`` reports.
        unused: names (endings) of parameters that the plugin never uses and that may be missing.
    """
    missing = [key for key in info["missing_keys"] if not key.endswith(unused)] if unused else info["missing_keys"]
    mismatched = info.get("mismatched_keys") or []
    problems = [f"missing {sorted(missing)}"] if missing else []
    problems += [f"of another shape {sorted(map(str, mismatched))}"] if mismatched else []
    if problems:
        raise ValueError(f"{directory}: the weights do not fit config.json: {'; '.join(problems)}")
