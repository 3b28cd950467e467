#!/usr/bin/env python3
"""Average checkpoints of one training run into one that translates.

    python scripts/average_checkpoints.py results/stage2 --last 5 --out results/stage2/checkpoint_average5.pt
    python scripts/average_checkpoints.py checkpoint_1_500.pt checkpoint_1_1000.pt --out average.pt

Works on checkpoints of this plugin (which hold what was trained) and on those of fairseq's own models. A folder stands
for the --last or --at-most checkpoints in it. The result holds no state of the optimiser: it translates, or starts
another run (--finetune-from-model), but training does not go on from it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq import register
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from lst_fairseq.utils.files import file_errors_in_one_line


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="CHECKPOINT", help="files, or one folder")
    newest = parser.add_mutually_exclusive_group()
    newest.add_argument("--last", type=int, metavar="N", help="of a folder: its newest N checkpoints")
    newest.add_argument("--at-most", type=int, metavar="N", help="the same, or all where it has fewer")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args(argv)
    folder = len(args.inputs) == 1 and args.inputs[0].is_dir()
    number = args.at_most if args.last is None else args.last
    if folder != (number is not None):
        parser.error(f"{args.inputs[0]}: give one folder and --last N or --at-most N, or files without either")
    if number is not None and number < 1:
        parser.error(f"{number} checkpoints: give 1 or more")
    try:
        for path in [] if folder else args.inputs:
            check_checkpoint(path)
        register()
        from lst_fairseq.checkpoints.averaging import average, last_checkpoints
        from lst_fairseq.checkpoints.saving import save_alone

        paths = last_checkpoints(args.inputs[0], number, args.last is None) if folder else args.inputs
        save_alone(average(paths), args.out)
    except (CheckpointError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"written: {args.out}, the mean of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    main()
