#!/usr/bin/env python3
"""Whether generation keeps memory: the process's resident memory while 10,000 sentences are translated.

    python benchmarks/host_memory.py                          # CPU, tiny models
    python benchmarks/host_memory.py --sentences 2000 --json host_memory.json

Sentences come from a manifest, in batches by --max-tokens, through the task's generator as in fairseq-generate, but
shuffled: in order of length, later batches have more rows, which need more memory without keeping any. Memory is looked
at ten times; what it grows by after the first tenth should be next to nothing. glibc is told to give freed memory back,
as MALLOC_MMAP_THRESHOLD_=65536 in the environment does; left to itself (--keep-freed) it keeps hundreds of MiB of it,
since no two batches are alike.

PyTorch's oneDNN keeps what it has prepared for each shape of a batch, in caches of a bounded number of entries. Until
they are full, after some 8,000 sentences here, they would look like a leak, so that they get 16 entries; set
ONEDNN_PRIMITIVE_CACHE_CAPACITY and LRU_CACHE_CAPACITY to 1024 to see them fill up.
"""

import argparse
import gc
import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import MIB, add_device_arguments, device_of, give_freed_memory_back, resident_bytes, write_json
from benchmarks.loading import batches, to
from benchmarks.startup import build, write_corpus, write_models

LOOKS = 10
#: Entries of oneDNN's caches, which PyTorch reads with the first operation that needs them, long after its import.
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@torch.inference_mode()
def measure(folder: Path, args: Namespace, device: torch.device) -> dict[str, Any]:
    """Resident MiB after each tenth of the sentences, and what they grew by since the first."""
    write_models(folder, write_corpus(folder, args.sentences, 0.1, 0.5))
    task, model = build(folder)
    model.to(device).eval()
    task.load_dataset("train")
    generator = task.build_generator([model], Namespace(beam=args.beam, max_len_b=args.tokens, min_len=args.tokens))
    n_sentences, resident = 0, []
    for sample in batches(task, args.max_tokens, 0, shuffle=True):
        n_sentences += len(task.inference_step(generator, [model], to(device, sample)))
        if n_sentences * LOOKS >= args.sentences * (len(resident) + 1):
            gc.collect()
            resident.append(round(resident_bytes() / MIB, 1))
            print(f"{n_sentences:,} sentences: {resident[-1]:,.1f} MiB", flush=True)
    return {
        "sentences": n_sentences,
        "resident_mib": resident,
        "growth_mib": round(resident[-1] - resident[0], 1),
        "growth_second_half_mib": round(resident[-1] - resident[LOOKS // 2 - 1], 1),
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=10_000, help="(10,000)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="LLM positions of a batch (4000)")
    parser.add_argument("--beam", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=5, help="of each hypothesis (5)")
    parser.add_argument("--keep-freed", action="store_true", help="leave it to glibc what freed memory it keeps")
    add_device_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    caches = {name: os.environ.setdefault(name, "16") for name in CAPACITIES}
    if not args.keep_freed:
        give_freed_memory_back()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args, device_of(args))
    print(f"growth after the first tenth: {result['growth_mib']:.1f} MiB")
    write_json(
        args.json, args, f"Host memory over {args.sentences:,} translated sentences", **result, cache_entries=caches
    )


if __name__ == "__main__":
    main()
