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
from pathlib import Path

from lst_fairseq.evaluation.report.files import write_json
from lst_fairseq.evaluation.scoring import ScoringOptions, score_split
from lst_fairseq.utils.flags import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst score``."""
    parser.add_argument(
        "--manifest", type=Path, required=True, help="the TSV manifest that was translated"
    )
    parser.add_argument(
        "--hypotheses", type=Path, required=True, help="fairseq-generate's generate-SUBSET.txt"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the scores to this file")
    add_settings(parser, ScoringOptions)


def run(args: argparse.Namespace) -> None:
    """Print the scores, and write them where that is asked for."""
    content = score_split(args.manifest, args.hypotheses, settings_of(args, ScoringOptions))
    if args.json:
        write_json(args.json, content)
