#!/usr/bin/env python3
"""Run a study: a grid of frontends, adapters, LLMs and ways of training, with seeds, by the recipe's own scripts.

    python scripts/study.py examples/study/mini.yaml --list          # what would run
    python scripts/study.py examples/study/mini.yaml --rehearse      # a few updates of each arm: do all run?
    python scripts/study.py examples/study/mini.yaml                 # run, then write the report
    python scripts/study.py examples/study/mini.yaml --jobs 4 --gpus 0,1,2,3
    python scripts/study.py examples/study/mini.yaml --slurm study.sbatch --slurm-options "gpus=1;time=8:00:00"
    python scripts/study.py examples/study/mini.yaml --report        # only write the report, of what there is

The study file's entries are explained in examples/study/README.md. It can run programs (by
LAUNCHER, the settings file, --user-dir and others): run only studies that you trust, as you would a
script. Run it again to go on: a finished step is never run again, and one that was killed goes on
from its last checkpoint. A step that fails does not stop the others; it is shown with the last
lines of its log, tried again the next time, and the exit status is 1.

--rehearse gives every arm a few updates and short translations with one seed, without a search, into a folder of its
own (results/study/NAME-rehearsal): what is wrong with an arm shows before the long runs. The data are prepared in full.

Into --out (results/study/NAME):
    results.jsonl   a line a cell: settings, signatures, scores, trained parameters, CPU and GPU seconds, peak memory
    search.jsonl    what the search tried on dev, for each arm
    report.md, report.html   the report
    cells, stage1, data      the recipe's folders; a step's log and costs are in study/ of its folder
"""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.errors import ComparisonError
from lst_fairseq.study.cells import Plan
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import Arm, Study, read_study
from lst_fairseq.study.progress import finished, inspect
from lst_fairseq.study.recipe import study_folder
from lst_fairseq.study.rehearsal import rehearsal
from lst_fairseq.study.report import blocks, console, markdown, page
from lst_fairseq.study.results import collect, judge, summaries
from lst_fairseq.study.run import Runner, slurm_script
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line
from lst_fairseq.utils.machine import machine, versions


def listing(plan: Plan) -> str:
    """Each arm with the number of its steps that are still to run."""
    lines, left = [], set()
    for number, arm in enumerate(plan.study.arms):
        steps = {step for last in inspect(plan, arm).planned for step in last.with_needs() if not finished(step)}
        left |= steps
        values = ", ".join(f"{factor} {value}" for factor, value in arm.values.items())
        lines.append(f"{number:3d}  {arm.label}: {len(steps)} steps to run ({values})")
    lines.append(f"{len(left)} steps in all; a step that arms share is one")
    return "\n".join(lines)


def chosen_arms(study: Study, numbers: list[int] | None) -> list[Arm]:
    """The arms of those numbers, or all."""
    if numbers is None:
        return list(study.arms)
    if unknown := [number for number in numbers if not 0 <= number < len(study.arms)]:
        raise StudyError(f"--arm {unknown[0]}: the study has arms 0 to {len(study.arms) - 1} (see --list)")
    return [study.arms[number] for number in numbers]


def write_report(plan: Plan, samples: int) -> None:
    """Results and report into the study's folder; prints the report's tables."""
    found = collect(plan)
    for name, lines in (("results.jsonl", found["cells"]), ("search.jsonl", found["search"])):
        with atomic_text(plan.out / name) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    results: dict[str, Any] = {
        **found,
        "arms": summaries(plan, found["cells"], samples),
        "claims": [judge(plan, claim, found["cells"], samples) for claim in plan.study.claims],
        "machine": machine(),
        "versions": versions(),
        "samples": samples,
    }
    parts = blocks(plan.study, results)
    for name, text in (("report.md", markdown(parts)), ("report.html", page(parts))):
        with atomic_text(plan.out / name) as file:
            file.write(text)
    print(console(parts))
    print(f"\nwritten: {', '.join(str(plan.out / name) for name in ('results.jsonl', 'report.md', 'report.html'))}")


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="what to run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for everything (default: results/study/NAME)")
    parser.add_argument("--jobs", type=int, metavar="N", help="steps at once (default: one, or one a GPU of --gpus)")
    parser.add_argument("--gpus", default="", metavar="IDS", help="GPUs that the steps take in turn, such as 0,1,2,3")
    parser.add_argument("--arm", type=int, nargs="+", metavar="N", help="only these arms, by their numbers in --list")
    parser.add_argument("--rehearse", action="store_true", help="a few updates of every arm: the scores mean nothing")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--every", type=float, default=60, metavar="S", help="seconds between two lines of progress")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show the arms and what is left to run, and run nothing")
    what.add_argument("--report", action="store_true", help="write the report of what there is, and run nothing")
    what.add_argument("--slurm", type=Path, metavar="FILE", help="write a Slurm job array to FILE, and run nothing")
    parser.add_argument("--slurm-options", default="", metavar="OPTIONS", help="for its #SBATCH lines, with ; between")
    args = parser.parse_args(argv)
    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    jobs = args.jobs if args.jobs is not None else max(1, len(gpus))
    for name, value in (("jobs", jobs), ("samples", args.samples)):
        if value < 1:
            parser.error(f"--{name} {value}: give 1 or more")

    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it reports each resampling
    # An orderly end, so that what runs is stopped and its costs are noted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        study = read_study(args.study)
        if args.rehearse:
            study = rehearsal(study)
        plan = Plan(study, args.out or study_folder(study.name))
        arms = chosen_arms(study, args.arm)
        if args.list:
            print(listing(plan))
            return
        plan.out.mkdir(parents=True, exist_ok=True)
        if args.slurm:
            script = slurm_script(
                args.study.absolute(), study, plan.out, sys.executable, args.slurm_options, args.rehearse
            )
            args.slurm.write_text(script, encoding="utf-8")
            print(f"{args.slurm}: {len(study.arms)} tasks; submit it with sbatch {args.slurm}")
            return
        failures = []
        if not args.report:
            runner = Runner(plan, arms, jobs, gpus, lambda line: print(line, flush=True), args.every)
            failures = runner.run()
        if args.arm is None:
            write_report(plan, args.samples)
    except StudyError as error:
        named = "" if str(error).startswith(f"{args.study}:") else f"{args.study}: "
        sys.exit(f"error: {named}{error}")
    except ComparisonError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command goes on ({os.fspath(args.study)})")
    for failure in failures:
        print(
            f"\nfailed: {failure.step.kind}: {failure.step.name}; {failure.step.log}\n{failure.lines}", file=sys.stderr
        )
    if failures:
        sys.exit(f"\n{len(failures)} steps failed; the same command tries them again")


if __name__ == "__main__":
    main()
