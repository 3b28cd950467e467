"""Recognise the segments of a manifest with a speech encoder's own CTC head: a TSV file of id and transcript.

examples:
  lst transcribe --manifest data/tst-COMMON.tsv --speech-encoder models/wav2vec2-large-960h-lv60-self \\
      --out transcripts/tst-COMMON.tsv
  lst transcribe --manifest data/tst-COMMON.tsv --speech-encoder wav2vec_vox_960h_pl.pt \\
      --out transcripts/tst-COMMON.tsv

Greedy, every segment, in the manifest's order; examples/mustc/cascade.sh translates it. A directory
needs its tokenizer (vocab.json, tokenizer_config.json); a fairseq file its dictionary, by default
dict.ltr.txt beside it.
"""

import argparse
from pathlib import Path

from lst_fairseq.corpora.transcription import Recognition, transcribe_manifest
from lst_fairseq.utils.flags import add_settings, settings_of

#: What fairseq and transformers raise on a model that they cannot load.
ERRORS = (ValueError, RuntimeError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst transcribe``."""
    parser.add_argument("--manifest", type=Path, required=True, help="segments to recognise")
    parser.add_argument("--out", type=Path, required=True, help="TSV file to write")
    add_settings(parser, Recognition)


def run(args: argparse.Namespace) -> None:
    """Write the transcripts."""
    transcribe_manifest(args.manifest, args.out, settings_of(args, Recognition))
