#!/usr/bin/env python3
"""Fully sharded training against plain data parallelism on the same processes: time, bytes sent, memory, loading.

    python benchmarks/sharding.py                                  # 2 gloo processes, a small Llama
    python benchmarks/sharding.py --processes 2 4 --width 256 --layers 4 --json out.json
    python benchmarks/sharding.py --train-modules adapter,lora --shard-frozen
    python benchmarks/sharding.py --processes 4 --shard-group 2    # hybrid: divided in two, two of each part

Each process builds LST with a Llama of random weights, once under fairseq's legacy_ddp and once fully sharded, and both
train in turns on the same made-up batches: one warm-up step and then --steps of each; the ratio is that of the medians.
Bytes are counted at torch.distributed's calls, as a ring sends them: (N - 1) / N of a tensor that is gathered or
scattered, twice that of one that is summed everywhere. FSDP's theory is three times the parameters a step: gathered for
the forward and for the backward pass, and scattered gradients (with --shard-group within a group, whose parts are then
summed between groups).
Memory is measured on Linux, in other processes, in which glibc gives freed tensors back at once, which costs time. So
it is of live ones: what a process grows by at most while it loads, over two steps after that, and over both; beside
it what the plan says of parameters, gradients and states.
Several numbers of --processes run one after the other: what a process holds has to fall as the plan says.
"""

import argparse
import gc
import inspect
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.optim.adam import Adam
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, Wav2Vec2Config, Wav2Vec2ForCTC

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import give_freed_memory_back, write_json
from lst_fairseq.distributed.fsdp import ShardingSettings, build_mesh, shard
from lst_fairseq.models.config import LstModelConfig
from lst_fairseq.models.llm.meta_device import deferred_weights
from lst_fairseq.models.lst import LstModel
from lst_fairseq.planning.estimate import Sharding, sharded_bytes, state_bytes
from lst_fairseq.tasks.config import LstTaskConfig
from lst_fairseq.tasks.lst_st import LstTask

MB = 1e6
TOLERANCE = 1e-5  # of the losses of both engines
CPU = torch.device("cpu")
VOCABULARY = 1000
#: What the processes of a group do: their number in it, arguments and a folder to what they found.
Measure = Callable[[int, argparse.Namespace, Path], dict[str, Any]]


def save_backbones(args: argparse.Namespace, folder: Path) -> None:
    """A Llama of the wanted size, and a small wav2vec 2.0."""
    tokenizer = LlamaTokenizer().train_new_from_iterator(["Der Zug fährt um sieben."], vocab_size=60)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=args.width,
        intermediate_size=args.intermediate or 3 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (10, 32)}
    positions = {"num_conv_pos_embeddings": 9, "num_conv_pos_embedding_groups": 4}
    layer_norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    frontend = Wav2Vec2Config(vocab_size=12, **sizes, **convolutions, **positions, **layer_norm)
    Wav2Vec2ForCTC(frontend).save_pretrained(folder / "frontend")


def build(args: argparse.Namespace, folder: Path) -> LstModel:
    """The model as fairseq-train builds it, without data."""
    torch.manual_seed(1)
    cfg = LstTaskConfig(data=str(folder), llm=str(folder / "llm"), speech_encoder=str(folder / "frontend"))
    checkpointing = args.gradient_checkpointing
    settings = {
        "train_modules": args.train_modules,
        "adapter_channels": 64,
        "llm_gradient_checkpointing": checkpointing,
    }
    model = OmegaConf.structured(LstModelConfig(_name="lst", **settings))
    return LstTask.setup_task(cfg).build_model(model).train()


