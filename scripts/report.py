#!/usr/bin/env python3
"""Put the scores of several systems together: one JSON report, and their lines beside each other.

    python scripts/report.py --out results/quickstart/report.json --set language=de \\
        results/quickstart/scores/lst-two-stage.tst-COMMON.json results/quickstart/scores/baseline.tst-COMMON.json

The report is {"systems": [...], "language": ..., "machine": ..., "versions": ...}; each system is what scripts/score.py
wrote: name, bleu, chrf, segments, signature, train_seconds, trained_parameters, ...
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

PACKAGES = ("torch", "transformers", "fairseq-fixed", "fairseq", "sacrebleu", "lst-fairseq")


def read_scores(path: Path) -> dict[str, object]:
    """One system's scores; ends the program with one line where the file is not what scripts/score.py writes."""
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        scores["name"], scores["bleu"], scores["segments"], scores["signature"]
    except FileNotFoundError:
        sys.exit(f"error: {path}: no such file; translate and score that system first (examples/mustc/generate.sh)")
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path}: not a score file of scripts/score.py ({error!r}); score that system again")
    return scores


def line(system: dict[str, object]) -> str:
    """``NAME: BLEU = 67.12 (300 segments, signature ...), trained 4.00 M parameters in 540 s``."""
    segments = f"{system['segments']} segments, signature {system['signature']}"
    text = f"{system['name']}: BLEU = {system['bleu']:.2f} ({segments})"
    if "trained_parameters" in system and "train_seconds" in system:
        text += f", trained {system['trained_parameters'] / 1e6:.2f} M parameters in {system['train_seconds']} s"
    return text


def machine() -> dict[str, object]:
    """What it ran on: scores do not depend on it, times do."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpus": len(os.sched_getaffinity(0)), "gpus": gpus, "platform": platform.platform()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="score files, in the order of the report")
    parser.add_argument("--out", type=Path, required=True, help="the report to write")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more entries for the report")
    args = parser.parse_args(argv)
    for pair in args.set:
        if "=" not in pair:
            parser.error(f"--set {pair}: give KEY=VALUE")

    systems = [read_scores(path) for path in args.scores]
    extra = dict(pair.split("=", 1) for pair in args.set)
    report = {"systems": systems, **extra, "machine": machine(), "versions": versions()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    beside = args.out.with_suffix(".partial")
    beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, args.out)
    for system in systems:
        print(line(system))


if __name__ == "__main__":
    main()
