"""The running of studies, by the recipe's real scripts on stub commands."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lst_fairseq.recipe.attempt import Cost
from lst_fairseq.recipe.folder import StepFolder
from lst_fairseq.study.cells import Plan, Step
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.progress import beyond, finished, inspect, read_cost
from lst_fairseq.study.results import cannot_run, collect, paired_tests, summaries
from lst_fairseq.study.run import Runner, duration, time_left
from tests.support.forks import ended, fork
from tests.support.recipe import value
from tests.support.studies import STUDY, Studies


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
    assert len(studies.calls("fairseq-generate")) == 6 * 2 and len(studies.calls("lst")) == 1
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
    costs = [read_cost(plan.cell(plan.study.reference, 1, {}).steps[kind]) for kind in ("stage1", "stage2")]
    assert line["cpu_seconds"]["training"] == pytest.approx(sum(cost.cpu_seconds for cost in costs), abs=0.06)
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
    cost = read_cost(step)
    assert finished(step) and 0.6 <= cost.cpu_seconds < 3 and 0.14 < cost.peak_memory_gib < 0.25
    assert cost.seconds >= 0.6 and cost.attempts == 1
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
        assert line["chosen"] == {name: entry["chosen"] for (arm, name), entry in tried.items() if arm == line["arm"]}
        assert ("dev" in line["scores"]) == (line["seed"] == 1)
    # The test split was translated with what was chosen alone: two arms, two seeds. One candidate came after another:
    # 2 + 2 - 1 with stage 1, of which the second search shares one, and two with the one stage.
    generated = [value(call, "--gen-subset") for call in studies.calls("fairseq-generate")]
    assert generated.count("tst-HE") == 2 * 2 and generated.count("dev") == 3 + 2


def test_the_search_goes_beyond_its_edge(studies, monkeypatch):
    """The stub's best score is at 4e-4."""
    one = {"seeds": [1], "factors": {"strategy": {"two-stage": {}}}, "claims": []}
    tried = {}
    for widen in (0, 1, 5):
        plan = studies.plan(search={"STAGE2_LR": ["1.6e-3", "8e-4"], "widen": widen}, **one)
        assert studies.run_study(plan) == []
        (entry,) = collect(plan)["search"]
        tried[widen] = list(entry["tried"])
        assert entry["chosen"] == min(tried[widen], key=lambda rate: abs(float(rate) - 4e-4))
    # After 4e-4 came 2e-4, which was worse: the best lies between others.
    more = ["4e-4", "2e-4"]
    assert tried == {n: ["1.6e-3", "8e-4", *more[:n]] for n in (0, 1, 5)}
    monkeypatch.setenv("FAILS", "--lr 1e-4")
    plan = studies.plan(search={"STAGE2_LR": ["2e-4", "1e-4"], "widen": 1}, **one)
    assert len(studies.run_study(plan)) == 1
    (entry,) = collect(plan)["search"]
    assert list(entry["tried"]) == ["2e-4", "1e-4", "4e-4"] and entry["chosen"] == "4e-4"


@pytest.mark.parametrize(
    ("scores", "further"),
    [
        ({"1e-3": 2.0, "5e-4": 1.0}, "2e-3"),
        ({"1e-3": 1.0, "5e-4": 2.0}, "2.5e-4"),
        ({"1e-3": 2.0, "5e-4": 1.0, "2e-3": 1.5}, None),
        ({"30": 3.0, "10": 1.0}, "9e1"),
        ({"1e-3": None, "5e-4": 2.0}, "2.5e-4"),
        ({"1e-3": None, "5e-4": None}, None),
        ({"1e-3": 1.0}, None),
    ],
)
def test_what_lies_beyond_the_best(scores, further):
    assert beyond(scores) == further


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
    state = inspect(plan, plan.study.reference, cannot_run)
    assert [cell.chosen["STAGE2_LR"] for cell in state.cells] == ["8e-4"]
    assert all(finished(cell.steps["test"]) for cell in state.cells)


