"""Run a step: a command that fills a folder, once; the recipe's scripts run all of their commands so.

examples:
  lst step results/data -- lst prep mustc --data-root /corpora/MUSTC --tgt-lang de --out results/data
  lst step results/stage1 --name "stage 1" --made-from data="$(cat results/data/.done)" -- \\
      fairseq-train results/data --task lst_st --arch lst_7b --lr 2e-3 ... \\
      --not-compared --user-dir "$(lst user-dir)" --save-dir results/stage1 --log-format json

What is finished is not run again, and what was interrupted is started again, which fairseq-train
takes for going on. A folder that was made with other settings is refused, and so is one that
another run is making (status 75). Settings are the command's flags with their values, and
--made-from. What stands behind --not-compared in the command decides nothing of its outcome and is
not compared (--user-dir, --save-dir, --num-workers, ...); words before the first flag are not, either.

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

from lst_fairseq.utils.arguments import UsageError, key_and_value

TAKES_A_COMMAND = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst step``."""
    parser.usage = "lst step FOLDER [FLAG ...] -- COMMAND [ARGUMENT ...]"
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
        type=shlex.split,
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
        "--lock",
        type=int,
        metavar="FD",
        help="descriptor of FOLDER/.step.lock, which a shell opens that is to hold it until it ends",
    )


def run(args: argparse.Namespace) -> int:
    """Run the step; the command's exit status, or 75 (EX_TEMPFAIL) where another run has the folder."""
    from lst_fairseq.recipe.folder import StepInUse
    from lst_fairseq.recipe.step import Step

    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # ends the command, too
    if not args.command:
        raise UsageError("no command: give -- and what fills the folder")
    folder = Path(os.path.abspath(args.folder))
    name = args.name or folder.name
    step = Step(folder, args.command, dict(args.made_from), name, args.title, args.launcher)
    try:
        return step.run(args.force, args.follower, args.lock)
    except StepInUse as error:
        print(f"error: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
