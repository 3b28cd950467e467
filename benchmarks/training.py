#!/usr/bin/env python3
"""Training updates: fairseq's trainer with the plugin against plain Hugging Face loops, over the same modules.

    python benchmarks/training.py                                        # CPU, stage 2 of a small Llama
    python benchmarks/training.py --train-modules adapter --utterances 64 --json training.json
    python benchmarks/training.py --device cuda --dtype bfloat16 --arch lst_7b --layers 32 --width 4096 --heads 32 \\
        --intermediate 11008 --features 1024 --channels 1024 --utterances 512 --train-modules adapter

The sides train the same weights on the same utterances, whose lengths are distributed as MuST-C's, from features of a
frozen frontend that are on disk (the plugin) or in memory (the loops) already:

    plugin    fairseq's Trainer, task lst_st, criterion lst_cross_entropy, --cache-features; batches of --max-tokens, as
              large as makes the number of updates that of the loops; reading the batches is part of the time
    corpus    a plain loop: AutoModelForCausalLM with labels, --batch utterances in the corpus' order, padded
    grouped   the same loop over utterances sorted by length
    bare      nothing but forward, backward and torch's Adam over the plugin's batches, which are in memory

They take turns at each update on a CPU, so that other work on the machine disturbs all alike; on a GPU each has it to
itself. Loss and gradients of plugin and plain loop are compared on one batch beforehand. Weights are random: time does
not depend on them. Peak memory is what an update needs beyond what stands before it (weights, optimiser).
"""

import argparse
import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fairseq import options, tasks
from fairseq.data import iterators
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

import lst_fairseq
from benchmarks.common import write_json
from benchmarks.training_corpus import write_corpus
from lst_fairseq.models import lst

lst_fairseq.register()

IGNORED = -100
#: Largest relative difference of loss and gradients that the order of sums explains.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
SIDES = ("plugin", "corpus", "grouped", "bare")
LR = 2e-5
BETAS = (0.9, 0.98)


@dataclass
class Side:
    """One way to train: each ``next(updates)`` is an update, and gives its number of target tokens.

    The first one is not counted, and gives 0.
    """

    updates: Iterator[int]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    n_updates: int = 0
    peak_bytes: int = field(default=0)

    def step(self, device: torch.device) -> bool:
        """Run an update and measure; False if none was left."""
        with peak_memory(device) as peak:
            started, cpu = time.perf_counter(), time.process_time()
            n_tokens = next(self.updates, None)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        if not n_tokens:
            return n_tokens is not None
        self.seconds, self.cpu_seconds = self.seconds + seconds, self.cpu_seconds + cpu
        self.tokens, self.n_updates = self.tokens + n_tokens, self.n_updates + 1
        self.peak_bytes = max(self.peak_bytes, peak[0])
        return True


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """A list of one number, afterwards: bytes at the highest moment beyond those at the start (CPU: Linux only)."""
    peak = [0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    if not Path("/proc/self/clear_refs").exists():
        yield peak
        return
    ctypes.CDLL(None).malloc_trim(0)  # what earlier updates freed is given back, and counts again when it is used
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    yield peak
    peak[0] = resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of this process's memory, as the kernel calls them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def build(args: argparse.Namespace, folder: Path, device: torch.device) -> tuple[Any, Any, Any]:
    """(configuration, task, model) as fairseq-train builds them, but with random weights that are on no disk."""
    flags = [str(folder), "--task", "lst_st", "--arch", args.arch, "--train-modules", args.train_modules]
    flags += ["--speech-encoder", str(folder / "frontend"), "--llm", str(folder / "llm"), "--target-lang", "de"]
    flags += ["--adapter-channels", str(args.channels), "--cache-features", str(folder / "cache")]
    flags += ["--criterion", "lst_cross_entropy", "--optimizer", "adam", "--adam-betas", str(BETAS), "--lr", str(LR)]
    flags += ["--lr-scheduler", "fixed", "--train-subset", "train", "--num-workers", str(args.workers), "--seed", "1"]
    flags += ["--max-tokens", "1000", "--disable-validation", "--no-save", "--log-format", "none"]
    flags += ["--cpu"] if device.type == "cpu" else []
    flags += ["--bf16"] if args.dtype == "bfloat16" else []
    if args.dtype == "bfloat16" and "llm" not in args.train_modules:
        flags += ["--llm-dtype", "bfloat16"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), input_args=flags))

    def random_weights(auto_class: Any, directory: Path, config: Any, **settings: Any) -> Any:
        settings["dtype"] = getattr(torch, args.dtype)
        with device:
            return auto_class.from_config(config, trust_remote_code=False, **settings)

    real = lst.load_pretrained

    def load(auto_class: Any, *given: Any, **settings: Any) -> Any:
        return (random_weights if auto_class is AutoModelForCausalLM else real)(auto_class, *given, **settings)

    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    with mock.patch.object(lst, "load_pretrained", load):
        model = task.build_model(cfg.model)
    return cfg, task, model


