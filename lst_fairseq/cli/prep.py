"""Prepare a corpus for training and translation, or other data from its manifests.

A corpus becomes OUT/SPLIT.tsv for each split, and OUT/config.yaml, which fairseq-train's
--config-yaml names. Audio is not copied. Only training data is ever filtered or cleaned, and each
reason is counted; of other splits every segment is kept as it is. Running again writes the same
files again, each of them whole or not at all.
"""

import argparse
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lst_fairseq.corpora import corpora
from lst_fairseq.corpora.base import Corpus, prepare
from lst_fairseq.corpora.cleaning import CleaningOptions
from lst_fairseq.corpora.fbank import BaselineOptions, prepare_baseline
from lst_fairseq.corpora.other_tasks import write_text_manifests, write_transcription
from lst_fairseq.utils.flags import add_settings, settings_of

FBANK = """Features, vocabulary and settings for fairseq's own speech_to_text task, from manifests of audio segments.

examples:
  lst prep fbank --manifests results/mustc-de/data --out results/mustc-de/baseline/data
  lst prep fbank --manifests data --out fbank --splits train dev tst-COMMON tst-HE --vocab-size 1000
  lst prep fbank --manifests data --out fbank --asr-vocab-size 5000      # to pretrain on transcripts
  lst prep fbank --manifests data --out wav2vec --speech-encoder /models/wav2vec2

What fairseq's recipe for MuST-C does, without torchaudio: 80 log-mel bins of the 16-bit scaled
waveform, one .npy a segment in an uncompressed zip a split, which fairseq reads by byte offset;
normalisation per utterance and SpecAugment as transforms in config.yaml; a sentencepiece unigram
vocabulary of the training targets. As there, training segments shorter than 5 or longer than 3,000
frames are left out, and counted; of other splits every segment is kept, in order. Splits that are
there already are kept. Needs kaldi-native-fbank.

--asr-vocab-size adds what pretraining the encoder on transcripts needs: the splits train_asr and
dev_asr (the same features, transcripts for targets) and config_asr.yaml. --speech-encoder takes a
frozen speech encoder's output (50 a second) instead of filterbanks: the baseline is then a
Transformer on top of it, without an LLM.
"""
TEXT = """Manifests of text alone from manifests of speech: the transcript takes the audio's place, the task is `mt`.

examples:
  lst prep text --manifests results/mustc-de/data --out text --splits train dev tst-COMMON
  lst prep text --manifests results/mustc-de/data --out cascade --splits tst-COMMON \\
      --transcripts transcripts      # transcripts/tst-COMMON.tsv, by lst transcribe

For training an LLM on the corpus's text pairs (the upper bound of what speech can give) and for
cascades. The data configuration is copied along. Every segment has to have a transcript; one that
recognition left empty becomes "...", since no test segment may be lost.
"""
ASR = """A manifest of transcription from one of translation: the transcript becomes the target, the task is `asr`.

example:
  lst prep asr --manifest data/train.tsv --out data/train_asr.tsv

Segments without a transcript (src_text) are left out and counted. Train on both with --train-subset
train,train_asr.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A command for each corpus, and for each kind of data that is made of manifests."""
    commands = parser.add_subparsers(metavar="WHAT", required=True, title="what to prepare")

    def add(name: str, description: str, work: Callable[[argparse.Namespace], None]) -> Any:
        command = commands.add_parser(
            name,
            help=description.partition("\n")[0].rstrip("."),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(work=work, parser=command)
        return command

    for name, corpus in corpora().items():
        about = inspect.cleandoc(corpus.__doc__ or "")
        _add_corpus(add(name, about, functools.partial(_prepare, corpus)), corpus)
    fbank = add("fbank", FBANK, _fbank)
    _add_manifests(fbank, "folder for all that is made")
    add_settings(fbank, BaselineOptions)
    text = add("text", TEXT, _text)
    _add_manifests(text, "folder for the text manifests")
    text.add_argument(
        "--transcripts", type=Path, help="folder with SPLIT.tsv, recognised (default: src_text)"
    )
    asr = add("asr", ASR, _asr)
    asr.add_argument("--manifest", type=Path, required=True, help="manifest to read")
    asr.add_argument("--out", type=Path, required=True, help="manifest to write")


def run(args: argparse.Namespace) -> None:
    """Prepare what was named."""
    args.work(args)


def _add_corpus(parser: argparse.ArgumentParser, corpus: type[Corpus]) -> None:
    add_settings(parser, corpus)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the manifests and config.yaml"
    )
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="only these (default: all that are there)"
    )
    about = "Of train alone; dev and test are kept as they are. Each is counted."
    add_settings(parser.add_argument_group("cleaning", about), CleaningOptions, corpus.cleaning)


def _prepare(corpus: type[Corpus], args: argparse.Namespace) -> None:
    prepare(
        settings_of(args, corpus),
        args.out,
        splits=args.splits,
        cleaning=settings_of(args, CleaningOptions),
        say=functools.partial(print, flush=True),
    )


def _add_manifests(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--manifests", type=Path, required=True, help="folder with SPLIT.tsv")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train", "dev", "tst-COMMON"],
        help="which of them (default: train dev tst-COMMON)",
    )


def _fbank(args: argparse.Namespace) -> None:
    prepare_baseline(args.manifests, args.out, args.splits, settings_of(args, BaselineOptions))


def _text(args: argparse.Namespace) -> None:
    write_text_manifests(args.manifests, args.out, args.splits, args.transcripts)


def _asr(args: argparse.Namespace) -> None:
    kept, found = write_transcription(args.manifest, args.out)
    print(f"{args.out}: {kept} of {found} segments")
