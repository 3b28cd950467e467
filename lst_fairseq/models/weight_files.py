"""The files that hold a model's weights: finding them, and what can be told without reading all of them."""

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lst_fairseq.models.config_checks import StoredSizes
from lst_fairseq.utils.checksums import Damaged, check_records, check_regular, read_model_json

#: Bytes hashed at the beginning, middle and end of each tensor: enough to tell two trainings apart, and a 13B LLM is
#: fingerprinted in a second.
SAMPLE_BYTES = 1024


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights, safetensors before pickled ones."""
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def fingerprint(path: Path) -> str:
    """A short hash of a model's weights: names, types, shapes and samples of every tensor's bytes.

    It does not depend on where the directory lies or on how many files the tensors are split over (for safetensors).

    Args:
        path: a save_pretrained directory, or a single file such as a fairseq checkpoint, of which samples and the size
            are hashed, and not the name.
    """
    digest = hashlib.sha256()
    if path.is_file():
        pieces = [("", _file_samples(path))]
    else:
        pieces = [piece for file in weight_files(path) for piece in _tensor_samples(file)]
    for name, content in sorted(pieces):
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _tensor_samples(file: Path) -> list[tuple[str, bytes]]:
    if file.suffix != ".safetensors":
        return [(file.name, _file_samples(file))]
    header, start = safetensors_header(file)
    samples = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        described = f"{entry['dtype']} {entry['shape']}".encode()
        samples.append((name, described + _samples(file, start + begin, end - begin)))
    return samples


def _file_samples(file: Path) -> bytes:
    size = file.stat().st_size
    return str(size).encode() + _samples(file, 0, size)


def safetensors_header(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says about each tensor, and where its data begins.

    Raises:
        ValueError: the file is cut short or damaged; names it.
    """
    try:
        check_regular(file)
        with safe_open(file, framework="pt"):  # compares names, types, shapes, places and the file's size
            pass
    except (SafetensorError, OSError, Damaged) as error:
        raise ValueError(f"{file}: not a safetensors file, truncated or damaged ({error}); copy it again") from None
    with open(file, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def stored_sizes(directory: Path) -> StoredSizes:
    """Sizes of a directory's tensors; of pickled ones no more than what so many bytes could hold.

    Without weights, as planning takes it, a directory may say what it likes.
    """
    files = weight_files(directory)
    if not files:
        return StoredSizes(sys.maxsize, sys.maxsize, has_positions=False)
    if any(file.suffix != ".safetensors" for file in files):
        return StoredSizes(sys.maxsize, sum(file.stat().st_size for file in files), has_positions=False)
    return StoredSizes.of(
        {name: entry["shape"] for file in files for name, entry in safetensors_header(file)[0].items()}
    )


def check_weights(directory: Path) -> None:
    """Look at all that can be seen to be damaged before transformers reads a directory's weights.

    Raises:
        ValueError: names the file.
    """
    for file in weight_files(directory):
        if file.suffix == ".safetensors":
            safetensors_header(file)
            continue
        try:
            check_records(file)
        except RuntimeError as error:
            raise ValueError(f"{file}: truncated or damaged ({error}); copy it again") from None
    for file in directory.glob("*.index.json"):
        index = read_model_json(file)
        names = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"{file}: no table of weights (weight_map); copy it again")
        if missing := sorted(name for name in set(names.values()) if not (directory / name).is_file()):
            raise ValueError(f"{file}: names {', '.join(missing[:8])}, which are not there; copy the model again")


def _samples(file: Path, begin: int, size: int) -> bytes:
    with open(file, "rb") as f:
        content = []
        for offset in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            f.seek(begin + offset)
            content.append(f.read(min(SAMPLE_BYTES, size - offset)))
    return b"".join(content)