def test_a_killed_study_goes_on_from_its_checkpoints(studies, monkeypatch):
    """The interrupt comes while stage 2 runs: its process ends, and the next run starts from its checkpoint."""
    monkeypatch.setenv("TRAIN_SECONDS", "30")
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    checkpoint = plan.cell(plan.study.reference, 1, {}).work / "one-stage" / "checkpoint_last.pt"
    stopped = []

    def interrupt() -> None:
        log = checkpoint.parent / "train.log"  # which another process writes
        while not (checkpoint.exists() and "num_updates 20" in log.read_text()):
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
    cost = read_cost(step)
    assert time.monotonic() - stopped[0] < 25 and not finished(step)
    assert Path(f"{studies.calls_file}.times").read_text().count("end") == 0
    monkeypatch.setenv("TRAIN_SECONDS", "0")
    assert studies.run_study(plan) == []
    assert read_cost(step).attempts == 2 and read_cost(step).seconds > cost.seconds
    assert (checkpoint.parent / "train.log").read_text().count("num_updates=10") == 2
    assert len(collect(plan)["cells"]) == 1


@pytest.mark.parametrize("killed", ["all", "runner"])
def test_the_time_of_what_was_killed_outright_counts(studies, monkeypatch, tmp_path, killed):
    """Of SIGKILL nobody can make a note; what was noted until then counts, or what the step noted at its end."""
    monkeypatch.setenv("TRAIN_SECONDS", "60" if killed == "all" else "1")
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    step = plan.cell(plan.study.reference, 1, {}).steps["stage2"]
    log = step.work / "one-stage" / "train.log"
    runner = fork(studies.run_study, plan, log=tmp_path / "runner")
    while not (log.exists() and "num_updates 20" in log.read_text()):
        time.sleep(0.05)
    while step.place.cost().seconds < 0.3:
        time.sleep(0.05)
    os.kill(runner, signal.SIGKILL)
    ended(runner)
    if killed == "all":
        for process in session_of(step):
            with contextlib.suppress(ProcessLookupError):  # some end with the one before
                os.kill(process, signal.SIGKILL)
    before = len(studies.trainings())
    monkeypatch.setenv("TRAIN_SECONDS", "0")
    assert studies.run_study(plan) == [] and len(studies.trainings()) == before + (killed == "all")
    cost = read_cost(step)
    assert finished(step) and cost.attempts == (2 if killed == "all" else 1)
    assert cost.seconds > (0.3 if killed == "all" else 1) and cost.cpu_seconds > 0
    assert len(collect(plan)["cells"]) == 1


def session_of(step: Step) -> list[int]:
    """Processes of a running step, the one first that has the step's folder among its arguments."""
    arguments, sessions = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
            sessions[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()[3]
    (leader,) = [process for process, words in arguments.items() if str(step.place.path).encode() in words]
    return [leader, *(p for p, session in sessions.items() if session == str(leader) and p != leader)]


def test_stage_2_that_failed_goes_on_by_the_same_command(studies, monkeypatch):
    plan = studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[])
    monkeypatch.setenv("FAILS", "--train-modules adapter,llm")
    studies.run_study(plan)
    monkeypatch.delenv("FAILS")
    studies.run_study(plan)
    _, first, second = studies.calls("fairseq-train")
    assert first == second and "--finetune-from-model" in first and len(collect(plan)["cells"]) == 1


def test_as_many_at_once_as_asked_for(studies, monkeypatch):
    monkeypatch.setenv("TRAIN_COMPANY", "2")  # one alone would wait in vain
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
    lock = step.place.hold()
    started = time.monotonic()
    threading.Timer(1.0, lock.release).start()
    assert studies.run_study(plan) == []
    assert time.monotonic() - started > 1 and len(collect(plan)["cells"]) == 1
    assert studies.said[0] == "start   data: " + step.name


def test_stray_settings_do_not_reach_the_cells(studies, monkeypatch):
    monkeypatch.setenv("STAGE2_LR", "99")
    monkeypatch.setenv("SETTINGS", "gone.env")
    monkeypatch.setenv("FORCE", "1")
    studies.run_study(studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[]), gpus=["5", "7"])
    assert [value(call, "--lr") for call in studies.calls("fairseq-train")] == ["2e-3", "4e-4"]


