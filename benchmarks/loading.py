#!/usr/bin/env python3
"""Whether data loading keeps up with training: a step with batches read from talks against the same steps without.

    python benchmarks/loading.py                          # CPU, small models, two workers
    python benchmarks/loading.py --workers 0 --json loading.json

Segments are parts of wav files of half an hour. Reported: how many bytes reading takes from the files for each byte of
the segments (1 is ideal, the size of a talk over that of a segment would be reading whole files), seconds of speech
that loading alone delivers a second, and the time of an epoch of updates with loading over that of the very same
batches held in memory (1 is ideal). Stage 1 is trained: the adapter, with the speech encoder run in each step.
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
from benchmarks.model import Training
from lst_fairseq.data.audio import SAMPLE_RATE


def batches(task: Any, max_tokens: int, workers: int, shuffle: bool = False) -> Any:
    """An epoch's batches, one after the other: the longest utterances first, or shuffled."""
    iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=max_tokens, num_workers=workers)
    return iterator.next_epoch_itr(shuffle=shuffle)


def bytes_read() -> int:
    """What this process has asked of files so far (proc(5))."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def to(device: torch.device, sample: Any) -> Any:
    """A batch with its tensors on the device."""
    if isinstance(sample, dict):
        return {name: to(device, value) for name, value in sample.items()}
    return sample.to(device) if torch.is_tensor(sample) else sample


def measure(folder: Path, args: Namespace, device: torch.device) -> dict[str, Any]:
    """All that is reported."""
    task, model = make(folder, args)
    model.to(device).train()
    task.load_dataset("train")
    seconds = sum(task.dataset("train").n_frames) / SAMPLE_RATE
    before, started = bytes_read(), time.perf_counter()
    held = list(batches(task, args.max_tokens, 0))
    alone, taken = time.perf_counter() - started, bytes_read() - before
    talk = next((folder / "wav").glob("*.wav")).stat().st_size
    training = Training(model)

    def compute() -> None:
        for sample in held:
            training.step(to(device, sample))

    def loaded() -> None:
        for sample in batches(task, args.max_tokens, args.workers):
            training.step(to(device, sample))

    timings, _ = in_turns({"loaded": loaded, "compute": compute}, args.repeats, device)
    return {
        "ratio": timings["loaded"].median / timings["compute"].median,
        "bytes_read_over_segments": taken / (2 * SAMPLE_RATE * seconds),
        "whole_files_over_segments": talk * len(task.dataset("train")) / (2 * SAMPLE_RATE * seconds),
        "speech_seconds_loaded_a_second": seconds / alone,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "batches": len(held),
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=120, help="segments (120)")
    parser.add_argument("--workers", type=int, default=2, help="processes that load data (2)")
    parser.add_argument("--max-tokens", type=int, default=3000, help="LLM positions of a batch (3000)")
    parser.add_argument("--encoder-width", type=int, default=256)
    parser.add_argument("--encoder-layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256, help="of the LLM (256)")
    parser.add_argument("--layers", type=int, default=4, help="of the LLM (4)")
    add_common_arguments(parser, repeats=1)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args, device_of(args))
    print(f"bytes read for each byte of the segments: {result['bytes_read_over_segments']:.2f}")
    print(f"  (reading whole files would take {result['whole_files_over_segments']:.0f})")
    print(f"loading alone: {result['speech_seconds_loaded_a_second']:.0f} s of speech a second")
    print(f"an epoch with loading over the same batches in memory: {result['ratio']:.2f}")
    title = f"An epoch with loading by {args.workers} processes, stage 1"
    write_json(args.json, args, title, peer="the same batches held in memory", unit="times its seconds", **result)


if __name__ == "__main__":
    main()
