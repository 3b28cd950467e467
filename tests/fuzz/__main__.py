"""Damaged, odd and hostile inputs through the project's programs.

    python -m tests.fuzz --count 2000 --commands 50 --seed 1 --out /tmp/fuzz   # some minutes
    python -m tests.fuzz --kinds audio,checkpoints --count 200 --out /tmp/fuzz
    python -m tests.fuzz --replay /tmp/fuzz/failures.jsonl --out /tmp/fuzz      # once more

Each input is taken or refused in one line that names the file and a remedy: no traceback, no hang,
no gigabytes, nothing run, nothing given away; and where its content is known, what was taken is
right. Inputs that fail stay in --out, and failures.jsonl has a line for each. The exit status is 1
if any failed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.base import MARKER_WORD, Base
from tests.fuzz.campaign import FAILURES, Campaign
from tests.fuzz.verdict import FAILED


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--kinds", default="", metavar="NAMES", help="with commas between; default: all"
    )
    parser.add_argument(
        "--count", type=int, default=2000, help="inputs in children of this process (%(default)s)"
    )
    parser.add_argument(
        "--commands", type=int, default=0, help="further inputs by the real commands (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for the inputs, and what fails"
    )
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="valid inputs, made if need be (--out's base)"
    )
    parser.add_argument(
        "--patience", type=float, default=10, metavar="S", help="a program may take (%(default)s)"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="failures.jsonl, to run its inputs once more"
    )
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="of --replay these inputs, with commas between"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; the exit status."""
    args = parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads cannot be forked
    root = (args.base or args.out / "base").resolve()
    if not (root / "translation.json").exists():
        command = [sys.executable, "-m", "tests.fuzz.base", str(root)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"error: {root}: the valid inputs could not be made\n{made.stderr[-3000:]}")
    from tests.fuzz.kinds import KINDS

    names = [name for name in args.kinds.split(",") if name] or list(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        sys.exit(f"error: --kinds {unknown[0]}: there are {', '.join(KINDS)}")
    campaign = Campaign(Base(root, root / MARKER_WORD), args.out.resolve(), args.patience)
    campaign.out.mkdir(parents=True, exist_ok=True)
    campaign.warm()
    if args.replay:
        lines = [json.loads(line) for line in args.replay.read_text("utf-8").splitlines()]
        if wanted := args.only.split(",") if args.only else []:
            lines = [line for line in lines if Path(line["folder"]).name in wanted]
        else:
            (campaign.out / FAILURES).unlink(missing_ok=True)
        found = campaign.replay(lines, KINDS)
    else:
        found = campaign.run([KINDS[name] for name in names], args.count, args.commands, args.seed)
    for name, verdict in found:
        if verdict.result == FAILED:
            shown = verdict.detail.splitlines()[-1:]
            print(f"{name}: {verdict.fault}: {''.join(shown)}", flush=True)
    print(campaign.table())
    if campaign.failures:
        print(f"{campaign.failures} failed: {campaign.out / FAILURES}")
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
