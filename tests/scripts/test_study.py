"""scripts/study.py and the running of studies, by the recipe's real scripts on stub commands."""

import contextlib
import fcntl
import json
import os
import re
import statistics
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sacrebleu.metrics import BLEU

from lst_fairseq.comparison import compare, read_scores
from lst_fairseq.study import ROOT, StudyError, read_study
from lst_fairseq.study_plan import Plan, Step
from lst_fairseq.study_report import claim_sentence, number
from lst_fairseq.study_results import collect, gpu_use, has_failed, judge, paired_tests, summaries
from lst_fairseq.study_run import Runner, duration, finished, inspect, read_record, slurm_script, time_left
from tests.scripts.test_compare import system
from tests.scripts.test_recipe import Sandbox, value

# Notes its start and end; goes on from a checkpoint; fails and loops where its settings are named.
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
        python = (commands / "python").read_text()
        start, end = python.index("    *score.py*)"), python.index("    *) exec")
        stub = '    *"round(int"*) echo 1 && exit ;;\n'  # updates of warm-up
        stub += f'    *score.py*) shift; exec {sys.executable} -S {root}/score_stub.py "$@" ;;\n'
        (commands / "python").write_text(python[:start] + stub + python[end:])
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


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    return Studies(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studies, Plan]]:
    """The study, run from beginning to end; nothing may be left in its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        studies = Studies(tmp_path_factory.mktemp("ran"), monkeypatch)
        plan = studies.plan()
        assert studies.run_study(plan) == []
        yield studies, plan


def test_a_study_runs_once(ran):
    studies, _ = ran
    # Stage 1 of both seeds, shared by two arms; stage 2 of three arms with two seeds.
    assert (
        sorted(studies.trainings()) == ["one-stage"] * 2 + ["stage1"] * 2 + ["stage2"] * 2 + ["stage2-adapter+lora"] * 2
    )
    assert len(studies.calls("fairseq-generate")) == 6 * 2 and len(studies.calls("python")) == 1
    assert not [call for call in studies.calls("fairseq-generate") if "dev" in call]
    before = len(studies.calls("fairseq-train"))
    assert studies.run_study(studies.plan()) == [] and len(studies.calls("fairseq-train")) == before
    assert studies.said == []
    # A seed more would be stage 2 and translations for each arm, and stage 1 for two of them.
    more = studies.plan(seeds=[1, 3])
    assert [len(inspect(more, arm).planned[0].with_needs()) for arm in more.study.arms] == [4, 3, 4]
    assert [len(inspect(more, arm).planned) for arm in more.study.arms] == [1, 1, 1]


def test_results_are_a_line_a_cell(ran):
    _, plan = ran
    found = collect(plan)
    assert len(found["cells"]) == 6 and found["missing"] == [] and found["failures"] == {}
    line = found["cells"][0]
    assert (line["arm"], line["factors"], line["seed"]) == ("reference", {"strategy": "two-stage"}, 1)
    assert line["trained_parameters"] == 1234 and line["settings"]["stage1"]["STAGE1_UPDATES"] == "10"
    for split in ("tst-COMMON", "tst-HE"):
        written = json.loads((plan.out / line["files"][split]).read_text())
        assert line["scores"][split]["bleu"] == written["bleu"]
        assert line["scores"][split]["full_signature"] == f"full|{split}"
    assert [Path(log).parent.name for log in line["logs"]] == ["stage1", "stage2"]
    assert not [log for log in line["logs"] if os.path.isabs(log)]
    records = [read_record(plan.cell(plan.study.reference, 1, {}).steps[kind]) for kind in ("stage1", "stage2")]
    assert line["cpu_seconds"]["training"] == pytest.approx(sum(r["cpu_seconds"] for r in records), abs=0.06)
    json.dumps(found)


def test_costs_are_those_of_all_processes(studies, tmp_path):
    """A grandchild that computes for a while with 150 MB counts."""
    work = tmp_path / "step"
    burn = (
        "import time; x = bytearray(150 << 20); end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    )
    (tmp_path / "burn.py").write_text(burn)
    command = f"bash -c 'bash -c \"{sys.executable} -S {tmp_path}/burn.py; true\"; true'"
    files = {"data/config it's.yaml": "a: '$HOME'\n"}
    step = Step("stage2", "burning", work, "key", (f"mkdir -p '{work}/data'", command), {}, files=files)
    runner = Runner(studies.plan(), [], jobs=1, say=lambda line: None)
    runner._start(step)
    while not runner._reap():
        time.sleep(0.05)
    record = read_record(step)
    assert finished(step) and 0.6 <= record["cpu_seconds"] < 3 and 0.14 < record["peak_memory_gib"] < 0.25
    assert record["seconds"] >= 0.6 and record["attempts"] == 1
    assert (work / "data" / "config it's.yaml").read_text() == "a: '$HOME'\n"


def test_the_search_chooses_on_dev(studies):
    search = {"STAGE1_LR": ["1e-3", "2e-3"], "STAGE2_LR": ["8e-4", "4e-4"]}
    factors = {"strategy": {"two-stage": {}, "one-stage": {"ONE_STAGE": 1}}}
    plan = studies.plan(search=search, factors=factors, splits=["tst-HE"])
    assert studies.run_study(plan) == []
    found = collect(plan)
    tried = {(entry["arm"], entry["setting"]): entry for entry in found["search"]}
    # Stage 1's learning rate is nothing to one stage.
    assert set(tried) == {("reference", "STAGE1_LR"), ("reference", "STAGE2_LR"), ("one-stage", "STAGE2_LR")}
    for entry in tried.values():
        assert list(entry["tried"]) == search[entry["setting"]]
        assert entry["chosen"] == max(entry["tried"], key=entry["tried"].get)
    assert tried["one-stage", "STAGE2_LR"]["chosen"] == "4e-4"
    for line in found["cells"]:
        assert line["chosen"]["STAGE2_LR"] == tried[line["arm"], "STAGE2_LR"]["chosen"]
        assert ("dev" in line["scores"]) == (line["seed"] == 1)
    # The test split was translated with what was chosen alone: two arms, two seeds. One candidate came after another:
    # 2 + 2 - 1 with stage 1, of which the second search shares one, and two with the one stage.
    generated = [value(call, "--gen-subset") for call in studies.calls("fairseq-generate")]
    assert generated.count("tst-HE") == 2 * 2 and generated.count("dev") == 3 + 2


def test_a_failed_cell_stops_no_other_and_is_tried_again(studies, monkeypatch):
    monkeypatch.setenv("FAILS", "--train-modules adapter,lora")
    low_rank = {"lora": {"STAGE2_MODULES": "adapter,lora"}, "two-stage": {}}
    plan = studies.plan(seeds=[1], factors={"strategy": low_rank}, reference={"strategy": "two-stage"}, claims=[])
    failures = studies.run_study(plan)
    assert [failure.step.kind for failure in failures] == ["stage2"]
    assert "disk on fire" in failures[0].lines and "train.log" in failures[0].lines
    found = collect(plan)
    assert len(found["cells"]) == 1 and found["missing"] == ["lora, seed 1"]
    assert "disk on fire" in found["failures"]["stage2: lora, seed 1"]
    assert [line for line in studies.said if line.startswith("FAILED")]
    monkeypatch.delenv("FAILS")
    before = len(studies.trainings())
    assert studies.run_study(plan) == [] and studies.trainings()[before:] == ["stage2-adapter+lora"]
    assert collect(plan)["failures"] == {} and len(collect(plan)["cells"]) == 2


def test_a_failed_candidate_is_not_chosen(studies, monkeypatch):
    monkeypatch.setenv("FAILS", "--lr 4e-4")
    only = {"seeds": [1], "factors": {"strategy": {"two-stage": {}}}, "claims": []}
    plan = studies.plan(search={"STAGE2_LR": ["4e-4", "8e-4"]}, **only)
    assert len(studies.run_study(plan)) == 1
    (entry,) = collect(plan)["search"]
    assert entry["tried"]["4e-4"] is None and entry["chosen"] == "8e-4"
    state = inspect(plan, plan.study.reference, has_failed)
    assert [cell.chosen["STAGE2_LR"] for cell in state.cells] == ["8e-4"]
    assert all(finished(cell.steps["test"]) for cell in state.cells)


def test_a_killed_study_goes_on_from_its_checkpoints(studies, monkeypatch):
    """The interrupt comes while stage 2 runs: its process ends, and the next run starts from its checkpoint."""
    monkeypatch.setenv("TRAIN_SECONDS", "30")
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    checkpoint = plan.cell(plan.study.reference, 1, {}).work / "one-stage" / "checkpoint_last.pt"
    stopped = []

    def interrupt() -> None:
        while not checkpoint.exists():
            time.sleep(0.02)
        stopped.append(time.monotonic())

    watcher = threading.Thread(target=interrupt)
    watcher.start()

    def say(line: str) -> None:
        if stopped and line.startswith("running"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studies.run_study(plan, say=say, every=0.1)
    watcher.join()
    step = plan.cell(plan.study.reference, 1, {}).steps["stage2"]
    record = read_record(step)
    assert time.monotonic() - stopped[0] < 15 and not record["finished"]
    assert Path(f"{studies.calls_file}.times").read_text().count("end") == 0
    monkeypatch.setenv("TRAIN_SECONDS", "0")
    assert studies.run_study(plan) == []
    assert read_record(step)["attempts"] == 2 and read_record(step)["seconds"] > record["seconds"]
    assert (checkpoint.parent / "train.log").read_text().count("num_updates=10") == 2
    assert len(collect(plan)["cells"]) == 1


def test_stage_2_that_was_killed_does_not_begin_with_stage_1_again(studies, monkeypatch):
    plan = studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[])
    monkeypatch.setenv("FAILS", "--train-modules adapter,llm")
    studies.run_study(plan)
    monkeypatch.delenv("FAILS")
    studies.run_study(plan)
    _, first, second = studies.calls("fairseq-train")
    assert "--finetune-from-model" in first and "--finetune-from-model" not in second
    assert value(first, "--save-dir") == value(second, "--save-dir") and len(collect(plan)["cells"]) == 1


def test_as_many_at_once_as_asked_for(studies, monkeypatch):
    monkeypatch.setenv("TRAIN_SECONDS", "0.5")
    plan = studies.plan(seeds=[1, 2, 3], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    studies.run_study(plan, jobs=2)
    running, most = 0, 0
    for line in Path(f"{studies.calls_file}.times").read_text().splitlines():
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert most == 2
    assert any(re.search(r"done .*; \d+ steps left, about \d+ s", line) for line in studies.said)


def test_what_another_process_runs_is_waited_for(studies):
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    step = plan.cell(plan.study.reference, 1, {}).steps["data"]
    step.record.parent.mkdir(parents=True)
    lock = os.open(step.record.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    started = time.monotonic()
    threading.Timer(1.0, lambda: os.close(lock)).start()
    assert studies.run_study(plan) == []
    assert time.monotonic() - started > 1 and len(collect(plan)["cells"]) == 1
    assert studies.said[0] == "start   data: " + step.name


def test_stray_settings_do_not_reach_the_cells(studies, monkeypatch):
    monkeypatch.setenv("STAGE2_LR", "99")
    monkeypatch.setenv("SETTINGS", "gone.env")
    monkeypatch.setenv("FORCE", "1")
    studies.run_study(studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[]), gpus=["5", "7"])
    assert [value(call, "--lr") for call in studies.calls("fairseq-train")] == ["2e-3", "4e-4"]


def test_another_beam_translates_again_and_trains_nothing(studies):
    only = {"seeds": [1], "factors": {"strategy": {"two-stage": {}}}, "claims": []}
    studies.run_study(studies.plan(**only))
    assert studies.run_study(studies.plan(**only, base={**STUDY["base"], "BEAM": 1})) == []
    assert len(studies.trainings()) == 2
    assert [value(call, "--beam") for call in studies.calls("fairseq-generate")] == ["4", "4", "1", "1"]


def test_time_left_is_by_the_mean_of_a_kind(studies):
    plan = studies.plan()
    steps = [plan.cell(arm, seed, {}).steps["stage2"] for arm in plan.study.arms for seed in (1, 2)]
    assert time_left(plan, steps, {}, 2) is None
    for step, seconds in zip(steps, (10, 30)):
        step.record.parent.mkdir(parents=True)
        step.record.write_text(json.dumps({"key": step.key, "finished": True, "seconds": seconds}))
    assert time_left(plan, steps[2:], {}, 2) == 4 * 20 / 2
    assert time_left(plan, steps[2:], {steps[2]: 5, steps[3]: 90}, 2) == (15 + 0 + 40) / 2
    assert [duration(s) for s in (59.6, 600, 7200)] == ["60 s", "10 min", "2.0 h"]


# --- numbers ----------------------------------------------------------------------------------------------------------


def lines_of(folder: Path, wrong: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Cells whose systems get some part of the words wrong, by arm and seed."""
    lines = []
    for label, parts in wrong.items():
        for seed, part in enumerate(parts, start=1):
            name = f"{label}{seed}"
            found = system(name, part)
            (folder / f"{name}.json").write_text(json.dumps(found))
            score = {key: found[key] for key in ("bleu", "chrf", "segments")}
            scores = dict.fromkeys(STUDY["splits"], score)
            files = dict.fromkeys(scores, f"{name}.json")
            shared = {"factors": {"strategy": label}, "chosen": {}, "train_seconds": 10 * seed, "trained_parameters": 5}
            costs = {"cpu_seconds": {"training": 3.0}, "peak_memory_gib": 0.5, "files": files, "logs": []}
            lines.append({"arm": label, "seed": seed, "scores": scores, **shared, **costs})
    return lines


