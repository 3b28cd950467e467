#!/usr/bin/env python3
"""What --cache-features costs and when it pays: time and disk for an hour of speech, and epochs with and without.

    python benchmarks/features.py                                          # CPU, small models
    python benchmarks/features.py --encoder-width 1024 --encoder-layers 24 --json features.json

Trains the adapter (stage 1) for an epoch from the waveforms, fills the cache, and trains for an epoch from the cache.
The cache pays from the epoch on at which filling it has been saved: fill / (epoch without - epoch with).
"""

import argparse
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import add_common_arguments, device_of, in_turns, write_json
from benchmarks.corpus import make
from benchmarks.loading import batches, to
from benchmarks.model import Training
from benchmarks.startup import build
from lst_fairseq.data.audio import SAMPLE_RATE


def measure(folder: Path, args: Namespace, device: torch.device) -> dict[str, Any]:
    """All that is reported, for an hour of speech."""
    plain, model = make(folder, args)
    cached, cached_model = build(folder, "--cache-features", str(folder / "features"))
    epochs: dict[str, Any] = {}
    for name, task, its_model in (("waveforms", plain, model), ("cache", cached, cached_model)):
        its_model.to(device).train()
        task.load_dataset("train")
        training = Training(its_model)

        def epoch(task: Any = task, training: Training = training) -> None:
            for sample in batches(task, args.max_tokens, 0):
                training.step(to(device, sample))

        epochs[name] = epoch
    hours = sum(plain.dataset("train").n_frames) / SAMPLE_RATE / 3600
    started = time.perf_counter()
    batches(cached, args.max_tokens, 0)  # fills it
    fill = (time.perf_counter() - started) / hours
    on_disk = sum(file.stat().st_size for file in (folder / "features").rglob("*.npy")) / hours
    timings, _ = in_turns(epochs, args.repeats, device, warm=False)
    without, with_cache = (timings[name].median / hours for name in ("waveforms", "cache"))
    return {
        "ratio": without / with_cache,
        "hours": hours,
        "fill_seconds_an_hour": fill,
        "disk_bytes_an_hour": on_disk,
        "epoch_seconds_an_hour": without,
        "cached_epoch_seconds_an_hour": with_cache,
        "pays_after_epochs": fill / (without - with_cache) if without > with_cache else None,
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=60, help="segments of 10 s on average (60)")
    parser.add_argument("--max-tokens", type=int, default=3000, help="LLM positions of a batch (3000)")
    parser.add_argument("--encoder-width", type=int, default=512)
    parser.add_argument("--encoder-layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256, help="of the LLM (256)")
    parser.add_argument("--layers", type=int, default=4, help="of the LLM (4)")
    add_common_arguments(parser, repeats=1)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args, device_of(args))
    pays = result["pays_after_epochs"]
    print(f"for an hour of speech: {result['fill_seconds_an_hour']:.0f} s to fill, ", end="")
    print(f"{result['disk_bytes_an_hour'] / 1e6:.0f} MB on disk")
    print(f"an epoch: {result['epoch_seconds_an_hour']:.0f} s from waveforms, ", end="")
    print(f"{result['cached_epoch_seconds_an_hour']:.0f} s from the cache; ratio {result['ratio']:.2f}")
    print("it does not pay" if pays is None else f"it pays after {pays:.1f} epochs")
    title = f"An epoch of stage 1 from cached features, speech encoder {args.encoder_layers} x {args.encoder_width}"
    write_json(args.json, args, title, peer="from waveforms", unit="times the speed", **result)


if __name__ == "__main__":
    main()
