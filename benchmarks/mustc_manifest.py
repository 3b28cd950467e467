#!/usr/bin/env python3
"""How long lst prep mustc and lst check take on a corpus of MuST-C's size, and how much memory.

    python benchmarks/mustc_manifest.py --json mustc_manifest.json
    python benchmarks/mustc_manifest.py --segments 20000 --talks 200 --corpus made-up --yaml-loader

The corpus is made on the spot, in MuST-C's layout and with its numbers: talks of some 12 minutes, segments of some 6 s,
English and German sentences of words in their usual lengths. The wav files have whole headers and no samples (they are
sparse: nothing is on the disk). Peak memory is the largest resident set of the process itself, as the kernel counts it.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = 16_000
#: MuST-C v1 has 229,703 training segments for En-De, and some 2,500 talks for the largest pairs.
SEGMENTS, TALKS = 230_000, 2_500
WORDS = {
    "en": "the of to and a in that it is you we this so I was for are have with they be on what but people".split(),
    "de": "die der und das ist in wir zu es ich nicht sie dass eine den auf mit Menschen diese von haben".split(),
}
SECONDS_A_WORD = 0.37


@dataclass(frozen=True)
class Measured:
    """One command's cost."""

    seconds: float  # on the clock
    cpu_seconds: float  # of all its threads, which other work on the machine does not change
    peak_mib: float


def write_wav_header(path: Path, samples: int) -> None:
    """A 16-bit mono wav of so many samples, all of them a hole in the file."""
    size = 2 * samples
    fields = [(b"RIFF", 0), (36 + size, 4), (b"WAVEfmt ", 0), (16, 4), (1, 2), (1, 2), (RATE, 4), (2 * RATE, 4)]
    fields += [(2, 2), (16, 2), (b"data", 0), (size, 4)]
    header = b"".join(value if isinstance(value, bytes) else value.to_bytes(width, "little") for value, width in fields)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def sentence(rng: random.Random, words: list[str], count: int) -> str:
    """So many words, the first capitalised, with a full stop."""
    text = " ".join(rng.choices(words, k=count))
    return f"{text[0].upper()}{text[1:]}."


def make_corpus(root: Path, segments: int, talks: int, seed: int) -> int:
    """Write ROOT/en-de/data/train and return the number of YAML bytes."""
    rng = random.Random(seed)
    base = root / "en-de" / "data" / "train"
    for folder in ("wav", "txt"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    yaml_path = base / "txt" / "train.yaml"
    with (
        open(yaml_path, "w", encoding="utf-8") as listing,
        open(base / "txt" / "train.en", "w", encoding="utf-8") as source,
        open(base / "txt" / "train.de", "w", encoding="utf-8") as target,
    ):
        for talk in range(talks):
            offset = 12.0
            for _ in range(segments * (talk + 1) // talks - segments * talk // talks):
                words = max(1, round(rng.lognormvariate(2.6, 0.6)))
                duration = min(60.0, 0.4 + words * SECONDS_A_WORD * rng.uniform(0.8, 1.2))
                listing.write(
                    f"- {{duration: {duration:.6f}, offset: {offset:.6f}, rW: {words}, uW: 0, speaker_id: spk.{talk}, "
                    f"wav: ted_{talk}.wav}}\n"
                )
                source.write(sentence(rng, WORDS["en"], words) + "\n")
                target.write(sentence(rng, WORDS["de"], words) + "\n")
                offset += duration + rng.uniform(0.0, 1.0)
            write_wav_header(base / "wav" / f"ted_{talk}.wav", round((offset + 5) * RATE))
    return yaml_path.stat().st_size


def measure(*command: str) -> Measured:
    """Run a command of this Python and wait for it; its output is shown.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20)


def run(root: Path, args: argparse.Namespace) -> dict[str, object]:
    """Make the corpus in ``root`` and measure."""
    yaml_bytes = make_corpus(root, args.segments, args.talks, args.seed)
    out = root / "manifests"
    lst = ("-m", "lst_fairseq.cli")
    registering = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import lst_fairseq; lst_fairseq.register()"
    results = {
        "start": measure("-c", registering),
        "prep_mustc": measure(*lst, "prep", "mustc", "--data-root", str(root), "--tgt-lang", "de", "--out", str(out)),
        "check_manifest": measure(*lst, "check", str(out / "train.tsv"), "--show", "1"),
    }
    if args.yaml_loader:
        listing = str(root / "en-de" / "data" / "train" / "txt" / "train.yaml")
        results["yaml.BaseLoader"] = measure("-c", f"import yaml; yaml.load(open({listing!r}), Loader=yaml.BaseLoader)")
    return {
        "segments": args.segments,
        "talks": args.talks,
        "yaml_mib": round(yaml_bytes / 2**20, 1),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "measured": {
            name: {key: round(value, 1) for key, value in asdict(cost).items()} for name, cost in results.items()
        },
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=SEGMENTS, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--talks", type=int, default=TALKS, metavar="N", help="wav files (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, help="folder to make it in and leave it (default: one that is removed)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--yaml-loader",
        action="store_true",
        help="also time yaml.load with the loader that fairseq's own prep_mustc_data.py takes; minutes",
    )
    args = parser.parse_args(argv)
    if not 1 <= args.talks <= args.segments:
        parser.error(f"--talks {args.talks}: has to be from 1 to the number of segments")
    if args.corpus:
        args.corpus.mkdir(parents=True, exist_ok=True)
        report = run(args.corpus, args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = run(Path(folder), args)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