def test_means_spreads_and_tests_are_those_of_plain_computation(studies):
    plan = studies.plan()
    plan.out.mkdir()
    lines = lines_of(plan.out, {"reference": [0.2, 0.2], "one-stage": [0.5, 0.3]})
    arms = summaries(plan, lines, samples=200)
    for label in ("reference", "one-stage"):
        exact = []
        for seed in (1, 2):
            sentences = system(f"{label}{seed}", {"reference": [0.2, 0.2], "one-stage": [0.5, 0.3]}[label][seed - 1])
            exact.append(
                BLEU().corpus_score(sentences["sentences"]["hypotheses"], [sentences["sentences"]["references"]]).score
            )
        score = arms[label]["scores"]["tst-COMMON"]
        assert score["mean"] == pytest.approx(sum(exact) / 2, abs=1e-9)
        assert score["spread"] == pytest.approx(statistics.stdev(exact), abs=1e-9)
        assert arms[label]["train_seconds"] == 15
    for seed in (1, 2):
        pair = [read_scores(plan.out / f"{label}{seed}.json") for label in ("reference", "one-stage")]
        expected = compare(pair, f"reference{seed}", samples=200)["systems"][1]["bleu_p"]
        assert arms["one-stage"]["p"]["tst-COMMON"][seed] == expected
    assert arms["reference"]["p"]["tst-COMMON"] == {}
    assert arms["one-stage"]["p"]["tst-COMMON"][1] < 0.05 < arms["one-stage"]["p"]["tst-COMMON"][2]