def plain_loss(model: Any, items: Sequence[Any], device: torch.device) -> tuple[Tensor, int]:
    """Mean loss of some utterances as a loop over Hugging Face modules computes it, and the number of target tokens.

    The adapter is the plugin's, since Hugging Face has none; all logits are computed, and labels are -100 where there
    is no target.
    """
    encoder, llm = model.encoder, model.decoder.llm
    embed = llm.get_input_embeddings()
    features = pad_sequence([item.source for item in items], batch_first=True).to(device, encoder.markers.start.dtype)
    lengths = torch.tensor([len(item.source) for item in items], device=device)
    speech, lengths = encoder.markers(*encoder.adapter(features, lengths))
    rows, labels = [], []
    for item, vectors, length in zip(items, speech, lengths.tolist(), strict=True):
        before, after = (torch.tensor(ids, device=device) for ids in (item.prompt.before, item.prompt.after))
        target = item.target.to(device)
        row = torch.cat([embed(before), vectors[:length].to(embed.weight.dtype), embed(after), embed(target)])
        rows.append(row)
        labels.append(torch.cat([target.new_full((len(row) - len(target),), IGNORED), target]))
    mask = pad_sequence([label.new_ones(len(label)) for label in labels], batch_first=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    output = llm(
        inputs_embeds=pad_sequence(rows, batch_first=True), attention_mask=mask, labels=labels, use_cache=False
    )
    return output.loss, int(sum(len(item.target) for item in items))


def plain_updates(model: Any, batches: Sequence[Sequence[Any]], device: torch.device) -> Iterator[int]:
    """The plain loop over batches of utterances, which are in memory; the first one is the warm-up."""
    optimizer = adam(model)
    for number, items in enumerate(batches):
        optimizer.zero_grad()
        loss, n_tokens = plain_loss(model, items, device)
        loss.backward()
        optimizer.step()
        yield n_tokens if number else 0


def bare_updates(model: Any, criterion: Any, samples: Sequence[Any], trainer: Trainer) -> Iterator[int]:
    """Forward, backward and optimiser over the plugin's batches; the first one is the warm-up."""
    optimizer = adam(model)
    for number, sample in enumerate(samples):
        optimizer.zero_grad()
        sample, _ = trainer._prepare_sample(sample)
        loss, sample_size, _ = criterion(model, sample)
        (loss / sample_size).backward()
        optimizer.step()
        yield sample["ntokens"] if number else 0


def plugin_updates(trainer: Trainer, epoch_itr: Any, warm_up: Any) -> Iterator[int]:
    """fairseq-train's own loop (fairseq_cli/train.py:272) after an update of one batch."""
    trainer.train_step([warm_up])
    yield 0
    progress = iterators.GroupedIterator(epoch_itr.next_epoch_itr(shuffle=True), 1)
    for samples in progress:
        with metrics.aggregate("train_inner"):
            trainer.train_step(samples)
        yield sum(sample["ntokens"] for sample in samples)


def adam(model: Any) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=LR, betas=BETAS)