def memory(line: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(1024 * int(text.split()[1]) for text in status if text.startswith(line))


@contextmanager
def peak(found: dict[str, tuple[int, int]], name: str) -> Iterator[None]:
    """Bytes of this process before, and at most inside."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
        reset.write("5")
    before = memory("VmRSS")
    yield
    found[name] = before, memory("VmHWM")


@contextmanager
def counted_bytes(sent: list[float]) -> Iterator[None]:
    """Add what this process sends to ``sent[0]``."""

    def count(call: Callable[..., Any], tensor: Callable[..., Tensor], times: int) -> Callable[..., Any]:
        signature = inspect.signature(call)

        def counting(*args: Any, **kwargs: Any) -> Any:
            size = dist.get_world_size(signature.bind(*args, **kwargs).arguments.get("group"))
            sent[0] += tensor(*args, **kwargs).nbytes * times * (size - 1) / size
            return call(*args, **kwargs)

        return counting

    def given(position: int, *names: str) -> Callable[..., Tensor]:
        def tensor(*args: Any, **kwargs: Any) -> Tensor:
            return args[position] if len(args) > position else next(kwargs[name] for name in names if name in kwargs)

        return tensor

    filled, taken = given(0, "output_tensor", "output"), given(1, "input", "input_tensor")
    calls = {  # FSDP2 of PyTorch 2.13 calls the ..._single functions, older ones the others
        "all_gather_single": (filled, 1),
        "all_gather_into_tensor": (filled, 1),
        "reduce_scatter_single": (taken, 1),
        "reduce_scatter_tensor": (taken, 1),
        "all_reduce": (given(0, "tensor"), 2),
    }
    calls = {name: call for name, call in calls.items() if hasattr(dist, name)}
    with ExitStack() as stack:
        for name, (tensor, times) in calls.items():
            stack.enter_context(mock.patch.object(dist, name, count(getattr(dist, name), tensor, times)))
        yield


def batch_of(args: argparse.Namespace, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(args.rows, 16_000, generator=generator)
    ids = torch.randint(3, 50, (args.rows, args.tokens), generator=generator)
    prompt = ids[:, :4]
    lengths = torch.full((args.rows,), samples.size(1))
    inputs = {"src_tokens": samples, "src_lengths": lengths, "prev_output_tokens": ids}
    return {**inputs, "prompt_before": prompt, "prompt_after": prompt}, ids


class Engine:
    """A model that trains, and what to do around a step."""

    def __init__(self, args: argparse.Namespace, folder: Path, sharded: bool):
        self.sharded = sharded
        with deferred_weights() if sharded else nullcontext():
            model = build(args, folder)
        self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if sharded:
            reshard = not args.no_reshard_after_forward
            settings = ShardingSettings(shard_frozen=args.shard_frozen, group=args.shard_group, reshard=reshard)
            self.model: Any = shard(model, settings, build_mesh(settings, dist.get_world_size(), CPU), CPU)
            self.parameters = self.model.parts
        else:
            self.model = LegacyDistributedDataParallel(model, dist.group.WORLD)
            self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Adam(self.parameters, lr=1e-4)
        self.losses: list[float] = []

    def step(self, net_input: dict[str, Tensor], target: Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        if self.sharded:
            self.model.zero_grads()
        logits, _ = self.model(**net_input)
        loss = cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        self.model.all_reduce_grads()
        self.optimizer.step()
        self.losses.append(loss.item())


ENGINES = ("sharded", "plain")


def measure_memory(rank: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bytes that a process grows by with each engine."""
    give_freed_memory_back()
    grown = {}
    for name in ENGINES:
        peaks: dict[str, tuple[int, int]] = {}
        with peak(peaks, "loading"):
            engine = Engine(args, folder, name == "sharded")
        with peak(peaks, "steps"):
            for i in range(2):
                engine.step(*batch_of(args, 100 * rank + i))
        start = peaks["loading"][0]
        grown[name] = {part: most - before for part, (before, most) in peaks.items()}
        grown[name]["in all"] = max(most - start for _, most in peaks.values())
        del engine
        gc.collect()
    return {"memory": grown}


def measure_speed(rank: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds and bytes sent of a step, of the engines in turns."""
    engines = {name: Engine(args, folder, name == "sharded") for name in ENGINES}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    bytes_sent: dict[str, float] = {}
    for i in range(1 + args.steps):
        for name, engine in engines.items():
            sent = [0.0]
            dist.barrier()
            started = time.perf_counter()
            with counted_bytes(sent):
                engine.step(*batch_of(args, 100 * rank + i))
            dist.barrier()
            seconds[name].append(time.perf_counter() - started)
            bytes_sent[name] = sent[0]
    return {
        "seconds": {name: statistics.median(values[1:]) for name, values in seconds.items()},
        "sent": bytes_sent,
        "losses": {name: engine.losses for name, engine in engines.items()},
        "trained": engines["plain"].trained,
    }


def process(rank: int, world_size: int, measure: Measure, args: argparse.Namespace, folder: Path, results: Any) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    meeting = folder / f"{measure.__name__}{world_size}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    results.put((rank, measure(rank, args, folder)))
    results.close()
    results.join_thread()  # a thread hands it over, which the end of the process would cut off
    dist.barrier()
    os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="gloo processes (default: 2)")
    parser.add_argument("--width", type=int, default=384, help="of the Llama (default: 384)")
    parser.add_argument("--intermediate", type=int, help="of its MLP (default: three times the width)")
    parser.add_argument("--layers", type=int, default=6, help="of the Llama (default: 6)")
    parser.add_argument("--rows", type=int, default=2, help="utterances of one second a process (default: 2)")
    parser.add_argument("--tokens", type=int, default=16, help="target tokens of each (default: 16)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each engine (default: 5)")
    parser.add_argument("--train-modules", default="adapter,llm", help="as fairseq-train takes them (adapter,llm)")
    parser.add_argument("--shard-frozen", action="store_true", help="divide frozen parameters too")
    parser.add_argument("--shard-group", type=int, default=0, help="processes that share one copy (default: all)")
    parser.add_argument("--no-reshard-after-forward", action="store_true", help="whole until the backward pass")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="of the LLM")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    args = parser.parse_args(arguments)
    if min(args.processes) < 2:
        parser.error("--processes: one process sends nothing; give 2 or more")
    if args.shard_group and any(size % args.shard_group for size in args.processes):
        parser.error(f"--shard-group {args.shard_group}: does not divide each of --processes")
    with tempfile.TemporaryDirectory() as name:
        save_backbones(args, Path(name))
        runs = {size: run(size, args, Path(name)) for size in args.processes}
        # After all runs, so that their processes are forked from one that has built no model.
        for size, found in runs.items():
            found["planned"] = plan(size, args, Path(name))
    report(args, runs)


def run(world_size: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the first of so many processes has found."""
    found: dict[str, Any] = {}
    context = torch.multiprocessing.get_context("fork")
    for measure in (measure_memory, measure_speed):
        results = context.Queue()
        processes = [
            context.Process(target=process, args=(r, world_size, measure, args, folder, results))
            for r in range(world_size)
        ]
        for each in processes:
            each.start()
        found |= dict(results.get() for _ in processes)[0]
        for each in processes:
            each.join()
    plain, sharded = found["losses"]["plain"], found["losses"]["sharded"]
    return {
        **found,
        "loss_difference": max(abs(a - b) for a, b in zip(plain, sharded, strict=True)),
        "theory": 4 * found["trained"] * sent_parameters(world_size, args.shard_group or world_size),
    }


def sent_parameters(world_size: int, group: int) -> float:
    """Parameters that a process sends a step, as a multiple of those trained: of FSDP, and of hybrid sharding."""
    groups = world_size // group
    return 3 * (group - 1) / group + 2 * (groups - 1) / groups / group


def plan(world_size: int, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, int]]:
    """What a process holds, by lst_fairseq.planning.estimate: parameters, gradients, states."""
    with deferred_weights():
        model = build(args, folder)
    sharding = Sharding(args.shard_frozen, reshard=not args.no_reshard_after_forward, accumulates=False)
    names = ("weights", "gradients", "optimizer")
    plain = state_bytes(model, "legacy_ddp", "fp32", world_size, False)
    divided = sharded_bytes(model, args.shard_group or world_size, sharding)
    return {"plain": dict(zip(names, plain, strict=True)), "sharded": dict(zip(names, divided, strict=True))}


COLUMNS = ("a process", "seconds a step", "MB sent", "MB to load", "more in steps", "in all")
PLANNED = ("planned: weights", "gradients", "states", "in all")


def report(args: argparse.Namespace, runs: dict[int, dict[str, Any]]) -> None:
    """Print the table of all runs, and write them."""
    columns = (*COLUMNS, *PLANNED)
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for size, found in runs.items():
        for name in ("plain", "sharded"):
            grown, planned = found["memory"][name].values(), found["planned"][name].values()
            sizes = (found["sent"][name], *grown, *planned, sum(planned))
            cells = (f"{name}, {size} processes", f"{found['seconds'][name]:.2f}", *(f"{n / MB:,.0f}" for n in sizes))
            table.append(f"| {' | '.join(cells)} |")
    print("\n".join(table))
    for size, found in runs.items():
        seconds, sent = found["seconds"], found["sent"]["sharded"]
        print(
            f"{size} processes, {found['trained'] / 1e6:.1f} M trained parameters: losses within "
            f"{found['loss_difference']:.1e}, throughput {seconds['plain'] / seconds['sharded']:.2f} times plain; "
            f"sharded sends {sent / found['theory']:.2f} times what FSDP's theory says ({found['theory'] / MB:.1f} MB)"
        )
    sizes = " and ".join(map(str, runs))
    difference = max(found["loss_difference"] for found in runs.values())
    write_json(
        args.json,
        args,
        f"Fully sharded training, {sizes} processes, {args.layers} layers x {args.width}",
        peers={
            str(size): {
                "peer": f"plain data parallelism on the same {size} processes",
                "ratio": found["seconds"]["plain"] / found["seconds"]["sharded"],
                "unit": f"times the speed; {found['sent']['sharded'] / found['theory']:.2f} of FSDP's theory sent",
            }
            for size, found in runs.items()
        },
        identical=difference < TOLERANCE,
        loss_difference=difference,
        processes=runs,
        table="\n".join(table),
    )


if __name__ == "__main__":
    main()
