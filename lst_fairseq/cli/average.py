"""Average checkpoints of one training run into one that translates.

examples:
  lst average results/stage2 --last 5 --out results/stage2/checkpoint_average5.pt
  lst average checkpoint_1_500.pt checkpoint_1_1000.pt --out average.pt

Works on checkpoints of this plugin (which hold what was trained) and on those of fairseq's own
models. A folder stands for the --last or --at-most checkpoints in it. The result holds no state of
the optimiser: it translates, or starts another run (--finetune-from-model), but training does not
go on from it.
"""

import argparse
from pathlib import Path

from lst_fairseq import register
from lst_fairseq.utils.arguments import UsageError
from lst_fairseq.utils.checkpoint_files import check_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst average``."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="CHECKPOINT", help="files, or one folder"
    )
    newest = parser.add_mutually_exclusive_group()
    newest.add_argument(
        "--last", type=int, metavar="N", help="of a folder: its newest N checkpoints"
    )
    newest.add_argument(
        "--at-most", type=int, metavar="N", help="the same, or all where it has fewer"
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to write")


def run(args: argparse.Namespace) -> None:
    """Write the mean."""
    folder = len(args.inputs) == 1 and args.inputs[0].is_dir()
    number = args.at_most if args.last is None else args.last
    if folder != (number is not None):
        raise UsageError(
            f"{args.inputs[0]}: give one folder and --last N or --at-most N, or files without either"
        )
    if number is not None and number < 1:
        raise UsageError(f"{number} checkpoints: give 1 or more")
    for path in [] if folder else args.inputs:
        check_checkpoint(path)
    register()
    from lst_fairseq.checkpoints.averaging import average, last_checkpoints
    from lst_fairseq.checkpoints.saving import save_alone

    paths = last_checkpoints(args.inputs[0], number, args.last is None) if folder else args.inputs
    save_alone(average(paths), args.out)
    print(f"written: {args.out}, the mean of {', '.join(path.name for path in paths)}")