def same_number_of_batches(task: Any, dataset: Any, wanted: int) -> int:
    """The smallest --max-tokens that makes so many batches, or the most below that."""
    low, high = int(dataset.sizes.max()), int(dataset.sizes.sum())
    while low < high:
        middle = (low + high) // 2
        batches = task.get_batch_iterator(dataset, max_tokens=middle, disable_iterator_cache=True).frozen_batches
        if len(batches) > wanted:
            low = middle + 1
        else:
            high = middle
    return low


def compare(model: Any, criterion: Any, sample: Any, items: Sequence[Any], device: torch.device) -> dict[str, float]:
    """Relative difference of the plugin's loss and gradients from the plain loop's on one batch."""
    model.zero_grad(set_to_none=True)
    loss, size, _ = criterion(model, sample)
    ours = loss / size
    ours.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    theirs, _ = plain_loss(model, items, device)
    theirs.backward()
    apart, whole = 0.0, 0.0
    for name, p in model.named_parameters():
        if p.grad is not None:
            apart += float((p.grad.cpu() - gradients.pop(name)).double().square().sum())
            whole += float(p.grad.double().square().sum())
    model.zero_grad(set_to_none=True)
    if gradients:
        raise RuntimeError(f"the plain loop has no gradient for {', '.join(gradients)}")
    return {"loss": abs(ours.item() - theirs.item()) / theirs.item(), "gradient": (apart / whole) ** 0.5}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build, compare, run all sides and report."""
    device = torch.device(args.device)
    positions = write_corpus(folder, args)
    cfg, task, model = build(args, folder, device)
    criterion = task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    task.load_dataset("train")
    dataset = task.dataset("train")
    n_batches = -(-len(dataset) // args.batch)
    cfg.dataset.max_tokens = same_number_of_batches(task, dataset, n_batches)
    epoch_itr = trainer.get_train_iterator(epoch=1, load_dataset=False)
    items = [dataset[i] for i in range(len(dataset))]
    by_length = sorted(range(len(items)), key=lambda i: dataset.num_tokens(i))
    plugin_batches = epoch_itr.frozen_batches
    samples = [dataset.collater([items[i] for i in batch]) for batch in plugin_batches]
    trainer.begin_epoch(1)
    model.train()

    shortest = min(range(len(samples)), key=lambda i: samples[i]["ntokens"])
    sample, warm_up = samples[shortest], [items[i] for i in plugin_batches[shortest]]
    difference = compare(model, criterion, trainer._prepare_sample(sample)[0], warm_up, device)
    identical = max(difference.values()) < TOLERANCE[args.dtype]
    print(
        f"loss and gradients within {difference['loss']:.0e} and {difference['gradient']:.0e} of the plain loop's",
        flush=True,
    )

    def cut(order: Sequence[int]) -> list[list[Any]]:
        return [[items[i] for i in order[start : start + args.batch]] for start in range(0, len(order), args.batch)]

    starts: dict[str, Callable[[], Iterator[int]]] = {
        "plugin": lambda: plugin_updates(trainer, epoch_itr, sample),
        "corpus": lambda: plain_updates(model, [warm_up, *cut(range(len(items)))], device),
        "grouped": lambda: plain_updates(model, [warm_up, *cut(by_length)], device),
        "bare": lambda: bare_updates(model, criterion, [sample, *samples], trainer),
    }
    sides = run_sides(model, {name: starts[name] for name in args.sides}, device)
    return {
        "identical": identical,
        "difference": difference,
        "max_tokens": cfg.dataset.max_tokens,
        "positions": positions | {"mean": float(dataset.sizes.mean()), "prompt": int(dataset.prefix[0])},
        "sides": {
            name: {
                "updates": side.n_updates,
                "seconds": side.seconds,
                "cpu_seconds": side.cpu_seconds,
                "tokens_per_second": side.tokens / side.seconds,
                "peak_mib": side.peak_bytes / 2**20,
            }
            for name, side in sides.items()
        },
    }


def run_sides(model: Any, starts: dict[str, Callable[[], Iterator[int]]], device: torch.device) -> dict[str, Side]:
    """All updates of all sides: in turns on a CPU, one after the other on a GPU, whose memory may hold one only."""
    sides: dict[str, Side] = {}
    groups = [list(starts)] if device.type == "cpu" else [[name] for name in starts]
    for group in groups:
        waiting = {}
        for name in group:
            sides[name] = waiting[name] = Side(starts[name]())
        while waiting:
            for name, side in list(waiting.items()):
                model.zero_grad(set_to_none=True)
                if not side.step(device):
                    del waiting[name]
                elif side.n_updates:
                    seconds = f"{side.seconds:.1f} s ({side.cpu_seconds:.1f} s of CPU)"
                    print(f"{name}: {side.n_updates} updates, {side.tokens} target tokens in {seconds}", flush=True)
        for name in group:
            sides[name].updates = iter(())  # lets go of its optimiser
        gc.collect()
    return sides


def report(measured: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Print the ratios, and return what goes into --json."""
    sides = measured["sides"]
    names = {
        "corpus": f"a plain loop, batches of {args.batch} in corpus order",
        "grouped": f"a plain loop, batches of {args.batch} grouped by length",
        "bare": "forward, backward and optimiser alone, the same batches",
    }
    for name, side in sides.items():
        print(
            f"{name:8} {side['tokens_per_second']:9.1f} target tokens/s, {side['updates']} updates in "
            f"{side['seconds']:.1f} s ({side['cpu_seconds']:.1f} s of CPU), {side['peak_mib']:,.0f} MiB at most"
        )
    peers = {}
    for name in names:
        if name in sides and "plugin" in sides:
            ours = sides["plugin"]
            peers[name] = {
                "peer": names[name],
                "ratio": sides[name]["seconds"] / ours["seconds"],
                "cpu_ratio": sides[name]["cpu_seconds"] / ours["cpu_seconds"],
                "memory_ratio": sides[name]["peak_mib"] / ours["peak_mib"] if ours["peak_mib"] else None,
            }
            if name == "bare":
                print(f"plugin takes {1 / peers[name]['ratio']:.2f} times the time of {names[name]}")
            else:
                print(f"plugin is {peers[name]['ratio']:.2f} times as fast as {names[name]}")
    ratio = peers["corpus"]["ratio"] if "corpus" in peers else None
    return {
        "ratio": ratio,
        "peer": names["corpus"],
        "peers": peers,
        "unit": "times the target tokens a second",
        **measured,
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("width", 512), ("heads", 8), ("intermediate", 1376), ("vocabulary", 32_000)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of the LLM ({default})")
    parser.add_argument("--kv-heads", type=int, help="(default: --heads)")
    parser.add_argument("--arch", default="lst", help="fairseq architecture; lst_7b checkpoints activations (lst)")
    parser.add_argument("--features", type=int, default=512, help="width of the frontend's features (512)")
    parser.add_argument("--channels", type=int, default=512, help="of the adapter (512)")
    parser.add_argument("--train-modules", default="adapter,llm", help="adapter is stage 1 (default: adapter,llm)")
    parser.add_argument("--utterances", type=int, default=128, help="in the corpus (128)")
    parser.add_argument("--batch", type=int, default=16, help="utterances of a plain loop's batch (16)")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES, help="(default: all)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read for the plugin (0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=tuple(TOLERANCE))
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.kv_heads = args.kv_heads or args.heads
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = report(measure(args, Path(folder)), args)
    write_json(args.json, args, f"Training {args.train_modules}, {args.layers} layers x {args.width}", **result)


if __name__ == "__main__":
    main()
