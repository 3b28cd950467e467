#!/usr/bin/env python3
"""CPU seconds until a command can begin: what the plugin adds to importing fairseq, and what a wrong path costs.

    python benchmarks/imports.py
    python benchmarks/imports.py --repeats 9 --json imports.json

Each is a process of its own, the sides in turns, byte code cached by a run before; the least of the
repeats counts, as what others do on the machine only adds to it. Seconds are user and system
together, so that waiting does not count. The last column is the ratio to `import fairseq` in the
same turn, in the median.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.cli.main import VERBS

REPOSITORY = Path(__file__).resolve().parents[1]
LST = ["-m", "lst_fairseq.cli"]
FAIRSEQ = "import fairseq"
#: What is run, by its name in the table.
SIDES = {
    FAIRSEQ: ["-c", "import fairseq"],
    "import torch, transformers": ["-c", "import torch, transformers"],
    "registering: import fairseq, lst_fairseq": ["-c", "import fairseq, lst_fairseq"],
    "lst --help": [*LST, "--help"],
    **{f"lst {verb} --help": [*LST, verb, "--help"] for verb in VERBS},
    "lst translate --checkpoint nope.pt x.wav": [
        *LST,
        "translate",
        "--checkpoint",
        "nope.pt",
        "x.wav",
    ],
}


def cpu_seconds(arguments: list[str]) -> float:
    """Of a Python process, which may end with an error of its own."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process.stderr as stream:
        error = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(
            f"python {' '.join(arguments)}: ended with status {process.returncode}: {error}"
        )
    return usage.ru_utime + usage.ru_stime


def measure(sides: dict[str, list[str]], repeats: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each side, and their ratio to those of the first one."""
    for arguments in sides.values():
        cpu_seconds(arguments)
    runs = [
        {name: cpu_seconds(arguments) for name, arguments in sides.items()} for _ in range(repeats)
    ]
    first = next(iter(sides))
    return {
        name: {
            "cpu_seconds": round(min(run[name] for run in runs), 3),
            "ratio": round(statistics.median(run[name] / run[first] for run in runs), 3),
        }
        for name in sides
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    args = parser.parse_args(argv)
    measured = measure(SIDES, args.repeats)
    for name, row in measured.items():
        print(f"{name:42} {row['cpu_seconds']:7.2f} s {row['ratio']:7.2f}")
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
