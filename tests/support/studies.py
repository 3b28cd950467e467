"""Studies by the recipe's real scripts on stub commands."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lst_fairseq.study.cells import Plan
from lst_fairseq.study.grid import read_study
from lst_fairseq.study.run import Runner
from tests.support.recipe import Sandbox, value

# Notes its start and end; goes on from a checkpoint; waits until so many have started, a minute at most; fails
# and loops where its settings are named.
TRAIN = """\
printf 'fairseq-train %s\\n' "$(printf '%q ' "$@")" >>"$CALLS"
all="$*"
while [[ $# -gt 0 ]]; do [[ $1 == --save-dir ]] && dir=$2; shift; done
echo "begin $dir" >>"$CALLS.times"
echo "2026-01-01 | INFO | fairseq_cli.train | num. shared model params: 5,000 (num. trained: ${PARAMETERS:-1,234})"
for n in 10 20; do
    echo "2026-01-01 | INFO | train_inner | epoch 001: $n / 90 loss=4.5, ppl=9, num_updates=$n, lr=0.1, wall=7"
done
echo "2026-01-01 | INFO | dev | epoch 001 | valid on 'dev' subset | loss 3.5 | num_updates 20"
echo weights >"$dir/checkpoint_last.pt"
[[ -z ${FAILS:-} || $all != *"$FAILS"* ]] || { echo "RuntimeError: disk on fire"; exit 1; }
sleep "${TRAIN_SECONDS:-0}"
for ((n = 0; n < 600; n++)); do
    [[ $(grep -c ^begin "$CALLS.times") -ge ${TRAIN_COMPANY:-0} ]] && break
    sleep 0.1
done
echo "end $dir" >>"$CALLS.times"
"""
# Scores of a training are what its learning rate and seed make them; sentences to match.
SCORE = """\
import json, random, re, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
extra = dict(pair.split("=", 1) for pair in sys.argv[sys.argv.index("--extra") + 1:])
settings = open(extra["log"].split(":")[-1].replace("train.log", ".settings")).read()
rate = float(re.search("--lr (\\\\S+)", settings)[1])
wrong = 0.1 + 0.3 * abs(rate - 4e-4) / 4e-4 + ("one-stage" in extra["log"]) * 0.2
rng = random.Random(settings + extra["split"])
references = ["der alte Hund sieht das neue rote Haus %d ." % i for i in range(40)]
hypotheses = [" ".join(w if rng.random() > wrong else "?" for w in r.split()) for r in references]
right = sum(a == b for h, r in zip(hypotheses, references) for a, b in zip(h.split(), r.split()))
ids = ["id_%d" % i for i in range(40)]
sentences = {"ids": ids, "sources": ids, "references": references, "hypotheses": hypotheses}
scores = {"name": arguments["--name"], "bleu": right / 4.0, "chrf": 50.0, "ter": 9.0, "segments": 40, "signature": "s",
          "tokenize": "13a", "full_signature": "full|" + extra["split"], "sentences": sentences,
          "trained_parameters": int(extra["trained_parameters"]), "train_seconds": int(extra["train_seconds"]),
          "log": extra["log"], "split": extra["split"]}
json.dump(scores, open(arguments["--json"], "w"))
"""
SCALE = {
    "MUSTC_ROOT": "MUSTC",
    "SPEECH_ENCODER": "FRONTEND",
    "LLM": "THE_LLM",
    "STAGE1_UPDATES": 10,
    "STAGE2_UPDATES": 20,
}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "base": {**SCALE, "STAGE2_LR": "4e-4"},
    "seeds": [1, 2],
    "splits": ["tst-COMMON", "tst-HE"],
    "factors": {
        "strategy": {
            "two-stage": {"note": "as the paper"},
            "one-stage": {"ONE_STAGE": 1},
            "lora": {"STAGE2_MODULES": "adapter,lora"},
        }
    },
    "claims": [{"claim": "Two beat one", "better": {}, "worse": {"strategy": "one-stage"}}],
}


class Studies(Sandbox):
    """The recipe's sandbox with studies in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        super().__init__(root)
        commands = root / "env" / "bin"
        (commands / "fairseq-train").write_text("#!/usr/bin/env bash\n" + TRAIN)
        (root / "score_stub.py").write_text(SCORE)
        python, lst = ((commands / name).read_text() for name in ("python", "lst"))
        start = python.index("    *make_corpus.py*)")
        stub = '    *"round(int"*) echo 1 && exit ;;\n'  # updates of warm-up
        (commands / "python").write_text(python[:start] + stub + python[start:])
        start, end = lst.index('    "score "*)'), lst.index("    *) exec")
        stub = f'    "score "*) exec {sys.executable} -S {root}/score_stub.py "${{@:2}}" ;;\n'
        (commands / "lst").write_text(lst[:start] + stub + lst[end:])
        for name, text in self.settings.items():
            if name in ("PATH", "VIRTUAL_ENV", "CALLS"):
                monkeypatch.setenv(name, text)
        self.out = root / "out"

    def plan(self, **changes: Any) -> Plan:
        text = yaml.safe_dump({**STUDY, **changes}, sort_keys=False)
        for word, name in (("MUSTC", "corpus"), ("FRONTEND", "frontend"), ("THE_LLM", "llm")):
            text = re.sub(rf"(: ){word}\b", rf"\g<1>{self.root / name}", text)
        (self.root / "study.yaml").write_text(text)
        python = str(self.root / "env" / "bin" / "python")
        return Plan(read_study(self.root / "study.yaml"), self.out, python)

    def run_study(self, plan: Plan, jobs: int = 2, say: Any = None, **options: Any) -> list[Any]:
        self.said: list[str] = []
        return Runner(plan, plan.study.arms, jobs, say=say or self.said.append, poll=0.1, **options).run()

    def trainings(self) -> list[str]:
        """Last part of the folder that each training wrote to."""
        return [value(call, "--save-dir").split("/")[-1] for call in self.calls("fairseq-train")]
