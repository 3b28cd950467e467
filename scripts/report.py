#!/usr/bin/env python3
"""Put the scores of several systems together: one JSON report, and their lines beside each other.

    python scripts/report.py --out results/quickstart/report.json --set language=de \\
        results/quickstart/scores/lst-two-stage.tst-COMMON.json results/quickstart/scores/baseline.tst-COMMON.json

The report is {"systems": [...], "language": ..., "machine": ..., "versions": ...}; each system is what scripts/score.py
wrote but for the sentences: name, bleu, chrf, segments, signature, train_seconds, trained_parameters, ...
scripts/compare.py tests systems against each other.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.errors import ComparisonError
from lst_fairseq.evaluation.comparison import line, read_scores
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line
from lst_fairseq.utils.machine import machine, versions


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="score files, in the order of the report")
    parser.add_argument("--out", type=Path, required=True, help="the report to write")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more entries for the report")
    args = parser.parse_args(argv)
    for pair in args.set:
        if "=" not in pair:
            parser.error(f"--set {pair}: give KEY=VALUE")

    try:
        systems = [read_scores(path) for path in args.scores]
    except ComparisonError as error:
        sys.exit(f"error: {error}")
    kept = [{key: value for key, value in system.items() if key != "sentences"} for system in systems]
    extra = dict(pair.split("=", 1) for pair in args.set)
    report = {"systems": kept, **extra, "machine": machine(), "versions": versions()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(args.out) as file:
        file.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for system in systems:
        print(line(system))


if __name__ == "__main__":
    main()
