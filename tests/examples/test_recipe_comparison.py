"""Comparison, averaging and the search on dev in the recipe, with fairseq's commands replaced by stubs."""

from pathlib import Path

import pytest

from tests.support.recipe import Sandbox, value


def made(sandbox: Sandbox, verb: str) -> list[list[str]]:
    """Arguments of the calls of ``lst VERB``, from the verb on."""
    return [call for call in sandbox.calls("lst") if " ".join(call).startswith(f"{verb} ")]


def test_all_systems(sandbox: Sandbox) -> None:
    """Each one is trained, translates both splits and is in the table of each, tested against s2t."""
    sandbox.run(
        "compare", BASELINE_UPDATES="10", TEXT_UPDATES="7", BASELINE_LRS="1e-3 2e-3", CONFORMER_ARGS="--small 1",
        WAV2VEC_MAX_TOKENS="77",
    )  # fmt: skip
    trained = sandbox.calls("fairseq-train")
    archs = [value(call, "--arch") for call in trained]
    lst, s2t, conformer = ["lst_7b"] * 4, ["s2t_transformer_s"], ["s2t_conformer"]
    assert archs == lst + s2t * 4 + conformer * 2 + s2t * 2 + ["lst_7b"]
    modules = [value(call, "--train-modules") for call in trained if "--train-modules" in call]
    assert modules == ["adapter", "adapter,llm", "adapter,llm", "adapter,lora", "llm"]
    assert value(trained[3], "--lr") == "2e-4"
    assert [("--small" in call) for call in trained[4:]] == [False] * 4 + [True] * 2 + [False] * 3
    assert [value(call, "--max-tokens") == "77" for call in trained[4:]] == [False] * 6 + [True] * 2 + [False]
    # The search is for s2t; the others take the recipe's learning rate, and translations only once.
    assert [value(call, "--max-update") for call in trained[4:]] == ["2", "2", "4", "6", "4", "6", "4", "6", "7"]

    systems = [
        "lst-two-stage", "lst-one-stage", "lst-two-stage-adapter+lora", "s2t", "conformer", "wav2vec",
        "cascade", "text",
    ]  # fmt: skip
    for call, split in zip(made(sandbox, "compare"), ("tst-COMMON", "tst-HE"), strict=True):
        at = call.index("--baseline")
        assert call[1:at] == [str(sandbox.work / "scores" / f"{system}.{split}.json") for system in systems]
        assert call[at + 1] == "s2t_transformer_s pretrained on transcripts"
        assert value(call, "--out") == str(sandbox.work / "comparison" / split)
    # Cascade and upper bound are one model on different texts.
    paths = [value(call, "--path") for call in sandbox.calls("fairseq-generate")]
    assert paths.count(str(sandbox.work / "text" / "model" / "checkpoint_last.pt")) == 4


def test_some_systems(sandbox: Sandbox) -> None:
    sandbox.run("compare", SYSTEMS="text cascade", TEXT_UPDATES="7", SPLITS="tst-HE")
    assert len(sandbox.calls("fairseq-train")) == 1
    (call,) = made(sandbox, "compare")
    assert "--baseline" not in call and str(sandbox.work / "scores" / "cascade.tst-HE.json") in call
    before = sandbox.calls("fairseq-train"), sandbox.calls("fairseq-generate")
    sandbox.run("compare", SYSTEMS="text cascade", TEXT_UPDATES="7", SPLITS="tst-HE")
    assert (sandbox.calls("fairseq-train"), sandbox.calls("fairseq-generate")) == before


@pytest.mark.parametrize("systems", ["one-stage", "lora", "s2t", "text"])
def test_a_failing_step_ends_the_comparison(sandbox: Sandbox, systems: str) -> None:
    output = sandbox.run("compare", fails=True, SYSTEMS=systems, TRAIN_FAILS="1", BASELINE_UPDATES="10")
    assert "disk on fire" in output and output.count("error: ") == 1
    assert not made(sandbox, "compare") and len(sandbox.calls("fairseq-train")) == 1


def test_unknown_system(sandbox: Sandbox) -> None:
    assert "SYSTEMS=gpt: choose one of two-stage, one-stage" in sandbox.run("compare", fails=True, SYSTEMS="lora gpt")


def test_cascade_recognises_dev_for_the_search(sandbox: Sandbox) -> None:
    sandbox.run("prep")
    sandbox.run("text")
    sandbox.run("cascade", TUNE_LENPENS="0.6 1.4")
    out = [Path(value(call, "--out")).name for call in made(sandbox, "transcribe")]
    assert out == ["dev.tsv", "tst-COMMON.tsv", "tst-HE.tsv"]
    written = made(sandbox, "prep text")[-1]
    assert value(written, "--transcripts") == str(sandbox.work / "cascade" / "transcripts")