VERDICTS = [
    ({"reference": [0.1, 0.1], "one-stage": [0.5, 0.5]}, "holds", "holds (reference against one-stage: +"),
    ({"reference": [0.5, 0.5], "one-stage": [0.1, 0.1]}, "contradicted", "does not hold, the reverse does"),
    ({"reference": [0.1, 0.5], "one-stage": [0.5, 0.1]}, "open", "is neither shown nor contradicted"),
    ({"reference": [0.6, 0.2], "one-stage": [0.2, 0.3]}, "open", "is neither shown nor contradicted"),
    ({"reference": [0.2, 0.2]}, "no result", "Two beat one: has no result yet."),
]


@pytest.mark.parametrize(
    ("wrong", "verdict", "sentence"), VERDICTS, ids=[case[1] + str(i) for i, case in enumerate(VERDICTS)]
)
def test_claims_are_judged_by_every_seed(wrong, verdict, sentence, studies):
    plan = studies.plan()
    plan.out.mkdir()
    lines = lines_of(plan.out, wrong)
    judged = judge(plan, plan.study.claims[0], lines, samples=200)
    assert judged["verdict"] == verdict and sentence in claim_sentence(judged)
    if verdict != "no result":
        by_name = {(line["arm"], line["seed"]): line["scores"]["tst-COMMON"]["bleu"] for line in lines}
        expected = {s: by_name["reference", s] - by_name["one-stage", s] for s in (1, 2)}
        assert judged["differences"] == pytest.approx(expected)


