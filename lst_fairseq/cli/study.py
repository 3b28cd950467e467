"""Run a study: a grid of frontends, adapters, LLMs and ways of training, with seeds, by the recipe's own scripts.

examples:
  lst study examples/study/mini.yaml --list          # what would run
  lst study examples/study/mini.yaml --rehearse      # a few updates of each arm: do all run?
  lst study examples/study/mini.yaml                 # run, then write the report
  lst study examples/study/mini.yaml --jobs 4 --gpus 0,1,2,3
  lst study examples/study/mini.yaml --slurm study.sbatch --slurm-options "gpus=1;time=8:00:00"
  lst study examples/study/mini.yaml --report        # only write the report, of what there is

The study file's entries are explained in the repository's examples/study/README.md. It can run
programs (by LAUNCHER, the settings file, --user-dir and others): run only studies that you trust,
as you would a script. Run it again to go on: a finished step is never run again, and one that was
killed goes on from its last checkpoint. A step that fails does not stop the others; it is shown
with the last lines of its log, tried again the next time, and the exit status is 1.

--rehearse gives every arm a few updates and short translations with one seed, without a search,
into a folder of its own (results/study/NAME-rehearsal): what is wrong with an arm shows before the
long runs. The data are prepared in full.

Into --out (results/study/NAME):
    results.jsonl   a line a cell: settings, signatures, scores, trained parameters, CPU and GPU seconds, peak memory
    search.jsonl    what the search tried on dev, for each arm
    report.md, report.html   the report
    cells, stage1, data      the recipe's folders; a step's log and costs are in study/ of its folder
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from lst_fairseq.study.entries import StudyError
from lst_fairseq.utils.arguments import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``lst study``."""
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="what to run")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for everything (default: results/study/NAME)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="steps at once (default: one, or one a GPU of --gpus)"
    )
    parser.add_argument(
        "--gpus",
        default="",
        metavar="IDS",
        help="GPUs that the steps take in turn, such as 0,1,2,3",
    )
    parser.add_argument(
        "--arm",
        type=int,
        nargs="+",
        metavar="N",
        help="only these arms, by their numbers in --list",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="a few updates of every arm: the scores mean nothing",
    )
    parser.add_argument(
        "--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--every", type=float, default=60, metavar="S", help="seconds between two lines of progress"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--list", action="store_true", help="show the arms and what is left to run, and run nothing"
    )
    what.add_argument(
        "--report", action="store_true", help="write the report of what there is, and run nothing"
    )
    what.add_argument(
        "--slurm",
        type=Path,
        metavar="FILE",
        help="write a Slurm job array to FILE, and run nothing",
    )
    parser.add_argument(
        "--slurm-options",
        default="",
        metavar="OPTIONS",
        help="for its #SBATCH lines, with ; between",
    )


def run(args: argparse.Namespace) -> None:
    """Run what is left of the study, and report."""
    args.gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    args.jobs = args.jobs if args.jobs is not None else max(1, len(args.gpus))
    at_least(1, jobs=args.jobs, samples=args.samples)
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it reports each resampling
    # An orderly end, so that what runs is stopped and its costs are noted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _run(args)
    except StudyError as error:
        named = "" if str(error).startswith(f"{args.study}:") else f"{args.study}: "
        raise StudyError(f"{named}{error}") from None
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command goes on ({os.fspath(args.study)})")


def _run(args: argparse.Namespace) -> None:
    from lst_fairseq.study.run import Runner, slurm_script
    from lst_fairseq.study.session import chosen_arms, listing, open_study, write_report

    plan = open_study(args.study, args.out, args.rehearse)
    arms = chosen_arms(plan.study, args.arm)
    if args.list:
        print(listing(plan))
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    if args.slurm:
        study = args.study.absolute()
        script = slurm_script(
            study, plan.study, plan.out, sys.executable, args.slurm_options, args.rehearse
        )
        args.slurm.write_text(script, encoding="utf-8")
        print(f"{args.slurm}: {len(plan.study.arms)} tasks; submit it with sbatch {args.slurm}")
        return
    failures = []
    if not args.report:
        runner = Runner(
            plan, arms, args.jobs, args.gpus, lambda line: print(line, flush=True), args.every
        )
        failures = runner.run()
    if args.arm is None:
        print(write_report(plan, args.samples))
    for failure in failures:
        step = failure.step
        print(f"\nfailed: {step.kind}: {step.name}; {step.log}\n{failure.lines}", file=sys.stderr)
    if failures:
        sys.exit(f"\n{len(failures)} steps failed; the same command tries them again")
