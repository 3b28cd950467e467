#!/usr/bin/env python3
"""How far the plugin is from what a GPU can do, at LST-7B's size with random weights; benchmarks/gpu.sh runs it all.

    python benchmarks/gpu.py stage1 --device cuda --dtype bfloat16 --json stage1.json
    python benchmarks/gpu.py stage2 --device cuda --dtype bfloat16 --batch 4
    python benchmarks/gpu.py decoding --device cuda --dtype bfloat16
    python benchmarks/gpu.py stage1 --layers 2 --width 64 ...      # the same at any size, also on a CPU

stage1, stage2: updates of the adapter, and of adapter and LLM, of 128 sentences as in the recipe, in as many batches
as that takes. Model FLOP utilisation is the arithmetic of the update (counted by torch in a run of one row without
recomputation, times the rows) over its time, over the peak rate of a large matrix product measured in the same run. The
peak memory of the update stands beside the estimate of lst_fairseq.planning.plan for the same batch.
decoding: the least time that memory bandwidth and peak rate allow for a batch's beam search, over its time: each step
reads all weights and all keys and values once. Bandwidth is that of a large copy in the same run. The time without
CUDA graphs stands beside.
"""

import argparse
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import (
    PeakMemory,
    Timing,
    add_common_arguments,
    add_llm_arguments,
    device_of,
    in_turns,
    llama_config,
    timed,
    write_json,
)
from benchmarks.decoding import Task
from benchmarks.model import (
    PROMPT_AFTER,
    PROMPT_BEFORE,
    Training,
    add_frontend_arguments,
    batch,
    lst_model,
    model_settings,
)
from lst_fairseq.planning.activations import Batch
from lst_fairseq.planning.estimate import estimates
from lst_fairseq.planning.plan import GIB, build_empty

#: Of an update, as in the recipe.
SENTENCES = 128
STAGES = {"stage1": "adapter", "stage2": "adapter,llm"}


def rate(call: Callable[[], Any], amount: float, device: torch.device, repeats: int = 10) -> float:
    """``amount`` a second of the fastest of several calls."""
    timing = Timing()
    for _ in range(repeats + 1):
        timed(call, device, timing)
    return amount / min(timing.seconds[1:])


def peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return rate(lambda: torch.mm(a, b, out=out), 2 * size**3, device)


def bandwidth(device: torch.device, n_bytes: int) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.zeros(n_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return rate(lambda: target.copy_(source), n_bytes, device)


def row_flops(training: Training, seconds: float, tokens: int) -> int:
    """FLOP of loss and gradients for one row, without what checkpointing computes again."""
    model = training.model
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    with FlopCounterMode(display=False) as counter:
        loss, _, _ = training.criterion(model, batch(model, [seconds], [tokens]))
        loss.backward()
    for layer in layers:
        layer.gradient_checkpointing = True
    training.optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = None
    return counter.get_total_flops()


def planned_bytes(args: Namespace, train: str) -> int:
    """What lst_fairseq.planning.plan expects on one GPU."""
    cfg, settings = model_settings(args, train, args.checkpointing)
    cfg.llm_dtype = "float32" if "llm" in train else args.dtype
    model = build_empty(cfg, llama_config(args), settings)
    sizes = Batch(args.batch, args.seconds, PROMPT_BEFORE + PROMPT_AFTER, args.target_tokens)
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]
    found = estimates(model, sizes, gpus=1, shard_frozen=False)
    return next(e.total for e in found if (e.engine, e.precision) == ("legacy_ddp", precision))


def stage(args: Namespace, device: torch.device) -> dict[str, Any]:
    """Utilisation and memory of updates."""
    dtype = getattr(torch, args.dtype)
    peak = peak_flops(device, dtype, args.matrix)
    planned = planned_bytes(args, STAGES[args.what])
    with PeakMemory(device) as memory:
        model = lst_model(args, device, STAGES[args.what], args.checkpointing)
        training = Training(model)
        sample = batch(model, [args.seconds] * args.batch, [args.target_tokens] * args.batch)
        timing = Timing()
        for _ in range(args.repeats + 1):  # the first fills Adam's states
            timed(lambda: training.step(*[sample] * args.update_freq), device, timing)
        timing.seconds = timing.seconds[1:]
    flops = args.update_freq * args.batch * row_flops(training, args.seconds, args.target_tokens)
    utilisation = flops / timing.median / peak
    print(f"peak {peak / 1e12:.1f} TFLOP/s; an update: {timing.median:.3f} s, {flops / 1e12:.2f} TFLOP")
    speech = args.update_freq * args.batch * args.seconds / timing.median
    print(f"model FLOP utilisation {utilisation:.1%}; {speech:.0f} s of speech a second")
    print(f"memory {memory.peak / GIB:.2f} GiB at most, planned {planned / GIB:.2f} GiB")
    return {
        "ratio": utilisation,
        "peer": "peak rate of a matrix product in the same run",
        "unit": "of its FLOP a second",
        "peak_tflops": peak / 1e12,
        "update_seconds": timing.median,
        "update_tflop": flops / 1e12,
        "peak_bytes": memory.peak,
        "planned_bytes": planned,
        "peak_over_planned": memory.peak / planned,
    }