def test_learning_curves_are_the_first_seeds(ran):
    _, plan = ran
    arms = summaries(plan, collect(plan)["cells"], samples=20)
    # Two stages of 20 updates each, one after the other.
    assert [point[0] for point in arms["reference"]["curve"]["train"]] == [10, 20, 30, 40]
    assert arms["one-stage"]["curve"]["dev"] == [[20, 7, 3.5]]
    (first,) = [line for line in collect(plan)["cells"] if line["arm"] == "lora" and line["seed"] == 1]
    ((_, p, curve),) = paired_tests(plan.out, {"lora": first}, "lora", "tst-HE", True, 20)
    assert p is None and len(curve["train"]) == 4


def test_gpu_use_is_read_from_the_logs(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "CUDA enviroments for all 2 workers\nrank   0: capabilities =  9.0  ; total memory = 139.720 GB ; name = H200\n"
        "train_inner | epoch 001: 1 / 2 loss=1, num_updates=1, gb_free=100.5, wall=1\n"
        "train_inner | epoch 001: 2 / 2 loss=1, num_updates=2, gb_free=90.7, wall=2\n"
    )
    assert gpu_use([str(log)], 30) == {"gpus": 2, "gpu_seconds": 60, "peak_gpu_memory_gib": 49.02}
    log.write_text("train_inner | epoch 001: 1 / 2 loss=1\n")
    assert gpu_use([str(log)], 30) == {}