def test_mean_of_the_last_checkpoints_translates(sandbox: Sandbox) -> None:
    sandbox.run("run", AVERAGE="3")
    _, stage2 = sandbox.calls("fairseq-train")
    assert value(stage2, "--keep-interval-updates") == "3"
    (averaged,) = made(sandbox, "average")
    out = str(sandbox.work / "stage2" / "checkpoint_average3.pt")
    assert averaged[1:] == [str(sandbox.work / "stage2"), "--last", "3", "--out", out]
    assert {value(call, "--path") for call in sandbox.calls("fairseq-generate")} == {out}
    # A baseline has its own number and its own distance between checkpoints.
    sandbox.run("baseline", BASELINE_UPDATES="7", BASELINE_SAVE_INTERVAL="2", BASELINE_AVERAGE="4")
    trained = sandbox.calls("fairseq-train")[-1]
    assert (value(trained, "--save-interval-updates"), value(trained, "--keep-interval-updates")) == ("2", "4")
    assert value(sandbox.calls("fairseq-generate")[-1], "--path").endswith("baseline/model/checkpoint_average4.pt")
    assert "--last" in made(sandbox, "average")[-1]
    # How many updates fit in a time, and so how many checkpoints there are, shows afterwards.
    sandbox.run("baseline", BASELINE="timed", BASELINE_SECONDS="7", BASELINE_AVERAGE="4")
    assert "--at-most" in made(sandbox, "average")[-1]


def test_search_on_dev(sandbox: Sandbox) -> None:
    """The best pair on dev translates the test splits, and only that one."""
    output = sandbox.run("run", TUNE_BEAMS="1 8", TUNE_LENPENS="0.6 1.4 1.0")
    calls = [tuple(value(call, flag) for flag in ("--gen-subset", "--beam", "--lenpen")) for call in
             sandbox.calls("fairseq-generate")]  # fmt: skip
    dev = [("dev", beam, lenpen) for beam in ("1", "8") for lenpen in ("0.6", "1.4", "1.0")]
    assert calls == [*dev, ("tst-COMMON", "1", "1.4"), ("tst-HE", "1", "1.4")]  # of equal ones the first
    assert "beam 1 and length penalty 1.4, by BLEU on dev" in output
    score = sandbox.calls("score")[-1]
    assert "lenpen=1.4" in score and "tuned=dev, beam of 1 8, lenpen of 0.6 1.4 1.0" in score
    assert "lenpen=1.4" in sandbox.calls("score")[-2] and "split=dev" in sandbox.calls("score")[-3]
    scored = len(sandbox.calls("score"))
    sandbox.run("run", TUNE_BEAMS="1 8", TUNE_LENPENS="0.6 1.4 1.0")
    assert not any("split=dev" in call for call in sandbox.calls("score")[scored:])  # nothing has changed since


def test_search_for_the_baseline(sandbox: Sandbox) -> None:
    """Learning rates first, then architectures with the best one; both steps of training take what won."""
    sandbox.run("prep")
    search = {
        "BASELINE_UPDATES": "100", "BASELINE_LRS": "1e-3 2e-3 4e-3", "BASELINE_TUNE_SHARE": "10",
        "BASELINE_ARCHS": "s2t_transformer_s s2t_transformer_xs", "BASELINE_PRETRAIN_SHARE": "30",
    }  # fmt: skip
    output = sandbox.run("baseline", **search)
    tried = [tuple(value(call, flag) for flag in ("--arch", "--lr", "--max-update", "--train-subset")) for call in
             sandbox.calls("fairseq-train")]  # fmt: skip
    small, tiny = "s2t_transformer_s", "s2t_transformer_xs"
    assert tried == [
        (small, "1e-3", "10", "train_asr"),
        (small, "2e-3", "10", "train_asr"),
        (small, "4e-3", "10", "train_asr"),
        (tiny, "2e-3", "10", "train_asr"),
        (tiny, "2e-3", "30", "train_asr"),
        (tiny, "2e-3", "70", "train"),
    ]
    assert f"{tiny} at 2e-3, by the loss on dev" in output
    score = sandbox.calls("score")[-1]
    assert value(score, "--name") == f"{tiny} pretrained on transcripts"
    assert f"tuned_training=dev, lr of 1e-3 2e-3 4e-3, arch of {small} {tiny}; 10 updates each" in score
    assert "done already" in sandbox.run("baseline", **search) and len(sandbox.calls("fairseq-train")) == 6


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"TUNE_BEAMS": "4 0"}, "TUNE_BEAMS=4 0: '0' is no such number"),
        ({"TUNE_LENPENS": "0.6,1"}, "TUNE_LENPENS=0.6,1: '0.6,1' is no such number; separate numbers by spaces"),
        ({"BASELINE_LRS": "fast"}, "BASELINE_LRS=fast: 'fast' is no such number"),
        ({"AVERAGE": "0"}, "AVERAGE=0: give a whole number above 0"),
    ],
)
def test_bad_settings(sandbox: Sandbox, settings: dict[str, str], expected: str) -> None:
    output = sandbox.run("generate", fails=True, **settings)
    assert expected in output and output.startswith("error: ") and output.count("\n") == 1