def test_the_commands_beside_the_interpreter_are_found(studies):
    """Where the recipe itself has no environment to choose, as a wheel's has none."""
    plan = studies.plan()
    step = plan.cell(plan.study.reference, 1, {}).steps["data"]
    first, *others = Runner(plan, plan.study.arms)._environment(step, 0)["PATH"].split(os.pathsep)
    assert first == str(Path(sys.executable).parent) and others == os.environ["PATH"].split(os.pathsep)


def test_another_beam_translates_again_and_trains_nothing(studies):
    only = {"seeds": [1], "factors": {"strategy": {"two-stage": {}}}, "claims": []}
    studies.run_study(studies.plan(**only))
    assert studies.run_study(studies.plan(**only, base={**STUDY["base"], "BEAM": 1})) == []
    assert len(studies.trainings()) == 2
    assert [value(call, "--beam") for call in studies.calls("fairseq-generate")] == ["4", "4", "1", "1"]


def test_another_beam_that_fails_at_the_second_split_goes_on_there(studies):
    only = {"seeds": [1], "factors": {"strategy": {"two-stage": {}}}, "claims": []}
    studies.run_study(studies.plan(**only))
    generate = studies.root / "env" / "bin" / "fairseq-generate"
    works = generate.read_text()
    generate.write_text(f"{works}[[ $* != *tst-HE* ]]\n")
    plan = studies.plan(**only, base={**STUDY["base"], "BEAM": 1})
    assert len(studies.run_study(plan)) == 1
    generate.write_text(works)
    assert studies.run_study(plan) == []
    calls = [(value(call, "--gen-subset"), value(call, "--beam")) for call in studies.calls("fairseq-generate")]
    assert calls[2:] == [("tst-COMMON", "1"), ("tst-HE", "1"), ("tst-HE", "1")]


@pytest.mark.parametrize("code", [None, 0])
def test_what_an_earlier_version_noted_of_a_step_before_it_was_killed_counts(studies, code):
    """Of a step that runs, in KIND.usage; the step may have come to its end without its runner."""
    plan = studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[])
    step = plan.cell(plan.study.reference, 1, {}).steps["data"]
    step.record.parent.mkdir(parents=True)
    noted = {"key": step.key, "seconds": 100.5, "cpu_seconds": 7.0, "peak_memory_gib": 3.0}
    step.record.write_text(json.dumps({**noted, "finished": False, "attempts": 2}))
    step.record.with_suffix(".usage").write_text(json.dumps({**noted, "code": code}))
    assert finished(step) == (code == 0) and read_cost(step) == Cost(201.0, 14.0, 3.0, 3)
    if code is None:
        assert studies.run_study(plan) == [] and finished(step)
        assert read_cost(step).attempts == 4 and read_cost(step).seconds >= 201


def test_a_step_that_another_process_was_faster_to_start_has_not_failed(studies, monkeypatch):
    """It was free when this one looked."""
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    step = plan.cell(plan.study.reference, 1, {}).steps["data"]
    lock = step.place.hold()
    threading.Timer(1.0, lock.release).start()
    monkeypatch.setattr(StepFolder, "is_in_use", lambda self: False)
    assert studies.run_study(plan) == [] and len(collect(plan)["cells"]) == 1
    assert studies.said.count(f"start   data: {step.name}") > 1


