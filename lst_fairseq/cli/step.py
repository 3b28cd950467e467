"""Run a step: a command that fills a folder, once; the recipe's scripts run all of their commands so.

examples:
  lst step results/stage1 --name "stage 1" --made-from data="$(md5sum <data/train.tsv)" -- \\
      fairseq-train data --user-dir "$(lst user-dir)" --save-dir results/stage1 --log-format json ...
  lst step results/data -- lst prep mustc --data-root /corpora/MUSTC --tgt-lang de --out results/data

What is finished is not run again, and what was interrupted is started again, which fairseq-train
takes for going on. A folder that was made with other settings is refused, and so is one that
another run is making. Settings are the command's flags, but for those that decide nothing of the
outcome (--user-dir, --num-workers, --save-interval-updates, ...), and --made-from.

The folder gets command.txt, the command as one would type it, and cost.json, what it has cost over
all attempts. The output of fairseq-train goes to train.log there, and that of fairseq-generate to
generate-SPLIT.txt and generate.log; what they have reached is shown in short lines, for training by
the losses that --log-format json (or simple) writes.
"""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from lst_fairseq.utils.arguments import key_and_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst step``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what the command fills")
    parser.add_argument("--name", help="in lines of progress (default: the folder's name)")
    parser.add_argument("--title", default="", help="a line to say as the command starts")
    parser.add_argument(
        "--made-from",
        nargs="+",
        action="extend",
        default=[],
        type=key_and_value,
        metavar="KEY=VALUE",
        help="what else decides the outcome, such as hashes of what the command reads",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="remove what a step has left in FOLDER, and start from nothing",
    )
    parser.add_argument(
        "--launcher",
        default="fairseq-train",
        metavar="WORDS",
        help="what to run in place of fairseq-train, as torchrun with its arguments",
    )
    parser.add_argument(
        "--follower",
        action="store_true",
        help="take part in a training whose folder another node keeps",
    )
    parser.add_argument(
        "command", nargs="+", metavar="-- COMMAND", help="the program and its arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Run the step; the command's exit status, or 75 (EX_TEMPFAIL) where another run has the folder."""
    from lst_fairseq.recipe.step import Step, StepInUse

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the command, too
    folder = Path(os.path.abspath(args.folder))
    name = args.name or folder.name
    launcher = shlex.split(args.launcher)
    step = Step(folder, args.command, dict(args.made_from), name, args.title, launcher)
    try:
        return step.run(args.force, args.follower)
    except StepInUse as error:
        print(f"error: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