# --- the command and its report ---------------------------------------------------------------------------------------


@pytest.fixture
def command(studies, monkeypatch):
    """``scripts/study.py`` in this process."""
    sys.path.insert(0, str(ROOT / "scripts"))
    with contextlib.suppress(KeyError):
        del sys.modules["study"]
    import study

    yield lambda *arguments: study.main([str(studies.root / "study.yaml"), "--out", str(studies.out), *arguments])
    sys.path.pop(0)


def test_command_runs_and_reports(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    fractions = {"fraction": {"100%": {}, "25%": {"STAGE2_LR": "7e-4"}}}
    one_stage = {"strategy": {"two-stage": {"note": "as | the paper"}, "one-stage": {"ONE_STAGE": 1, "STAGE1_LR": 1}}}
    studies.plan(factors={**one_stage, **fractions}, title="Tiny <study>", splits=["tst-COMMON"])
    command("--list")
    # Data, two seeds of stage 1, and two steps more of two seeds of four arms.
    assert f"{1 + 2 + 2 * 2 * 4} steps in all" in capsys.readouterr().out and not studies.out.exists()
    command("--samples", "50", "--jobs", "3")
    said = capsys.readouterr().out
    assert "Two beat one" in said and "written:" in said
    lines = [json.loads(line) for line in (studies.out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 2 and str(ROOT) not in (studies.out / "results.jsonl").read_text()
    report = (studies.out / "report.md").read_text()
    assert report.startswith("# Tiny \\<study\\>\n")
    table = report.split("## strategy\n")[1].split("## ")[0]
    mean = statistics.fmean(line["scores"]["tst-COMMON"]["bleu"] for line in lines if line["arm"] == "one-stage")
    (row,) = [line for line in table.splitlines() if line.startswith("| one-stage")]
    assert f"{mean:.1f} ±" in row and "1.23 k" not in row and "0.00 M" in row
    assert "| two-stage (reference) | as \\| the paper |" in table
    assert "## strategy x fraction" in report and "| one-stage, 25% |" in report
    page = (studies.out / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    body = page[page.index("<body>") : page.index("</html>")]
    root = ElementTree.fromstring(body)
    plots = root.findall(".//svg")
    assert len(plots) >= 8 and "Tiny <study>" in "".join(root.itertext())
    # BLEU by amount of data: a line for each strategy through both points.
    (by_fraction,) = [svg for svg in plots if any((t.text or "") == "fraction" for t in svg.iter("text"))]
    assert [len(line.get("points").split()) for line in by_fraction.iter("polyline")] == [2, 2]
    before = len(studies.calls("fairseq-train"))
    command("--report", "--samples", "50")
    assert len(studies.calls("fairseq-train")) == before and (studies.out / "report.md").read_text() == report


def test_command_fails_with_the_log(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("FAILS", "--train-modules adapter,lora")
    low_rank = {"two-stage": {}, "lora": {"STAGE2_MODULES": "adapter,lora"}}
    studies.plan(seeds=[1], factors={"strategy": low_rank}, claims=[])
    with pytest.raises(SystemExit) as end:
        command("--samples", "20")
    assert "1 steps failed; the same command tries them again" in str(end.value.code)
    assert "failed: stage2: lora, seed 1" in (errors := capsys.readouterr().err) and "disk on fire" in errors
    assert "disk on fire" in (studies.out / "report.md").read_text()


def test_command_of_one_arm(studies, command, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    studies.plan(seeds=[1])
    command("--arm", "1")
    assert studies.trainings() == ["one-stage"] and not (studies.out / "report.md").exists()
    with pytest.raises(SystemExit, match="--arm 7: the study has arms 0 to 2"):
        command("--arm", "7")


def test_slurm_array(studies, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    plan = studies.plan()
    command("--slurm", str(tmp_path / "study.sbatch"), "--slurm-options", "gpus=1;time=8:00:00")
    text = (tmp_path / "study.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in text and "#SBATCH --gpus=1\n#SBATCH --time=8:00:00\n" in text
    assert '--arm "$SLURM_ARRAY_TASK_ID"' in text and studies.trainings() == []
    assert text == slurm_script(tmp_path / "study.yaml", plan.study, plan.out, sys.executable, "gpus=1;time=8:00:00")
    assert os.system(f"bash -n {tmp_path / 'study.sbatch'}") == 0


def test_numbers_among_names():
    assert [number(name) for name in ("25%", "0.5", "300", "1e-3", "lora", "5x")] == [0.25, 0.5, 300, 0.001, None, None]


def test_a_folder_with_two_systems_is_refused(ran):
    _, plan = ran
    other = plan.cell(plan.study.reference, 1, {}).work / "scores" / "other.tst-COMMON.json"
    other.write_text("{}")
    with pytest.raises(StudyError, match="2 scores of tst-COMMON where one is needed; remove"):
        collect(plan)
    other.unlink()
