#!/usr/bin/env python3
"""How time and memory grow with the work: a table, a plot, and fitted exponents that say whether it is right.

    python benchmarks/growth.py --out growth            # writes growth.md, .html and .json there; CPU, small models
    python benchmarks/growth.py --out growth --only startup --lines 1000,10000,100000,1000000
    python benchmarks/growth.py --out growth --device cuda --dtype bfloat16 --only training,decoding

Training (a whole update of adapter and LLM, speech encoder included) and decoding (from the waveform) against batch
size, length of speech, number of the LLM's parameters and, in decoding, beam; starting against lines of the manifest,
and reading batches after that, which should not depend on them. One thing varies, the others stay at --at-batch,
--at-seconds and --at-beam. Time is the processor's on a CPU and the clock's on a GPU (and of the start); memory is the
most that a run adds, and against parameters all of it, weights and optimiser included. The exponent is the slope of the
logarithms over the larger half of the points: 1 is linear, 0 constant.
"""

import argparse
import gc
import itertools
import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks import startup
from benchmarks.common import (
    MIB,
    PeakMemory,
    Timing,
    add_device_arguments,
    add_llm_arguments,
    device_of,
    give_freed_memory_back,
    timed,
    write_json,
)
from benchmarks.decoding import generator_of
from benchmarks.model import Training, add_frontend_arguments, batch, lst_model
from lst_fairseq.evaluation.report.plots import plot

PARTS = ("training", "decoding", "startup")
TOKENS_A_SECOND = 4  # of speech, in targets
#: Largest exponents of growth as it should be; attention, and with it long speech, is above linear.
LINEAR, LENGTH, CONSTANT = 1.15, 1.35, 0.2


@dataclass(frozen=True)
class Point:
    """One measurement."""

    x: float
    seconds: float
    mib: float | None = None


