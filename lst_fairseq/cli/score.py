"""Score fairseq-generate's output against the raw references of the manifest that was translated.

examples:
  lst score --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt
  lst score --manifest data/tst-COMMON.tsv --hypotheses results/generate-tst-COMMON.txt \\
      --log results/generate.log --name "LST two-stage" --triples 10 --json results/score.json \\
      --extra corpus=mustc-en-de split=tst-COMMON beam=4 lenpen=1.0 train_seconds=812.5
  lst score ... --after " => "          # of "transcript => translation" score the translation
  lst score ... --comet models/wmt22-comet-da --comet-python ~/comet/bin/python

Prints NAME: BLEU = ..., chrF2 = ..., TER = ... (N segments, signature ...), then the score by
duration and the whole signature. Where all rows have the task asr, error rates of words and
characters too: lower case without punctuation, and of the text as it is. Hypotheses that are
missing, doubled or too many are an error, so that a score is always one of the whole split.

The tokeniser of BLEU follows the manifest's tgt_lang: zh, ja-mecab and ko-mecab for these
languages, char for others that write no spaces, else 13a. Where a language writes no spaces, 13a is
refused, TER counts characters, and transcripts have an error rate of characters alone.

The JSON file holds the scores, the sentences and all that --extra gives. The signature takes
corpus, split, beam and lenpen from there; lst compare shows train_seconds, trained_parameters,
segments_per_second, saw (what the system was trained on) and log (fairseq-train's logs, in order,
with a colon between them).
"""

import argparse
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU

from lst_fairseq.evaluation.report.files import write_json
from lst_fairseq.evaluation.scoring import (
    RESULTS,
    ScoringOptions,
    read_translated,
    score_file,
    score_lines,
    triples,
)
from lst_fairseq.utils.arguments import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst score``."""
    add = parser.add_argument
    add("--manifest", type=Path, required=True, help="the TSV manifest that was translated")
    add(
        "--hypotheses",
        type=Path,
        required=True,
        help="fairseq-generate's generate-SUBSET.txt",
    )
    add(
        "--log",
        type=Path,
        help="what fairseq-generate logged: the model's description of itself, and its speed",
    )
    add("--name", help="name of the system (default: the hypothesis file's)")
    add("--json", type=Path, metavar="OUT", help="also write the scores to this file")
    add(
        "--extra",
        type=parse_extra,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="more entries for the JSON file",
    )
    add(
        "--triples",
        type=int,
        default=0,
        metavar="N",
        help="print N source/hypothesis/reference triples",
    )
    add(
        "--tokenize",
        choices=sorted(BLEU.TOKENIZERS),
        help="tokeniser of BLEU (default: by the target language)",
    )
    add(
        "--target-lang",
        default="",
        metavar="CODE",
        help="language of segments whose manifest names none in tgt_lang",
    )
    add(
        "--after",
        metavar="MARKER",
        help="score what follows the last MARKER of hypothesis and reference",
    )
    add(
        "--rate",
        type=int,
        metavar="HZ",
        help="sample rate of n_frames (default: as each audio file's header says)",
    )
    add("--comet", type=Path, metavar="MODEL_DIR", help="score with this COMET model too")
    add(
        "--comet-python",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter that has COMET (default: this one)",
    )


def parse_extra(text: str) -> tuple[str, object]:
    """``key=value`` as a pair; the value is a number where it reads as one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if key in RESULTS:
        raise argparse.ArgumentTypeError(f"{key!r} is a result of its own; choose another key")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value


def run(args: argparse.Namespace) -> None:
    """Print the scores, and write them where that is asked for."""
    if args.after is not None and not args.after.strip():
        raise UsageError("--after: give a text that is not blank, such as ' => '")
    if args.rate is not None and args.rate < 1:
        raise UsageError(f"--rate {args.rate}: give samples a second, such as 16000")
    rows, hypotheses = read_translated(args.manifest, args.hypotheses)
    for text in triples(rows, hypotheses, args.triples):
        print(text)
    options = ScoringOptions(
        name=args.name or args.hypotheses.stem,
        log=args.log,
        extra=dict(args.extra),
        tokenize=args.tokenize,
        target_lang=args.target_lang,
        after=args.after,
        rate=args.rate,
        comet=args.comet,
        comet_python=args.comet_python,
    )
    content = score_file(args.manifest, rows, hypotheses, options)
    print(*score_lines(content, args.comet.name if args.comet else ""), sep="\n")
    if args.json:
        write_json(args.json, content)
