#!/usr/bin/env python3
"""Compare systems that translated the same segments: one table, with confidence intervals, tests, plots and sentences.

    python scripts/compare.py results/scores/lst-two-stage.tst-COMMON.json results/scores/baseline.tst-COMMON.json \\
        --baseline "s2t_transformer_s from scratch" --out results/comparison
    python scripts/compare.py results/scores/*.tst-COMMON.json --baseline s2t_transformer_s --out results/comparison \\
        --logs "LST two-stage=results/stage1/train.log" "LST two-stage=results/stage2/train.log" \\
        --set language=de "title=MuST-C v1, En-De, tst-COMMON"

Takes what scripts/score.py wrote with --json, in the order of the table, and writes into --out
    results.json   everything; scripts/results_table.py puts its table into a README
    results.md     the table, BLEU by duration, and the sentences on which a system differs most from the baseline
    results.html   the same with plots of training and of BLEU by duration, one file without any other
BLEU and chrF2 come with 95 % confidence intervals by bootstrap resampling, and with p-values of sacreBLEU's paired
bootstrap test against --baseline. With the same seed the same files come out.

Training curves are drawn from fairseq-train's logs: those of --logs (several for one system are its stages, in order),
or those that the score file names under `log`, with a colon between stages.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.errors import ComparisonError
from lst_fairseq.evaluation.comparison import compare, line, read_scores
from lst_fairseq.evaluation.report.comparison import markdown, page, verdicts
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line
from lst_fairseq.utils.machine import machine, versions


def parse_pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` as a pair."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def training_logs(systems: list[dict[str, object]], given: list[tuple[str, str]]) -> dict[str, list[str]]:
    """For each system's name its logs: those given, else those of its score file as far as they are still there."""
    logs: dict[str, list[str]] = {}
    for name, path in given:
        logs.setdefault(name, []).append(path)
    for system in systems:
        paths = str(system.get("log", "")).split(os.pathsep) if system["name"] not in logs and system.get("log") else []
        if gone := [path for path in paths if not Path(path).is_file()]:
            print(f"no training curve of {system['name']}: {gone[0]} is not there; see --logs", file=sys.stderr)
        elif paths:
            logs[system["name"]] = paths
    return logs


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", metavar="SCORE.json", help="score files, in the table's order")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--baseline", metavar="NAME", help="the system to test the others against (default: no test)")
    parser.add_argument(
        "--logs", type=parse_pair, nargs="+", default=[], metavar="NAME=FILE", help="training logs of a system"
    )
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=12345, help="seed of the resampling (default: %(default)s)")
    parser.add_argument(
        "--examples", type=int, default=10, metavar="N", help="sentences to show each way (default: %(default)s)"
    )
    parser.add_argument(
        "--set", type=parse_pair, nargs="+", default=[], metavar="KEY=VALUE", help="more entries for results.json"
    )
    args = parser.parse_args(argv)
    for name, least in (("samples", 1), ("seed", 1), ("examples", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: give {least} or more")

    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it reports each resampling
    try:
        systems = [read_scores(path) for path in args.scores]
        logs = training_logs(systems, args.logs)
        compared = compare(systems, args.baseline, logs, args.samples, args.seed, args.examples)
    except ComparisonError as error:
        sys.exit(f"error: {error}")
    results = {**dict(args.set), **compared, "machine": machine(), "versions": versions()}
    args.out.mkdir(parents=True, exist_ok=True)
    written = {
        "results.json": json.dumps(results, indent=2, ensure_ascii=False) + "\n",
        "results.md": markdown(results),
        "results.html": page(results),
    }
    for name, text in written.items():
        with atomic_text(args.out / name) as file:
            file.write(text)
    for system in systems:
        print(line(system))
    for sentence in verdicts(results):
        print(sentence)
    print(f"written: {', '.join(str(args.out / name) for name in written)}")


if __name__ == "__main__":
    main()
