"""Turn a sharded checkpoint into a whole one, or a whole one into a sharded one, in one process without a GPU.

examples:
  lst convert stage2/checkpoint_last.pt stage2/whole.pt      # for other machines and programs
  lst convert stage1/checkpoint_last.pt sharded/checkpoint_last.pt   # quick to start from
  lst convert stage2/checkpoint_best.pt model.pt --without-optimizer   # a third as large

A sharded checkpoint is a small file and a folder of that file's name with `.shards`; keep the two
beside each other. Memory: a whole checkpoint's size when one is written, little when shards are.
"""

import argparse
from pathlib import Path

from lst_fairseq.checkpoints.conversion import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst convert``."""
    parser.add_argument("source", type=Path, help="a checkpoint that fairseq-train wrote")
    parser.add_argument(
        "target", type=Path, help="the file to write; of the other kind than the source"
    )
    parser.add_argument(
        "--without-optimizer",
        action="store_true",
        help="leave out what only further training needs",
    )
    parser.add_argument("--force", action="store_true", help="replace a target that is there")


def run(args: argparse.Namespace) -> None:
    """Write the other kind."""
    convert(args.source, args.target, without_optimizer=args.without_optimizer, force=args.force)
