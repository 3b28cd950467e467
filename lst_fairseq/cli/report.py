"""Put the scores of several systems into one JSON report, or their comparison into a README.

examples:
  lst report results/scores/lst-two-stage.tst-COMMON.json results/scores/baseline.tst-COMMON.json \\
      --out results/report.json --set language=de
  lst report results/comparison/tst-COMMON/results.json --readme README.md
  lst report mini/results.json digits/results.json --readme README.md --check      # writes nothing

With --out: takes what lst score wrote, and prints a line for each system. The report is {"systems":
[...], "language": ..., "machine": ..., "versions": ...}; each system is its score file but for the
sentences: name, bleu, chrf, segments, signature, train_seconds, trained_parameters, ... lst compare
tests systems against each other.

With --readme: takes what lst compare wrote, so that no figure is ever typed. Everything between
these two lines of the README, which have to be there, is replaced:

    <!-- results: written by lst report -->
    <!-- end of results -->

Each file gives a heading (its `title`, or corpus and split), the table, and folded up what the
tests say and the signatures. --check ends with an error where the section is not what the files
give.
"""

import argparse
from pathlib import Path

from lst_fairseq.utils.arguments import UsageError, key_and_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst report``."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE.json",
        help="score files for --out, results.json of comparisons for --readme, in the order of the "
        "report",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="REPORT.json", help="the report to write")
    target.add_argument(
        "--readme", type=Path, metavar="README.md", help="the file with the two marker lines"
    )
    parser.add_argument(
        "--set",
        type=key_and_value,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="more entries for the report of --out",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, fail where the section of --readme is stale",
    )


def run(args: argparse.Namespace) -> None:
    """Write the report, or the README's section."""
    if args.readme and args.set:
        raise UsageError("--set: give it with --out; a README's section has no entries")
    if args.out and args.check:
        raise UsageError("--check: give it with --readme; a report is always written")
    from lst_fairseq.evaluation.comparison import line, read_scores
    from lst_fairseq.evaluation.report.files import write_report
    from lst_fairseq.evaluation.report.readme import update_results

    if args.readme:
        update_results(args.readme, args.files, check=args.check)
        return
    systems = [read_scores(path) for path in args.files]
    write_report(args.out, systems, dict(args.set))
    print(*map(line, systems), sep="\n")
