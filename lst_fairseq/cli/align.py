"""Measure how well an adapter speaks the LLM's language: whether stage 1 worked.

A look before stage 2 is paid for.

examples:
  lst align results/mustc-de/stage1/checkpoint_last.pt --data results/mustc-de/data --out alignment
  lst align stage1/checkpoint_last.pt stage2/checkpoint_last.pt --data data --split tst-COMMON \\
      --segments 200 --candidates 50 --pictures 5 --out alignment

For each checkpoint: the mean cosine of each of the adapter's outputs with the nearest token of the
transcript (and of other transcripts, which says how much of it is the transcript's doing), how
often the right transcript matches best among --candidates, how much of the outputs' mean square
varies (next to nothing of an adapter that has collapsed, as too high a learning rate makes it), and
their scale beside that of text embeddings. Takes --segments of the manifest, spread evenly; they
need a transcript (src_text).

Into --out: alignment.json, and alignment.html with pictures of some utterances: the vocabulary's
nearest token to each of the adapter's outputs, and the attention of the translation's tokens over
the speech.
"""

import argparse
import sys
from pathlib import Path

from lst_fairseq import register
from lst_fairseq.data.manifest import read_manifest
from lst_fairseq.evaluation.alignment_options import AlignmentOptions
from lst_fairseq.models.pretrained import check_moved
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from lst_fairseq.utils.flags import add_settings, settings_of

#: What fairseq and transformers raise on a model that they cannot load.
ERRORS = (ValueError,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst align``."""
    parser.add_argument(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="CHECKPOINT",
        help="of fairseq-train, or exported",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the manifests"
    )
    parser.add_argument("--split", default="dev", help="manifest in it (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add_settings(parser, AlignmentOptions)


def run(args: argparse.Namespace) -> None:
    """Print each checkpoint's figures as they come, and write them with the pictures of all."""
    options = settings_of(args, AlignmentOptions)
    for checkpoint in args.checkpoints:
        check_checkpoint(checkpoint)
    check_moved(args.speech_encoder, args.llm)
    manifest = args.data / f"{args.split}.tsv"
    if not manifest.exists():
        read_manifest(manifest)  # which says so
    register()
    from lst_fairseq.criterions import adapter_collapse
    from lst_fairseq.evaluation.checkpoint_alignment import measured, write_alignment
    from lst_fairseq.evaluation.report.alignment import table

    found, pictures = [], []
    for figures, drawn in measured(args.checkpoints, args.data, args.split, options):
        found.append(figures)
        pictures += drawn
        cells = zip(*table([figures]), strict=True)
        print(", ".join(f"{head} {value}" for head, value in cells), flush=True)
        if warning := adapter_collapse.warning(figures["variation"]):
            print(f"warning: {figures['checkpoint']}: {warning}", file=sys.stderr, flush=True)
    written = write_alignment(args.out, args.split, found, pictures)
    print(f"written: {', '.join(map(str, written))}")