@torch.inference_mode()
def decoding(args: Namespace, device: torch.device) -> dict[str, Any]:
    """Time of a beam search over what the machine's limits allow."""
    dtype = getattr(torch, args.dtype)
    peak, speed = peak_flops(device, dtype, args.matrix), bandwidth(device, args.copy_mib * 2**20)
    task = Task.build(args, device)
    calls = {"plugin": task.plugin, "step by step": task.plugin_step_by_step}
    timings, _ = in_turns(calls, args.repeats, device)
    timing, plain = timings["plugin"], timings["step by step"]
    recording = task.model.decoder.recording
    recorded = recording.wanted and not recording.checks
    weights = sum(p.numel() for p in task.llm.parameters()) - task.llm.get_input_embeddings().weight.numel()
    key_values = 2 * args.layers * args.width * args.kv_heads // args.heads
    positions = int(task.lengths.sum())
    # Half of the generated tokens are there on average; the beams of a sentence read its prefix together.
    cached = key_values * (positions + args.batch * args.beam * args.tokens / 2)
    steps = args.tokens * (weights + cached) * dtype.itemsize / speed
    prefill = 2 * weights * positions / peak
    least = steps + prefill
    print(f"copy {speed / 1e9:.0f} GB/s, peak {peak / 1e12:.1f} TFLOP/s")
    print(
        f"{timing.median:.3f} s; the limits allow {least:.3f} s ({prefill:.3f} s prefill): {least / timing.median:.1%}"
    )
    print(f"steps recorded as CUDA graphs: {recorded}; step by step it takes {plain.median:.3f} s")
    return {
        "ratio": least / timing.median,
        "peer": "the least that memory bandwidth and peak rate allow",
        "unit": "of the limit",
        "seconds": timing.seconds,
        "recorded": recorded,
        "seconds_step_by_step": plain.seconds,
        "limit_seconds": least,
        "prefill_limit_seconds": prefill,
        "bandwidth_gb_s": speed / 1e9,
        "peak_tflops": peak / 1e12,
        "tokens_per_second": args.batch * args.tokens / timing.median,
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*STAGES, "decoding"])
    add_llm_arguments(parser, layers=32, width=4096, heads=32, kv_heads=32, intermediate=11_008)
    add_frontend_arguments(parser, frontend_layers=24, frontend_width=1024, frontend_heads=16, adapter_channels=1024)
    parser.add_argument("--batch", type=int, default=16, help="sentences (16)")
    parser.add_argument(
        "--update-freq", type=int, metavar="N", help=f"batches of an update (so that it has {SENTENCES} sentences)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each sentence's speech in training (10)")
    parser.add_argument("--target-tokens", type=int, default=40, help="of each target in training (40)")
    parser.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute the LLM's activations again in the backward pass (as lst_7b: in stage2, not in stage1)",
    )
    parser.add_argument("--prefix", type=int, default=150, help="positions of the longest prefix in decoding (150)")
    parser.add_argument("--tokens", type=int, default=40, help="of each hypothesis in decoding (40)")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the matrices whose product is timed (8192)")
    parser.add_argument("--copy-mib", type=int, default=4096, help="that the timed copy reads and writes (4096)")
    add_common_arguments(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> Namespace:
    """The flags, with what follows from others."""
    args = build_parser().parse_args(argv)
    if args.checkpointing is None:
        args.checkpointing = args.what == "stage2"
    if args.update_freq is None:
        args.update_freq = max(1, SENTENCES // args.batch)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    device = device_of(args)
    started = time.perf_counter()
    size = f"LLM {args.layers} x {args.width}, {args.dtype}"
    activations = "recomputed" if args.checkpointing else "kept"
    update = f"{size}, {args.update_freq} x {args.batch} x {args.seconds:g} s an update, activations {activations}"
    titles = {
        "stage1": f"Model FLOP utilisation of stage 1, {update}",
        "stage2": f"Model FLOP utilisation of stage 2, {update}",
        "decoding": f"Beam {args.beam} against the machine's limits, {size}, batch {args.batch}",
    }
    try:
        result = decoding(args, device) if args.what == "decoding" else stage(args, device)
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"error: {args.what} does not fit on {args.device} ({reason}); lower --batch or --seconds")
    print(f"{args.what}: done in {time.perf_counter() - started:.0f} s")
    write_json(args.json, args, titles[args.what], **result)


if __name__ == "__main__":
    main()
