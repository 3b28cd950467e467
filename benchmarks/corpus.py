"""A made-up corpus with sound in it, and a task over it, for benchmarks that read audio."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.startup import build, write_corpus, write_models

HEADER_BYTES = 44


def sizes_of(width: int, layers: int) -> dict[str, int]:
    """A Transformer of that size, as transformers' configurations name it."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
    }


def write_noise(folder: Path) -> None:
    """Fill the talks' wav files, which are sparse, with noise."""
    noise = np.random.default_rng(1).integers(-3000, 3000, 1_000_000, dtype=np.int16)
    for path in sorted((folder / "wav").glob("*.wav")):
        left = (path.stat().st_size - HEADER_BYTES) // 2
        with open(path, "r+b") as file:
            file.seek(HEADER_BYTES)
            while left:
                chunk = noise[: min(left, len(noise))]
                file.write(chunk.tobytes())
                left -= len(chunk)


def make(folder: Path, args: Namespace, *flags: str, longest: float = 19.0) -> tuple[Any, Any]:
    """(task, model) over --lines segments of talks of half an hour, with backbones of --width, --encoder-width, ...

    Args:
        folder: an empty one, for everything.
        args: lines, encoder_width, encoder_layers, width, layers.
        flags: of fairseq-train, besides.
        longest: seconds of the longest segment.
    """
    texts = write_corpus(folder, args.lines, 0.5, longest)
    write_noise(folder)
    encoder, llm = sizes_of(args.encoder_width, args.encoder_layers), sizes_of(args.width, args.layers)
    write_models(folder, texts, encoder, llm)
    return build(folder, *flags)
