"""Compare systems that translated the same segments.

One table, with confidence intervals, tests, plots and sentences.

examples:
  lst compare scores/lst-two-stage.tst-COMMON.json scores/baseline.tst-COMMON.json \\
      --baseline "s2t_transformer_s from scratch" --out results/comparison
  lst compare scores/*.tst-COMMON.json --baseline s2t_transformer_s --out results/comparison \\
      --logs "LST two-stage=results/stage1/train.log" "LST two-stage=results/stage2/train.log" \\
      --set language=de "title=MuST-C v1, En-De, tst-COMMON"

Takes what lst score wrote with --json, in the order of the table, and writes into --out
  results.json   everything; lst report --readme puts its table into a README
  results.md     the table, BLEU by duration, and the sentences on which a system differs most from
                 the baseline
  results.html   the same with plots of training and of BLEU by duration, one file without any other
BLEU and chrF2 come with 95 % confidence intervals by bootstrap resampling, and with p-values of
sacreBLEU's paired bootstrap test against --baseline. With the same seed the same files come out.

Training curves are drawn from fairseq-train's logs: those of --logs (several for one system are its
stages, in order), or those that the score file names under `log`, with a colon between stages.
"""

import argparse
import logging
from pathlib import Path

from lst_fairseq.utils.arguments import at_least, key_and_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst compare``."""
    add = parser.add_argument
    add(
        "scores",
        type=Path,
        nargs="+",
        metavar="SCORE.json",
        help="score files, in the table's order",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add(
        "--baseline",
        metavar="NAME",
        help="the system to test the others against (default: no test)",
    )
    add(
        "--logs",
        type=key_and_value,
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="training logs of a system",
    )
    add("--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    add("--seed", type=int, default=12345, help="seed of the resampling (default: %(default)s)")
    add(
        "--examples",
        type=int,
        default=10,
        metavar="N",
        help="sentences to show each way (default: %(default)s)",
    )
    add(
        "--set",
        type=key_and_value,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="more entries for results.json",
    )


def run(args: argparse.Namespace) -> None:
    """Write the comparison, and print each system's line and verdict."""
    at_least(1, samples=args.samples, seed=args.seed)
    at_least(0, examples=args.examples)
    from lst_fairseq.evaluation.comparison import compare, line, read_scores, training_logs
    from lst_fairseq.evaluation.report.comparison import verdicts
    from lst_fairseq.evaluation.report.files import write_comparison

    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it reports each resampling
    systems = [read_scores(path) for path in args.scores]
    logs = training_logs(systems, args.logs)
    compared = compare(systems, args.baseline, logs, args.samples, args.seed, args.examples)
    written = write_comparison(args.out, compared, dict(args.set))
    print(*map(line, systems), *verdicts(compared), sep="\n")
    print(f"written: {', '.join(map(str, written))}")
