"""What the benchmarks share: an LLM of a given size, clocks, peak memory, and the file that each writes."""

import argparse
import ctypes
import json
import os
import platform
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lst_fairseq.utils.machine import processor

PAD, EOS = 1, 2
MIB = 2**20


def add_llm_arguments(parser: argparse.ArgumentParser, **defaults: int) -> None:
    """Flags of the LLM's size: layers, width, heads, kv-heads, intermediate, vocabulary."""
    sizes = {"layers": 8, "width": 512, "heads": 8, "kv_heads": 8, "intermediate": 1376, "vocabulary": 32_000}
    for name, size in {**sizes, **defaults}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help=f"of the LLM ({size})")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of where it runs, and in which type."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")


def add_common_arguments(parser: argparse.ArgumentParser, repeats: int = 3) -> None:
    """Flags of where and how often, and of the file that is written."""
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed runs of each side ({repeats})")
    add_device_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")


def device_of(args: Namespace) -> torch.device:
    """The device, with the threads set."""
    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.device(args.device)


def llama_config(args: Namespace) -> LlamaConfig:
    """Of a Llama of the sizes and the type that the flags say."""
    return LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=0,
        initializer_range=0.05,
        dtype=getattr(torch, args.dtype),
    )


def llama(args: Namespace, device: torch.device) -> LlamaForCausalLM:
    """That Llama with random weights."""
    torch.manual_seed(1)
    config = llama_config(args)
    before = torch.get_default_dtype()
    torch.set_default_dtype(config.dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


@dataclass
class Timing:
    """Seconds of each run on the clock, and of the CPU: what other work on the machine does not add to."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu_seconds)


def timed(call: Callable[[], Any], device: torch.device, timing: Timing) -> Any:
    """What the call returns; its time is added to ``timing``."""
    _synchronise(device)
    started, cpu_started = time.perf_counter(), time.process_time()
    result = call()
    _synchronise(device)
    timing.seconds.append(time.perf_counter() - started)
    timing.cpu_seconds.append(time.process_time() - cpu_started)
    return result


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device, warm: bool = True
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Run each call once to warm up and then ``repeats`` times, in turns; timings and last results by name."""
    timings = {name: Timing() for name in calls}
    results: dict[str, Any] = {}
    if warm:
        for call in calls.values():
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            results[name] = timed(call, device, timings[name])
    return timings, results


def ratios(timings: Mapping[str, Timing], ours: str, theirs: str) -> dict[str, float]:
    """How many times faster ``ours`` is, by the clock and by the CPU's time."""
    return {
        "ratio": timings[theirs].median / timings[ours].median,
        "cpu_ratio": timings[theirs].cpu_median / timings[ours].cpu_median,
    }


class PeakMemory:
    """Most memory in use while a block runs, in bytes: the process's on Linux, or the GPU's.

    Attributes:
        before: in use at the start of the block.
        peak: the most in use within it.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
            self.before = resident_bytes()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = resident_bytes("VmHWM")

    @property
    def added(self) -> int:
        return max(0, self.peak - self.before)


def give_freed_memory_back() -> None:
    """Let a process's size show what it holds: glibc keeps freed tensors unless each has pages of its own."""
    ctypes.CDLL(None).mallopt(-3, 64 * 1024)  # M_MMAP_THRESHOLD, mallopt(3)


def resident_bytes(kind: str = "VmRSS") -> int:
    """Resident memory of this process; ``VmHWM`` is the most since the mark was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {kind}: memory is measured on Linux only")


def write_json(path: Path | None, args: Namespace, title: str, **values: Any) -> None:
    """Write a benchmark's numbers, with its settings and the machine, if a file is wanted."""
    if path is None:
        return
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    for place in ("json", "out"):  # which the numbers do not depend on
        settings.pop(place, None)
    device = settings.get("device", "cpu")
    machine = {
        "device": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else "CPU",
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    result = {"title": title, **values, "settings": settings, "machine": machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
