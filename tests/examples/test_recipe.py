"""The recipe's shell scripts, with fairseq's commands replaced by stubs that note how they were called."""

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from lst_fairseq.cli.main import main
from tests.support.recipe import RECIPE, ROOT, Sandbox, value

STEPS = [
    RECIPE / f"{name}.sh"
    for name in ("prep", "stage1", "stage2", "generate", "baseline", "run", "text", "cascade", "compare")
]
DIGITS = ROOT / "examples" / "mini" / "digits.sh"
COMMANDS = [*STEPS, DIGITS, *(ROOT / "scripts" / f"{name}.sh" for name in ("setup", "test", "quickstart"))]


@pytest.mark.parametrize("script", [*COMMANDS, RECIPE / "lib.sh", RECIPE / "settings.sh", ROOT / "scripts" / "env.sh"])
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_help_has_an_example_and_needs_nothing_installed(script: Path, flag: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", script, flag], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert f"bash {script.relative_to(ROOT)}" in done.stdout
    assert "set -euo" not in done.stdout and "#" not in done.stdout.splitlines()[0]


def test_whole_recipe(sandbox: Sandbox) -> None:
    output = sandbox.run("run")
    stage1, stage2 = sandbox.calls("fairseq-train")
    # 300 segments in updates of 128 are 3 updates an epoch.
    assert (value(stage1, "--max-update"), value(stage2, "--max-update")) == ("18", "3")
    assert (value(stage1, "--lr"), value(stage2, "--lr")) == ("2e-3", "2e-5")
    assert (value(stage1, "--train-modules"), value(stage2, "--train-modules")) == ("adapter", "adapter,llm")
    assert "--finetune-from-model" not in stage1
    assert value(stage2, "--finetune-from-model") == str(sandbox.work / "stage1" / "checkpoint_last.pt")
    for arguments in (stage1, stage2):
        assert arguments[0] == str(sandbox.work / "data")
        assert value(arguments, "--arch") == "lst_7b"
        assert value(arguments, "--adam-betas") == "(0.9, 0.98)"
        assert value(arguments, "--lr-scheduler") == "cosine"
        assert value(arguments, "--update-freq") == "16"  # 16 batches of 8 sentences
        assert value(arguments, "--target-lang") == "de"
        assert "--cpu" in arguments and "--prompt" not in arguments and "--fp16" not in arguments
    common, he = sandbox.calls("fairseq-generate")
    assert (value(common, "--gen-subset"), value(he, "--gen-subset")) == ("tst-COMMON", "tst-HE")
    assert (value(common, "--beam"), value(common, "--max-len-b")) == ("4", "500")
    score = sandbox.calls("score")[0]
    assert value(score, "--name") == "LST two-stage" and "trained_parameters=1234" in score
    assert value(sandbox.calls("score")[1], "--name") == "LST two-stage"
    assert "stage 1: update 50 of 18, loss 4.5, " in output


def test_manifests_of_another_corpus(sandbox: Sandbox) -> None:
    """Are checked, copied with their configuration, and named in the scores."""
    folder = sandbox.root / "covost-en-de"
    folder.mkdir()
    header = "id\taudio\tn_frames\tsrc_text\ttgt_text\tspeaker\n"
    for i, split in enumerate(("train", "dev", "test")):
        lines = [f"{split}{j}\t\t0\tSource {i} {j}.\tTarget {i} {j}.\ts\n" for j in range(3)]
        (folder / f"{split}.tsv").write_text(header + "".join(lines))
    (folder / "config.yaml").write_text("audio_root: /audio\n")
    other = {"MANIFESTS": str(folder), "MUSTC_ROOT": None, "STAGE1_UPDATES": "5", "STAGE2_UPDATES": "5"}
    assert "has no tst-COMMON.tsv; it has dev.tsv test.tsv train.tsv: set SPLITS" in sandbox.run(
        "prep", fails=True, **other
    )
    sandbox.run("run", SPLITS="test", **other)
    data = sandbox.work / "data"
    assert (data / "test.tsv").read_text() == (folder / "test.tsv").read_text()
    assert (data / "config.yaml").read_text() == "audio_root: /audio\n"
    assert "corpus=covost-en-de" in sandbox.calls("score")[0] and "split=test" in sandbox.calls("score")[0]
    assert "done already" in sandbox.run("prep", SPLITS="test", **other)
    # An empty id is found before anything is trained.
    (folder / "dev.tsv").write_text(header + "\t\t0\tSource.\tTarget.\ts\n")
    output = sandbox.run("prep", fails=True, SPLITS="test", FORCE="1", **other)
    assert "dev.tsv:2" in output and "see above" in output and not (data / "test.tsv").exists()


@pytest.mark.parametrize(
    "task, subsets, updates", [("st", ("train", "dev"), "3"), ("asr", ("train_asr", "dev_asr"), "2"),
                               ("both", ("train,train_asr", "dev"), "4")],
)  # fmt: skip
def test_task_of_stage_1(sandbox: Sandbox, task: str, subsets: tuple[str, str], updates: str) -> None:
    """An epoch is one over all that is trained on: 300 segments, of which 200 have a transcript. Stage 2 translates."""
    sandbox.run("run", STAGE1_TASK=task, STAGE1_EPOCHS="1")
    stage1, stage2 = sandbox.calls("fairseq-train")
    assert (value(stage1, "--train-subset"), value(stage1, "--valid-subset")) == subsets
    assert value(stage1, "--max-update") == updates
    assert (value(stage2, "--train-subset"), value(stage2, "--valid-subset")) == ("train", "dev")


def test_second_run_trains_and_translates_nothing(sandbox: Sandbox) -> None:
    sandbox.run("run")
    before = sandbox.calls("fairseq-train"), sandbox.calls("fairseq-generate")
    output = sandbox.run("run")
    assert (sandbox.calls("fairseq-train"), sandbox.calls("fairseq-generate")) == before
    assert output.count("done already") == 5  # data, two stages, two splits


def test_changed_settings_are_an_error_until_forced(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    sandbox.run("stage1")
    output = sandbox.run("stage1", fails=True, STAGE1_LR="1e-3")
    assert "< --lr 2e-3" in output and "> --lr 1e-3" in output and "FORCE=1" in output
    assert "--arch" not in output  # only what differs
    assert len(sandbox.calls("fairseq-train")) == 1
    sandbox.run("stage1", STAGE1_LR="1e-3", FORCE="1")
    assert value(sandbox.calls("fairseq-train")[1], "--lr") == "1e-3"


def test_flags_of_the_user_are_compared_and_those_of_the_script_win(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    extra = "--finetune-from-model other.pt --save-dir elsewhere --num-workers 9"
    sandbox.run("stage1", EXTRA_TRAIN_ARGS=extra)
    (arguments,) = sandbox.calls("fairseq-train")
    assert [after for word, after in pairwise(arguments) if word == "--save-dir"][-1] == str(sandbox.work / "stage1")
    for changed in ("", extra.replace("other", "another"), f"{extra} --cpu"):
        assert "made with other settings" in sandbox.run("stage1", fails=True, EXTRA_TRAIN_ARGS=changed)
    sandbox.run("stage2", EXTRA_TRAIN_ARGS=extra)
    arguments = sandbox.calls("fairseq-train")[-1]
    start = [after for word, after in pairwise(arguments) if word == "--finetune-from-model"]
    assert start == ["other.pt", str(sandbox.work / "stage1" / "checkpoint_last.pt")]
    sandbox.run("generate", EXTRA_GENERATE_ARGS="--path a.pt:b.pt")
    output = sandbox.run("generate", fails=True, EXTRA_GENERATE_ARGS="--path a.pt:c.pt")
    assert "< --path a.pt:b.pt" in output and "> --path a.pt:c.pt" in output


@pytest.mark.parametrize("name, setting", [("NUM_WORKERS", "2"), ("LOG_INTERVAL", "7"), ("SAVE_INTERVAL", "9")])
def test_settings_without_effect_on_the_outcome_may_change(sandbox: Sandbox, name: str, setting: str) -> None:
    sandbox.run("prep")
    sandbox.run("stage1")
    assert "done already" in sandbox.run("stage1", **{name: setting})


def test_changed_corpus_is_noticed_by_every_step(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    sandbox.run("stage1")
    (sandbox.root / "corpus" / "en-de" / "data" / "train" / "txt" / "train.yaml").write_text("- another\n")
    assert "--contents" in sandbox.run("prep", fails=True)
    sandbox.run("prep", FORCE="1")
    assert "--data" in sandbox.run("stage1", fails=True)


def test_interrupted_stage_goes_on_and_adds_its_time_up(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    sandbox.run("stage1")
    output = sandbox.run("stage2", fails=True, TRAIN_FAILS="1", TRAIN_SECONDS="1.1")
    assert "disk on fire" in output and str(sandbox.work / "stage2" / "train.log") in output
    assert "not finished" in sandbox.run("generate", fails=True)
    sandbox.run("stage2", TRAIN_SECONDS="1.1")
    _, first, second = sandbox.calls("fairseq-train")
    # The same command: fairseq starts from stage 1 in a fresh folder only (tests/tasks/test_training.py).
    assert first == second and "--finetune-from-model" in first
    assert int((sandbox.work / "stage2" / "seconds").read_text()) >= 2
    assert (sandbox.work / "stage2" / "train.log").read_text().count("train_inner") == 2


def test_one_stage_gets_the_updates_of_both(sandbox: Sandbox) -> None:
    output = sandbox.run("run", ONE_STAGE="1", STAGE1_UPDATES="100", STAGE2_UPDATES="40")
    (arguments,) = sandbox.calls("fairseq-train")
    assert value(arguments, "--max-update") == "140"
    assert value(arguments, "--warmup-updates") == "4"
    assert value(arguments, "--save-dir") == str(sandbox.work / "one-stage")
    assert "--finetune-from-model" not in arguments
    assert value(sandbox.calls("score")[0], "--name") == "LST one-stage"
    assert "stage 1" not in output


def test_baseline_trains_as_long_as_both_stages(sandbox: Sandbox) -> None:
    sandbox.run("run")
    for stage, seconds in (("stage1", 1000), ("stage2", 800)):
        (sandbox.work / stage / "seconds").write_text(f"{seconds}\n")
    sandbox.run("baseline", BASELINE_PRETRAIN="0")
    arguments = sandbox.calls("fairseq-train")[-1]
    assert value(arguments, "--stop-time-hours") == "0.5" and "--max-update" not in arguments
    assert "--load-pretrained-encoder-from" not in arguments
    assert value(arguments, "--task") == "speech_to_text" and value(arguments, "--required-batch-size-multiple") == "1"
    assert value(sandbox.calls("fairseq-generate")[-1], "--batch-size") == "1"


def test_baseline_is_pretrained_on_transcripts(sandbox: Sandbox) -> None:
    """Within the same time, and the time of both counts; the pretrained encoder is where the baseline starts."""
    sandbox.run("prep")
    sandbox.run("baseline", BASELINE_SECONDS="3600", BASELINE_PRETRAIN_SHARE="25", TRAIN_SECONDS="1.1")
    asr, st = sandbox.calls("fairseq-train")
    assert (value(asr, "--stop-time-hours"), value(st, "--stop-time-hours")) == ("0.25", "0.75")
    assert (value(asr, "--train-subset"), value(asr, "--config-yaml")) == ("train_asr", "config_asr.yaml")
    assert value(st, "--train-subset") == "train"
    start = value(st, "--load-pretrained-encoder-from")
    assert start == f"{value(asr, '--save-dir')}/checkpoint_last.pt" and Path(start).is_file()
    assert "--asr-vocab-size" in sandbox.calls("lst")[1]
    seconds = [a for a in sandbox.calls("score")[0] if a.startswith("train_seconds=")]
    assert int(seconds[0].removeprefix("train_seconds=")) >= 2
    # Another one beside it, on the frontend's features.
    sandbox.run("baseline", BASELINE="wav", BASELINE_FEATURES="frontend", BASELINE_UPDATES="10", BASELINE_ARCH="s2t_c")
    asr, st = sandbox.calls("fairseq-train")[2:]
    assert (value(asr, "--max-update"), value(st, "--max-update")) == ("4", "6")
    assert value(st, "--save-dir") == str(sandbox.work / "wav" / "model") and value(st, "--arch") == "s2t_c"
    prepared = [call for call in sandbox.calls("lst") if "--speech-encoder" in call]
    assert value(prepared[0], "--speech-encoder") == str(sandbox.root / "frontend")


def test_baseline_alone_needs_a_budget(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    assert "stage1.sh first" in sandbox.run("baseline", fails=True)
    sandbox.run("baseline", BASELINE_UPDATES="7", BASELINE_PRETRAIN="0")
    assert value(sandbox.calls("fairseq-train")[0], "--max-update") == "7"


def test_gpus(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    sandbox.run("stage1", DEVICE="4 bf16")
    (arguments,) = sandbox.calls("fairseq-train")
    assert "--bf16" in arguments and "--cpu" not in arguments
    assert value(arguments, "--update-freq") == "4"  # 4 GPUs of 8 sentences, 4 times, are 128


def test_environment_before_file_before_default(sandbox: Sandbox) -> None:
    file = sandbox.root / "my.env"
    file.write_text('STAGE1_UPDATES=50\nSTAGE1_LR=5e-4\nPROMPT="{speech}<$TGT_LANG>"\nBATCH=\nUPDATE_FREQ=1\n')
    sandbox.run("prep", SETTINGS="my.env")
    sandbox.run("stage1", SETTINGS="my.env", STAGE1_LR="7e-4", EXTRA_TRAIN_ARGS="--skip-bad-audio --user 'a  b'")
    (arguments,) = sandbox.calls("fairseq-train")
    assert (value(arguments, "--max-update"), value(arguments, "--lr")) == ("50", "7e-4")
    assert value(arguments, "--prompt") == "{speech}<de>"
    assert value(arguments, "--label-smoothing") == "0.0"
    assert "--batch-size" not in arguments
    assert "--skip-bad-audio" in arguments and value(arguments, "--user") == "a  b"


@pytest.mark.parametrize("language", ["de", "fr", "es"])
def test_settings_of_a_language_pair(sandbox: Sandbox, language: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting in the file is one of the recipe's, and `lst prep mustc` takes the arguments."""
    file = RECIPE / f"en-{language}.env"
    names = [line.split("=")[0] for line in file.read_text().splitlines() if line and not line.startswith("#")]
    known = (RECIPE / "settings.sh").read_text()
    assert "TGT_LANG" in names and all(f"\n{name}=" in known for name in names)
    if language != "de":  # the sandbox's corpus
        shutil.copytree(
            sandbox.root / "corpus" / "en-de", sandbox.root / "corpus" / f"en-{language}", dirs_exist_ok=True
        )
    sandbox.run("prep", SETTINGS=str(file))
    (call,) = [call for call in sandbox.calls("lst") if call[:2] == ["prep", "mustc"]]
    assert value(call, "--tgt-lang") == language
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["prep", "mustc", "--help"])
    known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
    assert [word for word in call if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize(
    "script, settings, expected",
    [
        ("prep", {"MUSTC_ROOT": None}, "MUSTC_ROOT is not set"),
        ("prep", {"MANIFESTS": "nowhere"}, "nowhere: no such directory"),
        ("prep", {"MUSTC_ROOT": "nowhere"}, "nowhere: no such directory"),
        ("prep", {"TGT_LANG": "xx"}, "MUSTC_ROOT has de fr"),
        ("prep", {"SPLITS": "tst-2099"}, "it has dev train tst-COMMON tst-HE"),
        ("run", {"LLM": None}, "LLM is not set"),
        ("run", {"SPEECH_ENCODER": "gone"}, "gone: no such directory"),
        ("stage1", {}, "run bash examples/mustc/prep.sh first"),
        ("stage1", {"PRECISION": "fp8"}, "choose one of (empty), fp32, fp16, bf16"),
        ("stage1", {"LAUNCHER": "it's"}, "LAUNCHER=it's: a quote is not closed on its line"),
        ("stage1", {"STAGE1_TASK": "mt"}, "STAGE1_TASK=mt: choose one of st, asr, both"),
        ("stage1", {"STAGE1_UPDATES": "many"}, "STAGE1_UPDATES=many: give a whole number"),
        ("generate", {"BEAM": "0"}, "BEAM=0: give a whole number above 0"),
        ("generate", {"SETTINGS": "gone.env"}, "SETTINGS=gone.env: no such file"),
    ],
)
def test_bad_settings(sandbox: Sandbox, script: str, settings: dict[str, str], expected: str) -> None:
    output = sandbox.run(script, fails=True, **settings)
    assert expected in output
    assert output.startswith("error: ") and output.count("\n") == 1


def test_precision_without_gpu(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    assert "needs a GPU" in sandbox.run("stage1", fails=True, PRECISION="fp16")


def test_force_deletes_nothing_that_it_has_not_made(sandbox: Sandbox) -> None:
    precious = sandbox.work / "data" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    sandbox.run("prep", FORCE="1")
    assert precious.exists()