def test_a_training_that_outlives_all_others_is_waited_for(studies, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAIN_SECONDS", "4")
    plan = studies.plan(seeds=[1], factors={"strategy": {"one-stage": {"ONE_STAGE": 1}}}, claims=[])
    step = plan.cell(plan.study.reference, 1, {}).steps["stage2"]
    log = step.work / "one-stage" / "train.log"
    runner = fork(studies.run_study, plan, log=tmp_path / "runner")
    while not (log.exists() and "num_updates 20" in log.read_text()):
        time.sleep(0.05)
    os.kill(runner, signal.SIGKILL)
    ended(runner)
    for process in session_of(step):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if b"fairseq-train" not in arguments[1] and arguments[0] != b"sleep":
                os.kill(process, signal.SIGKILL)
    assert step.place.is_in_use() and not finished(step)
    monkeypatch.setenv("TRAIN_SECONDS", "0")
    assert studies.run_study(plan) == [] and finished(step)


@pytest.mark.parametrize("change", ["finished", "unfinished", "another beam"])
def test_what_earlier_versions_noted_of_steps_counts(studies, change):
    """They had a file for each step, work/study/KIND.json, where the step engine has a folder."""
    plan = studies.plan(seeds=[1], factors={"strategy": {"two-stage": {}}}, claims=[])
    assert studies.run_study(plan) == []
    steps = plan.cell(plan.study.reference, 1, {}).steps
    for kind, step in steps.items():
        if kind == "dev":
            continue
        shutil.rmtree(step.place.path)
        end = {"finished": change != "unfinished" or kind != "test"}
        key = "old" if change == "another beam" and kind == "test" else step.key
        record = {"key": key, "kind": kind, "name": step.name, **end, "seconds": 100.5, "cpu_seconds": 7.0}
        step.record.write_text(json.dumps({**record, "peak_memory_gib": 3.0, "attempts": 2}))
    calls = len(studies.calls("fairseq-train")), len(studies.calls("fairseq-generate"))
    assert [finished(step) for kind, step in steps.items() if kind != "dev"] == [True] * 3 + [change == "finished"]
    assert studies.run_study(plan) == [] and finished(steps["test"])
    assert len(studies.calls("fairseq-train")) == calls[0]
    again = 2 if change == "another beam" else 0  # both splits are translated again
    assert len(studies.calls("fairseq-generate")) == calls[1] + again
    cost = read_cost(steps["test"])
    kept = {"finished": (100.5, 2), "unfinished": (100.5, 3), "another beam": (0, 1)}[change]
    assert (cost.seconds // 100 * 100.5, cost.attempts) == kept and read_cost(steps["stage2"]).seconds == 100.5
    assert collect(plan)["cells"][0]["peak_memory_gib"] == 3.0


def test_time_left_is_by_the_mean_of_a_kind(studies):
    plan = studies.plan()
    steps = [plan.cell(arm, seed, {}).steps["stage2"] for arm in plan.study.arms for seed in (1, 2)]
    assert time_left(plan, steps, {}, 2) is None
    for step, seconds in zip(steps, (10, 30)):
        step.place.hold().release()
        step.place.begin("bash\n")
        step.place.note(Cost(seconds))
        step.place.finish()
    assert time_left(plan, steps[2:], {}, 2) == 4 * 20 / 2
    assert time_left(plan, steps[2:], {steps[2]: 5, steps[3]: 90}, 2) == (15 + 0 + 40) / 2
    assert [duration(s) for s in (59.6, 600, 7200)] == ["60 s", "10 min", "2.0 h"]


def test_learning_curves_are_the_first_seeds(ran):
    _, plan = ran
    arms = summaries(plan, collect(plan)["cells"], samples=20)
    # Two stages of 20 updates each, one after the other.
    assert [point[0] for point in arms["reference"]["curve"]["train"]] == [10, 20, 30, 40]
    assert arms["one-stage"]["curve"]["dev"] == [[20, 7, 3.5]]
    (first,) = [line for line in collect(plan)["cells"] if line["arm"] == "lora" and line["seed"] == 1]
    ((_, p, curve),) = paired_tests(plan.out, {"lora": first}, "lora", "tst-HE", True, 20)
    assert p is None and len(curve["train"]) == 4


def test_a_folder_with_two_systems_is_refused(ran):
    _, plan = ran
    other = plan.cell(plan.study.reference, 1, {}).work / "scores" / "other.tst-COMMON.json"
    other.write_text("{}")
    with pytest.raises(StudyError, match="2 scores of tst-COMMON where one is needed; remove"):
        collect(plan)
    other.unlink()
