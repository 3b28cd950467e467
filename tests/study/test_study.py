"""Study files: the grid that they describe, what they refuse, and which steps cells share."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lst_fairseq.data.prompt import PromptSettings
from lst_fairseq.recipe.location import recipe_settings
from lst_fairseq.study.cells import Cell, Plan
from lst_fairseq.study.entries import StudyError
from lst_fairseq.study.grid import STAGES, Study, merged, read_study
from lst_fairseq.study.progress import inspect
from lst_fairseq.study.rehearsal import SHORT, rehearsal
from lst_fairseq.study.report import axis_of
from tests.support.helpers import REPOSITORY

LST = "python -m lst_fairseq.cli"
BASE: dict[str, Any] = {
    "name": "tiny",
    "base": {"MUSTC_ROOT": "corpus", "SPEECH_ENCODER": "frontend", "STAGE1_UPDATES": 10, "EXTRA_TRAIN_ARGS": "--a"},
    "seeds": [1, 2],
    "splits": ["tst-COMMON", "tst-HE"],
    "factors": {
        "adapter": {"conv": {}, "stack": {"ADAPTER": "stack", "EXTRA_TRAIN_ARGS": "--adapter-stack 4"}},
        "strategy": {
            "two-stage": {},
            "one-stage": {"ONE_STAGE": 1},
            "lora": {"STAGE2_MODULES": "adapter,lora", "stage2": {"EXTRA_TRAIN_ARGS": "--lora-r 8"}},
        },
        "data": {"100%": {}, "25%": {"data": {"fraction": 0.25}}},
    },
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def study_of(folder: Path, **changes: Any) -> Study:
    return read_study(write(folder, {**BASE, **changes}))


def labels(study: Study) -> list[str]:
    return [arm.label for arm in study.arms]


def test_all_factors_are_crossed_by_default(tmp_path):
    study = study_of(tmp_path)
    assert len(study.arms) == 2 * 3 * 2 and labels(study)[0] == "reference"
    assert study.reference.values == {"adapter": "conv", "strategy": "two-stage", "data": "100%"}
    assert "stack, lora, 25%" in labels(study)
    assert len({tuple(arm.values.values()) for arm in study.arms}) == 12


def test_blocks_cross_only_their_own_factors(tmp_path):
    study = study_of(tmp_path, grid=["adapter", ["strategy", "data"]], reference={"strategy": "lora"})
    assert labels(study) == [
        "reference", "stack", "two-stage", "two-stage, 25%", "one-stage", "one-stage, 25%", "25%",
    ]  # fmt: skip
    assert study.arm(adapter="stack").label == "stack" and study.arm(adapter="stack", data="25%") is None
    block = study.block_arms(["strategy", "data"])
    assert len(block) == 6 and all(arm.values["adapter"] == "conv" for arm in block)


def test_what_is_excluded_is_not_an_arm(tmp_path):
    study = study_of(tmp_path, exclude=[{"adapter": "stack", "strategy": "lora"}])
    assert len(study.arms) == 10
    assert not [arm for arm in study.arms if arm.values["adapter"] == "stack" and arm.values["strategy"] == "lora"]


def test_options_are_joined_or_win_over_the_base(tmp_path):
    arm = study_of(tmp_path).arm(adapter="stack", strategy="lora")
    assert arm.options.settings["EXTRA_TRAIN_ARGS"] == "--a --adapter-stack 4"
    assert arm.options.of_stage("stage1")["EXTRA_TRAIN_ARGS"] == "--a --adapter-stack 4"
    assert arm.options.of_stage("stage2")["EXTRA_TRAIN_ARGS"] == "--a --adapter-stack 4 --lora-r 8"
    assert study_of(tmp_path, base={"ADAPTER": "conv"}).arm(adapter="stack").options.settings["ADAPTER"] == "stack"


def test_paths_and_empty_settings(tmp_path):
    options = study_of(tmp_path, base={"LLM": "$LST_ROOT/llm", "BATCH": None, "STAGE1_LR": 0.002}).reference.options
    assert options.settings == {"LLM": f"{REPOSITORY}/llm", "BATCH": "", "STAGE1_LR": "0.002"}


def test_the_recipe_names_its_settings():
    assert {"STAGE1_LR", "EXTRA_TRAIN_ARGS", "BEAM", "CACHE_FEATURES"} <= set(recipe_settings())
    assert len(recipe_settings()) == len(set(recipe_settings()))


def factor(**values: Any) -> dict[str, Any]:
    return {"factors": {"f": {"first": {}, **values}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"facts": {}}, r"facts: no such entry; there are: alignment, base, claims"),
        (factor(v={"STAGE9_LR": 1}), r"factors: f: v: STAGE9_LR: no such setting; .* STAGE1_LR"),
        (factor(v={"SEED": 1}), r"factors: f: v: SEED is the study's own to set"),
        (factor(v={"ONE_STAGE": True}), r"ONE_STAGE: True: give a text or a number"),
        (factor(v={"data": {"fraction": 1.5}}), r"fraction: 1.5: give a number above 0, up to 1"),
        (factor(v={"at": 5.8}), r"factors: f: v: at: 5.8: give one name with a number, as \{CER: 5.8\}"),
        (factor(v={"at": {"CER": "low"}}), r"factors: f: v: at: .*: give one name with a number"),
        (factor(v={"at": {"CER": 5}}, w={"at": {"WER": 9}}), r"factors: f: at: CER, WER: a factor has one such name"),
        (factor(v={"data": {"part": 1}}), r"data: part: no such entry; there are: fraction"),
        ({"factors": {"f": {}}}, r"factors: f: has no value"),
        ({"factors": {"f": {"a b": {}}}}, r"'a b': give a name of letters, digits"),
        ({"factors": {"f": ["a"]}}, r"factors: f: \['a'\]: give names with values"),
        ({"factors": {"f": {"a": {}, "x": {}}, "g": {"b": {}, "x": {}}}}, r"two arms are called 'x'"),
        ({"reference": {"adapter": "glue"}}, r"reference: adapter has no value 'glue'; it has: conv, stack"),
        ({"grid": [["adapter", "color"]]}, r"grid: no factor is called 'color'; there are: adapter, strategy, data"),
        ({"exclude": [{"adapter": "conv"}]}, r"exclude: leaves out the reference"),
        ({"seeds": [0]}, r"seeds: \[0\]: give a list of whole numbers above 0"),
        ({"splits": "dev"}, r"splits: 'dev': give a list of test splits"),
        ({"search": {"split": "tst-HE"}}, r"search: split: tst-HE is a test split; settings are chosen on another"),
        ({"search": {"by": "ter"}}, r"search: by: ter: choose one of bleu, chrf"),
        ({"search": {"STAGE2_LR": 1}}, r"search: STAGE2_LR: 1: give a list of values to try"),
        ({"search": {"widen": -1}}, r"search: widen: -1: give how many more values may be tried"),
        ({"search": {"BEAM": [1, 0], "widen": 1}}, r"search: BEAM: 1, 0: `widen` needs different numbers above 0"),
        ({"search": {"BEAM": [2, "2.0"], "widen": 1}}, r"BEAM: 2, 2.0: `widen` needs different numbers"),
        (
            {**factor(v={"search": {"ADAPTER": ["conv", "stack"]}}), "search": {"ADAPTER": ["conv"], "widen": 1}},
            r"search: ADAPTER: conv, stack: `widen` needs different numbers above 0",
        ),
        ({"claims": [{"claim": "c", "better": {}}]}, r"claims: c: worse is missing"),
        (
            {"grid": ["adapter"], "claims": [{"claim": "c", "better": {}, "worse": {"data": "25%"}}]},
            r"claims: c: worse: the grid has no such arm; add a block",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_file(changes, message, tmp_path):
    with pytest.raises(StudyError, match=rf"study\.yaml: .*{message}"):
        study_of(tmp_path, **changes)


def test_unreadable_files(tmp_path):
    with pytest.raises(StudyError, match=r"gone.yaml: no such file; examples/study"):
        read_study(tmp_path / "gone.yaml")
    with pytest.raises(StudyError, match="not YAML"):
        read_study(write(tmp_path, "a: [1"))
    with pytest.raises(StudyError, match="the study: 'text': give names with values"):
        read_study(write(tmp_path, "text"))


def test_values_stand_on_an_axis(tmp_path):
    errors = {"good": {"at": {"CER": 5.8}}, "other": {}, "bad": {"at": {"CER": 38.5}}}
    factors = {"frontend": errors, "speech": {"100%": {}, "10%": {}}, "llm": {"7": {}, "large": {}}}
    study = study_of(tmp_path, factors=factors)
    assert axis_of(study, "frontend") == ("CER", {"good": 5.8, "bad": 38.5})
    assert axis_of(study, "speech") == ("speech", {"100%": 1.0, "10%": 0.1})
    assert axis_of(study, "llm") == ("llm", {})  # a name among the values is not on their axis


def test_two_factors_must_not_contradict_each_other(tmp_path):
    arms = study_of(tmp_path).arms
    first, second = ("f", arms[0].options), ("g", arms[0].options)
    assert merged(arms[0].options, [first, second]).settings["MUSTC_ROOT"] == "corpus"  # the same is no contradiction
    factors = {"f": {"a": {}, "b": {"BEAM": 2}}, "g": {"c": {}, "d": {"BEAM": 3}}}
    with pytest.raises(StudyError, match="the factors f and g both set BEAM, to '2' and '3': leave one out"):
        study_of(tmp_path, factors=factors)


# --- steps ------------------------------------------------------------------------------------------------------------


def cell(study: Study, out: Path, seed: int = 1, chosen: dict[str, str] | None = None, **values: str) -> Cell:
    return Plan(study, out, python="python").cell(study.arm(**values), seed, chosen or {})


def test_cells_share_the_steps_in_which_they_agree(tmp_path):
    study = study_of(tmp_path)
    plain, lora = cell(study, tmp_path).steps, cell(study, tmp_path, strategy="lora").steps
    assert plain["stage1"] == lora["stage1"] and plain["stage2"] != lora["stage2"]
    assert lora["test"].with_needs() == [plain["data"], plain["stage1"], lora["stage2"], lora["test"]]
    stack = cell(study, tmp_path, adapter="stack").steps
    assert stack["data"] == plain["data"] and stack["stage1"] != plain["stage1"]
    assert cell(study, tmp_path, seed=2).steps["stage1"] != plain["stage1"]
    quarter = cell(study, tmp_path, data="25%").steps
    assert quarter["data"] != plain["data"] and quarter["stage1"] != plain["stage1"]
    # A learning rate of stage 2 leaves stage 1 as it is; one of stage 1 changes both.
    second = cell(study, tmp_path, chosen={"STAGE2_LR": "1"}).steps
    assert second["stage1"] == plain["stage1"] and second["stage2"] != plain["stage2"]
    first = cell(study, tmp_path, chosen={"STAGE1_LR": "1"}).steps
    assert first["stage1"] != plain["stage1"] and first["stage2"] != plain["stage2"]
    assert len({step.work for step in (plain["stage2"], lora["stage2"], second["stage2"], first["stage2"])}) == 4


def test_one_stage_knows_no_first(tmp_path):
    study = study_of(tmp_path)
    steps = cell(study, tmp_path, strategy="one-stage").steps
    assert list(steps) == ["data", "stage2", "dev", "test"] and set(steps["stage2"].links) == {"data"}
    # Nothing of stage 1 but its number of updates, which the one stage gets as well.
    assert cell(study, tmp_path, chosen={"STAGE1_LR": "1"}, strategy="one-stage").steps == steps
    more = study_of(tmp_path, base={**BASE["base"], "STAGE1_UPDATES": 20})
    assert cell(more, tmp_path, strategy="one-stage").steps["stage2"] != steps["stage2"]


def test_what_changes_no_outcome_changes_no_step(tmp_path):
    plain = cell(study_of(tmp_path), tmp_path).steps
    host = {"NUM_WORKERS": 3, "SAVE_INTERVAL": 7, "CACHE_FEATURES": "cache", "BASELINE_LR": 1}
    assert cell(study_of(tmp_path, base={**BASE["base"], **host}), tmp_path).steps == plain
    decoding = cell(study_of(tmp_path, base={**BASE["base"], "BEAM": 1}), tmp_path).steps
    assert decoding["stage2"] == plain["stage2"] and decoding["test"] != plain["test"]
    assert decoding["test"].work == plain["test"].work


def test_the_settings_file_counts_with_what_stands_in_it(tmp_path):
    file = tmp_path / "my.env"
    file.write_text("STAGE1_LR=1\n")
    first = cell(study_of(tmp_path, settings=str(file)), tmp_path)
    assert first.steps["stage2"].environment["SETTINGS"] == str(file)
    file.write_text("PREP_ARGS=--clean-stage-directions\n")
    second = cell(study_of(tmp_path, settings=str(file)), tmp_path)
    assert all(second.steps[kind] != first.steps[kind] for kind in ("data", "stage1", "stage2"))


def test_what_the_settings_file_says_anyway_changes_no_step(tmp_path):
    file = tmp_path / "my.env"

    def steps(text: str, **settings: str) -> dict[str, Any]:
        file.write_text(text)
        return dict(cell(study_of(tmp_path, settings=str(file)), tmp_path, chosen=settings).steps)

    text = "STAGE1_LR=2e-3\nLLM=$LST_ROOT/llm\n"
    assert steps(text, STAGE1_LR="2e-3", LLM=f"{REPOSITORY}/llm") == steps(text)
    assert steps(text, STAGE1_LR="1e-3")["stage1"] != steps(text)["stage1"]
    prompt = text + 'PROMPT="{speech}<$TGT_LANG>"\n'
    assert steps(prompt, PROMPT="{speech}<$TGT_LANG>")["stage1"] != steps(prompt)["stage1"]
    # Which value such files give is for the shell to say.
    for unclear in (text + "[[ $TGT_LANG == fr ]] && STAGE1_LR=1e-3\n", text + "source other.env\n"):
        assert steps(unclear, STAGE1_LR="2e-3")["stage1"] != steps(unclear)["stage1"]


def test_a_value_of_a_factor_may_search_what_the_study_does_not(tmp_path):
    search = {"STAGE2_LR": ["1e-3", "5e-4"]}
    own = {"STAGE1_LR": ["2e-3", "5e-4"], "STAGE2_LR": ["1e-4"]}
    study = study_of(tmp_path, search=search, factors={"llm": {"small": {}, "large": {"search": own}}})
    assert study.candidates(study.reference) == {"STAGE2_LR": ("1e-3", "5e-4")}
    assert study.candidates(study.arm(llm="large")) == {"STAGE2_LR": ("1e-4",), "STAGE1_LR": ("2e-3", "5e-4")}
    assert study.searched == ("STAGE2_LR", "STAGE1_LR")


def test_steps_run_the_recipe_with_their_settings(tmp_path):
    steps = cell(study_of(tmp_path), tmp_path, seed=2, chosen={"STAGE2_LR": "3e-4"}, strategy="lora").steps
    assert steps["stage2"].commands == (f"bash {REPOSITORY}/examples/mustc/stage2.sh",)
    environment = steps["stage2"].environment
    assert environment["STAGE2_MODULES"] == "adapter,lora" and environment["STAGE2_LR"] == "3e-4"
    assert environment["SEED"] == "2" and environment["EXTRA_TRAIN_ARGS"] == "--a --lora-r 8"
    assert environment["WORK"] == str(steps["stage2"].work)
    assert steps["stage2"].links["stage1"] == steps["stage1"].work / "stage1"
    assert steps["dev"].environment["SPLITS"] == "dev" and steps["test"].environment["SPLITS"] == "tst-COMMON tst-HE"
    assert steps["data"].environment["SPLITS"] == "tst-COMMON tst-HE"
    assert "alignment" not in steps
    other = cell(study_of(tmp_path, search={"split": "dev2"}), tmp_path).steps
    assert other["dev"].environment["SPLITS"] == "dev2"
    assert other["data"].environment["SPLITS"] == "tst-COMMON tst-HE dev2"


def test_stage_1_on_another_task_is_the_recipes(tmp_path):
    factors = {"stage1": {"st": {}, "asr": {"STAGE1_TASK": "asr"}}, "strategy": {"two": {}, "one": {"ONE_STAGE": 1}}}
    study = study_of(tmp_path, factors=factors, grid=[["stage1", "strategy"]], exclude=[], claims=[])
    plain, asr = (cell(study, tmp_path, stage1=task).steps for task in ("st", "asr"))
    assert asr["stage1"].environment["STAGE1_TASK"] == "asr"
    assert asr["data"] == plain["data"]
    assert asr["stage1"] != plain["stage1"] and asr["stage2"] != plain["stage2"]
    one, one_asr = (cell(study, tmp_path, stage1=task, strategy="one").steps for task in ("st", "asr"))
    assert one["stage2"].key == one_asr["stage2"].key


def test_less_and_cleaner_data_and_drawn_prompts(tmp_path):
    data = {"fraction": 0.5, "max_wer": 0.2, "instructions": {"st": ["Say it.", "Go."]}}
    study = study_of(tmp_path, factors={"data": {"all": {}, "less": {"data": data}}})
    steps = cell(study, tmp_path, data="less").steps
    prep, copy, select = steps["data"].commands
    manifests = steps["data"].work / "data"
    assert prep.endswith("prep.sh") and str(manifests / "train_prepared.tsv") in copy
    files = f"--manifest {manifests}/train_prepared.tsv --out {manifests}/train.tsv"
    assert select == f"{LST} filter {files} --speech-encoder frontend --max-wer 0.2 --fraction 0.5"
    written = yaml.safe_load(steps["data"].files["data/config_study.yaml"])
    assert written["instructions"] == data["instructions"] and written["target_lang"] == "de"
    for stage in ("stage1", "stage2"):
        assert steps[stage].environment["EXTRA_TRAIN_ARGS"] == "--a --config-yaml config_study.yaml"


@pytest.mark.parametrize(
    ("data", "flags"),
    [({"fraction": 0.25}, "--fraction 0.25"), ({"max_wer": 1}, "--speech-encoder frontend --max-wer 1")],
)
def test_data_are_filtered_by_what_is_asked_for(data, flags, tmp_path):
    study = study_of(tmp_path, factors={"data": {"all": {}, "less": {"data": data}}})
    plain, less = (cell(study, tmp_path, data=value).steps["data"] for value in ("all", "less"))
    assert len(plain.commands) == 1 and less.commands[-1].endswith(f"/data/train.tsv {flags}")


def test_alignment_follows_stage_1(tmp_path):
    study = study_of(tmp_path, alignment=50)
    steps = cell(study, tmp_path).steps
    (command,) = steps["alignment"].commands
    assert command.startswith(f"{LST} align {steps['stage1'].work}/stage1/checkpoint_last.pt --data ")
    assert "--split dev" in command and "--segments 50" in command
    assert steps["alignment"].needs == (steps["stage1"],) and steps["alignment"] not in steps["test"].with_needs()
    assert "alignment" not in cell(study, tmp_path, strategy="one-stage").steps


# --- the studies that are shipped -------------------------------------------------------------------------------------

EXAMPLES = sorted((REPOSITORY / "examples" / "study").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_rehearsal_is_every_arm_in_little(path, tmp_path):
    study = read_study(path)
    short = rehearsal(study)
    assert labels(short) == labels(study) and [arm.values for arm in short.arms] == [arm.values for arm in study.arms]
    assert short.name == f"{study.name}-rehearsal" and not short.claims and short.alignment <= 20
    plan = Plan(short, tmp_path)
    for arm, full in zip(short.arms, study.arms, strict=True):
        state = inspect(plan, arm)
        (test,) = [step for step in state.planned if step.kind == "test"]
        assert state.chosen == {name: values[0] for name, values in study.candidates(full).items()}
        assert "dev" not in {step.kind for last in state.planned for step in last.with_needs()}
        for step in test.with_needs():
            assert {name: step.environment[name] for name in SHORT} == SHORT
        # Everything else is the study's own.
        for stage in STAGES:
            of_both = [options.of_stage(stage) for options in (arm.options, full.options)]
            left, right = ({k: v for k, v in settings.items() if k not in SHORT} for settings in of_both)
            assert left == right


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_read_and_planned(path, tmp_path):
    study = read_study(path)
    plan = Plan(study, tmp_path)
    defaults = {name: values[0] for name, values in study.search.items()}
    cells = [plan.cell(arm, seed, defaults) for arm in study.arms for seed in study.seeds]
    assert len({cell.work for cell in cells}) == len(cells) and len(cells) >= len(study.seeds) * 2
    assert study.claims and all(step.commands for cell in cells for step in cell.steps.values())


def test_stage_1_on_transcripts_is_asked_for_english(tmp_path):
    study = read_study(REPOSITORY / "examples" / "study" / "everything.yaml")
    steps = Plan(study, tmp_path).cell(study.arm(**{"stage1-on": "both"}), 1, {}).steps
    written = yaml.safe_load(steps["data"].files["data/config_study.yaml"])
    settings = PromptSettings(steps["stage1"].environment["PROMPT"], written["instructions"], tgt_lang="de")
    assert settings.texts("st", "", "", None) == ("{speech}<de>",)
    assert settings.texts("asr", "", "", None) == ("{speech}<en>",)
