"""Keep a part of a manifest's segments: those that a speech encoder's CTC head agrees with, or any, the same each time.

examples:
  lst filter --manifest data/mustc-de/train.tsv --out data/mustc-de/train_clean.tsv \\
      --speech-encoder models/wav2vec2-large-960h-lv60-self --max-wer 0.3
  lst filter --manifest data/mustc-de/train.tsv --out data/mustc-de/train_100k.tsv \\
      --speech-encoder wav2vec_vox_960h_pl.pt --dict dict.ltr.txt --max-examples 100000
  lst filter --manifest data/mustc-de/train.tsv --out data/mustc-de/train_10.tsv --fraction 0.1

With --speech-encoder every segment with a transcript (src_text) is decoded greedily and compared
with it, both without case and punctuation: by words, or by characters where src_lang (or the
script, where that is empty) is one that writes no spaces. OUT.wer.tsv takes the columns id, wer,
transcript, audio and decoder as they are found: a run that was interrupted goes on from there, and
another threshold needs no new decoding (with another OUT, name the file by --wers). Segments
without a transcript are left out, lines without audio are kept. Numbers written as digits, and
words that nobody says, such as "(Applause)", count as errors: lst prep mustc
--clean-stage-directions takes the latter out first. A directory needs its tokenizer (vocab.json,
tokenizer_config.json); a fairseq file its dictionary, by default dict.ltr.txt beside it. With
neither --max-wer nor --max-examples every segment is kept, and the table of the word error rates
helps to choose.

With --fraction the ids and --seed alone decide which segments are kept (of those that are left), so
that a smaller part lies within a larger one.
"""

import argparse
from pathlib import Path

from lst_fairseq.corpora.filtering import WerLimits, filter_by_wer, select_part
from lst_fairseq.corpora.transcription import Recognition
from lst_fairseq.utils.arguments import UsageError
from lst_fairseq.utils.flags import add_settings, settings_of

#: What fairseq and transformers raise on a model that they cannot load.
ERRORS = (ValueError, RuntimeError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst filter``."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to read")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument(
        "--fraction", type=float, help="part of the segments to keep (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of --fraction; another keeps others (default: 1)"
    )
    by_wer = parser.add_argument_group(
        "by word error rate", "Of training segments with a transcript."
    )
    add_settings(by_wer, Recognition, required=False)
    add_settings(by_wer, WerLimits)


def run(args: argparse.Namespace) -> None:
    """Write the manifest."""
    recognition, limits = settings_of(args, Recognition), settings_of(args, WerLimits)
    if args.speech_encoder is not None:
        fraction = 1.0 if args.fraction is None else args.fraction
        files = (args.manifest, args.out)
        print(filter_by_wer(*files, recognition, limits, fraction=fraction, seed=args.seed))
    elif (
        args.fraction is None
        or recognition != Recognition(speech_encoder=None)
        or limits != WerLimits()
    ):
        raise UsageError(
            "give --speech-encoder, whose word error rates decide, or --fraction alone"
        )
    else:
        print(select_part(args.manifest, args.out, args.fraction, args.seed))