@dataclass
class Curve:
    """What something costs against the size of one thing."""

    work: str
    against: str
    limit: float  # largest exponent that is as it should be
    points: list[Point] = field(default_factory=list)

    def exponent(self, kind: str) -> float | None:
        """Slope of the logarithms of ``seconds`` or ``mib`` over the larger half of the points, at least two."""
        measured = [(p.x, getattr(p, kind)) for p in self.points if getattr(p, kind)]
        chosen = measured[-max(2, (len(measured) + 1) // 2) :]
        if len(chosen) < 2 or len({x for x, _ in chosen}) < 2:
            return None
        xs, ys = [math.log(x) for x, _ in chosen], [math.log(y) for _, y in chosen]
        x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
        return slope / sum((x - x_mean) ** 2 for x in xs)

    def verdict(self, kind: str) -> str:
        """In words; empty where there is nothing to say."""
        exponent = self.exponent(kind)
        if exponent is None:
            return ""
        return f"{exponent:.2f}" + ("" if exponent <= self.limit else f", more than {self.limit:g}")


def cost(make: Callable[[], Callable[[], object]], device: torch.device, whole: bool) -> tuple[float, float]:
    """Seconds and added MiB of a call that has run once before; with ``whole``, what ``make`` needs is added, too."""
    gc.collect()
    with PeakMemory(device) as everything:
        call = make()
        call()
        timing = Timing()
        with PeakMemory(device) as memory:
            timed(call, device, timing)
    added = memory.peak - everything.before if whole else memory.added
    return (timing.median if device.type == "cuda" else timing.cpu_median), max(0, added) / MIB


def training_cost(
    args: Namespace, device: torch.device, rows: int, seconds: float, whole: bool = False
) -> tuple[float, float]:
    """Of an update with that batch."""

    def make() -> Callable[[], object]:
        model = lst_model(args, device, "adapter,llm")
        sample = batch(model, [seconds] * rows, [max(2, round(seconds * TOKENS_A_SECOND))] * rows)
        training = Training(model)
        return lambda: training.step(sample)

    return cost(make, device, whole)


@torch.inference_mode()
def decoding_cost(
    args: Namespace, device: torch.device, rows: int, seconds: float, beam: int, whole: bool = False
) -> tuple[float, float]:
    """Of the batch's translations, --tokens each."""

    def make() -> Callable[[], object]:
        model = lst_model(args, device).eval()
        sample = batch(model, [seconds] * rows, [1] * rows)
        generator = generator_of(model, model.decoder.dictionary, beam, args.tokens)
        return lambda: generator.generate([model], sample)

    return cost(make, device, whole)


def llm_of(args: Namespace, width: int) -> Namespace:
    """The flags with an LLM of that width."""
    sizes = {"width": width, "intermediate": width * 8 // 3, "heads": max(1, width // 32)}
    return Namespace(**{**vars(args), **sizes, "kv_heads": sizes["heads"]})


def parameters_of(args: Namespace) -> int:
    """Parameters of the LLM that the flags describe."""
    attention = 2 * args.width * args.width * (1 + args.kv_heads / args.heads)
    return int(args.layers * (attention + 3 * args.width * args.intermediate) + 2 * args.vocabulary * args.width)


def model_curves(args: Namespace, device: torch.device) -> Iterator[Curve]:
    """Of training and decoding; each curve comes when it is done."""
    at = {"rows": args.at_batch, "seconds": args.at_seconds}
    for work, measure in (("training", training_cost), ("decoding", decoding_cost)):
        if work not in args.only:
            continue
        fixed = {**at, **({"beam": args.at_beam} if work == "decoding" else {})}
        axes: list[tuple[str, str, float, Sequence[float]]] = [
            ("sentences in a batch", "rows", LINEAR, args.batches),
            ("seconds of speech", "seconds", LENGTH, args.seconds),
        ]
        if work == "decoding":
            axes.append(("beam", "beam", LINEAR, args.beams))
        for against, name, limit, values in axes:
            curve = Curve(work, against, limit)
            for value in values:
                curve.points.append(Point(value, *measure(args, device, **{**fixed, name: value})))
                progress(curve)
            yield curve
        curve = Curve(work, "parameters of the LLM", LINEAR)
        for width in args.widths:
            sized = llm_of(args, int(width))
            curve.points.append(Point(parameters_of(sized), *measure(sized, device, **fixed, whole=True)))
            progress(curve)
        yield curve


def startup_curves(args: Namespace) -> Iterator[Curve]:
    """Of starting from a manifest, and of reading batches after that."""
    against = "lines of the manifest"
    first, again = Curve("start", against, LINEAR), Curve("start with cached tokens", against, LINEAR)
    after = Curve(f"reading {startup.BATCHES} batches after the start", against, CONSTANT)
    for lines in args.lines:
        with tempfile.TemporaryDirectory() as name:
            startup.write_models(Path(name), startup.write_corpus(Path(name), lines))
            with PeakMemory(torch.device("cpu")) as memory:
                seconds = startup.measure(Path(name))
        first.points.append(Point(lines, seconds["loading, nothing cached"], memory.added / MIB))
        again.points.append(Point(lines, seconds["loading, tokens cached"]))
        after.points.append(Point(lines, seconds[f"reading {startup.BATCHES} batches after that"]))
    yield from (first, again, after)


def progress(curve: Curve) -> None:
    """One line about the last point."""
    point = curve.points[-1]
    memory = "" if point.mib is None else f", {point.mib:,.1f} MiB"
    print(f"{curve.work}, {curve.against} {point.x:,g}: {point.seconds:.3f} s{memory}", flush=True)


def table(curves: Sequence[Curve]) -> str:
    """In Markdown: a row for each curve, from its smallest to its largest point."""
    lines = ["| what | against | from - to | seconds | exponent | MiB | exponent |", "|---|---|---|---|---|---|---|"]
    for curve in curves:
        first, last = curve.points[0], curve.points[-1]
        memory = "" if last.mib is None or first.mib is None else f"{first.mib:,.1f} - {last.mib:,.1f}"
        cells = [
            curve.work,
            curve.against,
            f"{first.x:,.0f} - {last.x:,.0f}",
            f"{first.seconds:.3g} - {last.seconds:.3g}",
            curve.verdict("seconds"),
            memory,
            curve.verdict("mib"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(curves: Sequence[Curve]) -> str:
    """The curves as an HTML page with a plot for each thing that varies, all scales logarithmic."""
    parts = ["<h1>Growth of time and memory</h1>"]
    for against in dict.fromkeys(curve.against for curve in curves):
        for kind, unit in (("seconds", "seconds"), ("mib", "MiB")):
            series = {
                curve.work: [(math.log10(p.x), math.log10(getattr(p, kind))) for p in curve.points if getattr(p, kind)]
                for curve in curves
                if curve.against == against
            }
            series = {name: points for name, points in series.items() if points}
            if series:
                parts.append(plot(series, f"log10 {escape(against)}", f"log10 {unit}"))
    body = "\n".join(parts)
    head = '<head><meta charset="utf-8"><title>Growth</title></head>'
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n<body>\n{body}\n</body>\n</html>\n'


def numbers(text: str) -> list[int]:
    """``1,2,4`` -> [1, 2, 4], in ascending order; for argparse."""
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers from 1 on, joined by commas")
    return values


def parts(text: str) -> list[str]:
    """Names of PARTS joined by commas; for argparse."""
    names = text.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; known: {', '.join(PARTS)}")
    return names


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for growth.md, .html and .json")
    parser.add_argument("--only", type=parts, default=list(PARTS), help=f"of: {','.join(PARTS)} (all)")
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=numbers, default=[1, 2, 5, 10, 20, 40, 60])
    parser.add_argument("--beams", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--widths", type=numbers, default=[128, 256, 512, 1024], help="of the LLM")
    parser.add_argument("--lines", type=numbers, default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--at-batch", type=int, default=4, help="where something else varies (4)")
    parser.add_argument("--at-seconds", type=int, default=5, help="where something else varies (5)")
    parser.add_argument("--at-beam", type=int, default=4, help="where something else varies (4)")
    parser.add_argument("--tokens", type=int, default=20, help="of each hypothesis (20)")
    add_llm_arguments(parser, layers=4, width=256, heads=8, kv_heads=8, intermediate=688, vocabulary=8000)
    add_frontend_arguments(parser)
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    device = device_of(args)
    give_freed_memory_back()
    args.out.mkdir(parents=True, exist_ok=True)
    curves: list[Curve] = []
    for curve in itertools.chain(model_curves(args, device), startup_curves(args) if "startup" in args.only else ()):
        curves.append(curve)
        write(curves, args)  # each time: a run that is stopped leaves what it has
    print(table(curves))


def write(curves: Sequence[Curve], args: Namespace) -> None:
    """growth.md, growth.html and growth.json."""
    text = table(curves)
    (args.out / "growth.md").write_text(text + "\n", encoding="utf-8")
    (args.out / "growth.html").write_text(page(curves), encoding="utf-8")
    described = [{**asdict(c), "exponents": {k: c.exponent(k) for k in ("seconds", "mib")}} for c in curves]
    title = "Growth of time and memory" + (f": {', '.join(args.only)}" if set(args.only) < set(PARTS) else "")
    write_json(args.out / "growth.json", args, title, growth=described, table=text)


if __name__ == "__main__":
    main()
