#!/usr/bin/env python3
"""Many files: lst translate in several processes at once, and on thousands of files in one call.

    python benchmarks/many.py                             # the mini backbones of examples/mini, CPU
    python benchmarks/many.py --processes 4 --files 500 --json many.json

Shown are seconds and peak memory. The texts have to be right: of the processes the same as one
process's alone, and of the files of one call the same as of calls with a few of them. The exit
status is 1 where a text differs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from benchmarks.common import write_json

ROOT = Path(__file__).resolve().parents[1]
BACKBONES = ROOT / "examples" / "mini" / "backbones"
RATE = 16_000
#: Files of the one call's list that are translated again in a call of their own.
SAMPLE = 20


@dataclass(frozen=True)
class Call:
    """What one lst translate printed and took."""

    lines: list[str]
    seconds: float
    peak_mib: float


def write_speech(folder: Path, files: int) -> list[str]:
    """Files of 0.3 to 1.5 s of noise, no two alike."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    paths = []
    for number in range(files):
        samples = 0.1 * rng.standard_normal(int(rng.uniform(0.3, 1.5) * RATE))
        paths.append(str(folder / f"{number:05d}.wav"))
        soundfile.write(paths[-1], samples, RATE)
    return paths


def train(folder: Path, speech: list[str]) -> Path:
    """A checkpoint of two updates on the mini backbones."""
    data = folder / "data"
    data.mkdir()
    rows = [
        f"{n}\t{path}\t{soundfile.info(path).frames}\tein Satz" for n, path in enumerate(speech)
    ]
    for split in ("train", "dev"):
        text = "\n".join(["id\taudio\tn_frames\ttgt_text", *rows])
        (data / f"{split}.tsv").write_text(f"{text}\n", encoding="utf-8")
    command = [
        *(str(Path(sys.executable).parent / "fairseq-train"), str(data), "--user-dir"),
        *(str(ROOT / "lst_fairseq"),),
        *("--task", "lst_st", "--arch", "lst_tiny", "--criterion", "lst_cross_entropy"),
        *("--train-subset", "train"),
        *("--valid-subset", "dev", "--optimizer", "adam", "--lr", "1e-3", "--batch-size"),
        *("4", "--max-update", "2"),
        *("--cpu", "--disable-validation", "--num-workers", "0", "--no-epoch-checkpoints"),
        *("--target-lang", "de"),
        *("--speech-encoder", str(BACKBONES / "frontend"), "--llm", str(BACKBONES / "llm")),
        *("--save-dir", str(folder / "run")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run" / "checkpoint_last.pt"


class Calls:
    """lst translate with one checkpoint.

    Args:
        checkpoint: to translate with.
        args: flags of this benchmark.
    """

    def __init__(self, checkpoint: Path, args: Namespace):
        flags = ("--device", args.device, "--beam", args.beam, "--max-len-b", args.tokens)
        program = [sys.executable, "-m", "lst_fairseq.cli", "translate"]
        self.command = [*program, "--checkpoint", str(checkpoint), *map(str, flags)]

    def start(self, files: list[str]) -> tuple[subprocess.Popen[bytes], Path, float]:
        """Start one on some files: the process, the file it prints to, and when it was."""
        descriptor, name = tempfile.mkstemp()
        with os.fdopen(descriptor, "wb") as output:
            started = time.perf_counter()
            process = subprocess.Popen(
                [*self.command, *files], stdout=output, stderr=subprocess.PIPE
            )
        return process, Path(name), started

    def end(self, process: subprocess.Popen[bytes], output: Path, started: float) -> Call:
        """Wait for one that was started."""
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"lst translate failed:\n{errors.decode()[-3000:]}")
        lines = output.read_text("utf-8").split("\n")[:-1]
        output.unlink()
        return Call(lines, time.perf_counter() - started, usage.ru_maxrss / 1024)

    def run(self, files: list[str]) -> Call:
        """One alone."""
        return self.end(*self.start(files))


def beside(calls: Calls, speech: list[str], processes: int) -> dict[str, Any]:
    """Several processes at once, each with files of its own, against one with all of them."""
    each = max(1, min(len(speech) // processes, 10))
    parts = [speech[i * each : (i + 1) * each] for i in range(processes)]
    alone = calls.run([path for part in parts for path in part])
    started = time.perf_counter()
    running = [calls.start(part) for part in parts]
    together = [calls.end(*call) for call in running]
    seconds = time.perf_counter() - started
    lines = [line for call in together for line in call.lines]
    peaks = [call.peak_mib for call in together]
    print(
        f"{processes} processes at once, {each} files each: {seconds:.1f} s "
        f"(one process for all: {alone.seconds:.1f} s), {max(peaks):.0f} MiB each at most, "
        f"{sum(peaks):.0f} MiB together; texts {'equal' if lines == alone.lines else 'DIFFER'}"
    )
    return {
        "processes": processes,
        "seconds": seconds,
        "peaks_mib": peaks,
        "equal": lines == alone.lines,
    }


def one_call(calls: Calls, speech: list[str]) -> dict[str, Any]:
    """All files in one call, against calls with a few of them."""
    few, many = calls.run(speech[:SAMPLE]), calls.run(speech)
    step = max(1, len(speech) // SAMPLE)
    picked = list(range(0, len(speech), step))[:SAMPLE]
    # Other files beside them in a batch, and so other padding.
    separate = calls.run([speech[i] for i in reversed(picked)]).lines[::-1]
    equal = len(many.lines) == len(speech) and [many.lines[i] for i in picked] == separate
    equal = equal and many.lines[:SAMPLE] == few.lines
    print(
        f"{len(speech)} files in one call: {many.seconds:.1f} s, {many.peak_mib:.0f} MiB at most "
        f"({SAMPLE} files: {few.seconds:.1f} s, {few.peak_mib:.0f} MiB); "
        f"texts {'equal' if equal else 'DIFFER'}"
    )
    peaks = {"peak_mib": many.peak_mib, "peak_mib_of_few": few.peak_mib}
    return {"files": len(speech), "seconds": many.seconds, **peaks, "equal": equal}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--processes", type=int, default=8, help="lst translate at once (%(default)s)"
    )
    parser.add_argument("--files", type=int, default=2000, help="in one call (%(default)s)")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument(
        "--tokens", type=int, default=20, help="most of a translation (%(default)s)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--checkpoint", type=Path, help="to translate with (default: one of two updates)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    args = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="many"))
    try:
        speech = write_speech(folder / "speech", args.files)
        calls = Calls(args.checkpoint or train(folder, speech[:8]), args)
        results = {
            "beside": beside(calls, speech, args.processes),
            "one_call": one_call(calls, speech),
        }
    finally:
        shutil.rmtree(folder)
    write_json(args.json, args, "Many files", **results)
    return 0 if all(result["equal"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
