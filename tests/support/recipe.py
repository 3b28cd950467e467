"""The recipe's shell scripts, with fairseq's commands replaced by stubs that note how they were called."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples" / "mustc"

TRAIN = """\
printf 'fairseq-train %s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
[[ $1 == --* ]] && echo "the data folder has to come first" && exit 2
while [[ $# -gt 0 ]]; do
    [[ $1 == --save-dir ]] && dir=$2
    [[ $1 == --valid-subset ]] && dev=$2
    [[ $1 == --lr ]] && lr=$2
    [[ $1 == --arch ]] && arch=$2
    shift
done
# 2e-3 is the best learning rate, a smaller architecture better than a larger one.
case $arch-$lr in *_xs-2e-3) loss=3.5 ;; *-2e-3) loss=4.25 ;; *) loss=11.5 ;; esac
echo "2026-01-01 | INFO | $dev | epoch 001 | valid on '$dev' subset | loss $loss | nll_loss 1 | best_loss 0.1 | wps 3"
echo "2026-01-01 | INFO | fairseq_cli.train | num. shared model params: 5,000 (num. trained: 1,234)"
echo "2026-01-01 | INFO | fairseq_cli.train | num. expert model params: 0 (num. trained: 0)"
echo "2026-01-01 | INFO | train_inner | epoch 001:     50 / 90 loss=4.5, ppl=9, num_updates=50, lr=0.1, wall=7"
sleep "${TRAIN_SECONDS:-0}"
echo weights >"$dir/checkpoint_last.pt"
[[ -z ${TRAIN_FAILS:-} ]] || { echo "RuntimeError: disk on fire"; exit 1; }
"""
GENERATE = """\
printf 'fairseq-generate %s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
for i in 0 1; do printf 'T-%d\\tref\\nD-%d\\t-1\\thypothesis\\n' "$i" "$i"; done
"""
# Answers the question for GPUs, and runs `lst` where a study calls it as a module; the rest is
# Python's.
PYTHON = """\
case "$*" in
    *"import torch"*) echo "${DEVICE:-0 fp32}" && exit ;;
    "-m lst_fairseq.cli "*) exec "${0%/*}/lst" "${@:3}" ;;
    *make_corpus.py*) printf 'python %s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
        mkdir -p "$2"/en-{de,fr,es}/data/{train,dev,tst-COMMON}/txt
        touch "$2"/en-{de,fr,es}/data/{train,dev,tst-COMMON}/txt/text ;;
    *) exec REAL "$@" ;;
esac
"""
# Prepares manifests of 300 training segments, gives every system 61.2 BLEU, or 62.5 with a length
# penalty of 1.4; the other verbs are the real ones.
LST = """\
case "$1 ${2:-}" in
    "prep asr") head -n 201 "$4" >"$6" ;;
    "average "*) echo weights >"${!#}" ;;
    "prep "* | "compare "* | "transcribe "*) ;;
    "score "*) printf '%s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
        while [[ $# -gt 0 ]]; do
            [[ $1 == --name ]] && name=$2
            [[ $1 == --json ]] && json=$2
            [[ $1 == beam=* ]] && beam=${1#*=}
            [[ $1 == lenpen=* ]] && lenpen=${1#*=}
            shift
        done
        bleu=61.2
        [[ $lenpen == 1.4 ]] && bleu=62.5
        echo "{\\"name\\": \\"$name\\", \\"bleu\\": $bleu, \\"segments\\": 2, \\"signature\\": \\"s\\"," \\
            "\\"beam\\": \\"$beam\\", \\"lenpen\\": \\"$lenpen\\"}" >"$json"
        exit ;;
    *) exec REAL -m lst_fairseq.cli "$@" ;;
esac
printf 'lst %s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
[[ $1 == prep && $2 != asr ]] || exit 0
splits=$(grep -o 'train\\|dev\\|tst-[A-Z]*' <<<"$*")
while [[ $# -gt 0 ]]; do [[ $1 == --out ]] && out=$2; shift; done
for split in $splits; do { echo header; seq 300; } >"$out/$split.tsv"; done
"""


class Sandbox:
    """A corpus, backbones and a stub environment; `run` calls a script in it."""

    def __init__(self, root: Path):
        self.root, self.calls_file, self.work = root, root / "calls", root / "work"
        environment = root / "env"
        (environment / "bin").mkdir(parents=True)
        (environment / ".lst-fairseq-setup").touch()
        stubs = {"fairseq-train": TRAIN, "fairseq-generate": GENERATE, "python": PYTHON, "lst": LST}
        for name, body in stubs.items():
            path = environment / "bin" / name
            path.write_text("#!/usr/bin/env bash\n" + body.replace("REAL", sys.executable))
            path.chmod(0o755)
        for split in ("train", "dev", "tst-COMMON", "tst-HE"):
            (root / "corpus" / "en-de" / "data" / split / "txt").mkdir(parents=True)
            (root / "corpus" / "en-de" / "data" / split / "txt" / f"{split}.yaml").write_text(f"- {split}\n")
        (root / "corpus" / "en-fr" / "data").mkdir(parents=True)
        (root / "frontend").mkdir()
        (root / "llm").mkdir()
        self.settings = {
            "PATH": os.environ["PATH"],
            "VIRTUAL_ENV": str(environment),
            "CALLS": str(self.calls_file),
            "MUSTC_ROOT": str(root / "corpus"),
            "SPEECH_ENCODER": str(root / "frontend"),
            "LLM": str(root / "llm"),
            "WORK": str(self.work),
        }

    def run(self, script: str, fails: bool = False, **settings: str) -> str:
        """Everything that examples/mustc/SCRIPT.sh prints; a setting of None is not set."""
        environment = {k: v for k, v in {**self.settings, **settings}.items() if v is not None}
        done = subprocess.run(
            ["bash", str(RECIPE / f"{script}.sh")],
            env=environment, cwd=self.root, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        return output

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of each call of a command so far; ``lst score`` is ``score``."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [shlex.split(line)[1:] for line in lines if line.startswith(command + " ")]


def value(arguments: list[str], flag: str) -> str:
    assert arguments.count(flag) == 1, (flag, arguments)
    return arguments[arguments.index(flag) + 1]


def wait_for(true: Callable[[], bool]) -> None:
    """Until a condition holds, half a minute at most."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it has not come")
