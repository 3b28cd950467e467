"""Training through fairseq's commands: resumed equals uninterrupted, half precision, stages, what is saved."""

import logging
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from lst_fairseq.checkpoints.optimizer_state import MASTER_KEY
from lst_fairseq.data.audio import read_segment
from lst_fairseq.data.manifest import read_manifest
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.trained_parts import RECORD_KEY, CheckpointRecord
from tests.conftest import save_llama
from tests.support.helpers import REPOSITORY, run_command
from tests.support.running import (
    Run,
    differences,
    edited,
    first_stage,
    read_checkpoint,
    run_generate,
    run_train,
    run_train_command,
    run_validate,
    second_stage,
    spoil,
    write_split,
)

STATE = ("model", "last_optimizer_state")


@pytest.fixture(scope="module")
def with_dropout(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The backbones with an LLM that has dropout, so that the state of the random numbers matters."""
    path = tmp_path_factory.mktemp("dropout") / "llama"
    save_llama(path, attention_dropout=0.1)
    return {**backbones, "llama": str(path)}


@pytest.fixture
def shuffled(tmp_path: Path) -> Path:
    """Utterances of one length, so that their order, and with it every batch, is random in each epoch."""
    for split in ("train", "dev"):
        write_split(tmp_path / "data", split, [(0.5, "Ja.")] * 12)
    (tmp_path / "data" / "config.yaml").write_text("target_lang: de\nshuffle: true\n", encoding="utf-8")
    return tmp_path / "data"


def assert_resumes_exactly(straight: Run, saved: str, n_updates: int, resume: Any) -> None:
    """Copy a checkpoint of a run into an empty folder, go on from there, and compare with the run itself."""
    folder = straight.folder.parent / f"resumed_{saved}"
    folder.mkdir()
    shutil.copy(straight.folder / f"{saved}.pt", folder / "checkpoint_last.pt")
    resumed = resume(folder)
    assert resumed.losses == straight.losses[n_updates:] and resumed.losses
    assert resumed.valid_losses[-2:] == straight.valid_losses[-2:]
    for part in STATE:
        assert differences(straight.checkpoint()[part], resumed.checkpoint()[part], part) == []
    for part in ("train_iterator", "val_loss", "best"):
        assert straight.checkpoint()["extra_state"][part] == resumed.checkpoint()["extra_state"][part]


@pytest.mark.parametrize("data", ["corpus", "shuffled"])
def test_a_resumed_first_stage_is_the_uninterrupted_one(data, request, backbones, tmp_path):
    """From the end of an epoch (four batches each) and from the middle of one, with --save-interval-updates."""
    data = request.getfixturevalue(data)
    settings = {"max_update": 8, "save_interval_updates": 3}
    straight = run_train(data, backbones, tmp_path / "straight", **settings)
    assert len(straight.losses) == 8 and straight.losses[7] < straight.losses[3]
    for saved, n_updates in (("checkpoint1", 4), ("checkpoint_1_3", 3), ("checkpoint_2_6", 6)):
        assert_resumes_exactly(straight, saved, n_updates, lambda f: run_train(data, backbones, f, **settings))


def test_a_resumed_second_stage_is_the_uninterrupted_one(corpus, with_dropout, tmp_path):
    """The same command again, with --finetune-from-model still in it, and batches gathered by --update-freq."""
    settings = {
        "max_update": 7,
        "save_interval_updates": 5,
        "train_modules": "adapter,llm",
        "finetune_from_model": run_train(corpus, with_dropout, tmp_path / "stage1", max_update=1).path(),
        "batch_size": 2,
        "update_freq": [2],
    }
    straight = run_train(corpus, with_dropout, tmp_path / "straight", **settings)
    for saved, n_updates in (("checkpoint1", 3), ("checkpoint_2_5", 5)):
        assert_resumes_exactly(straight, saved, n_updates, lambda f: run_train(corpus, with_dropout, f, **settings))


@pytest.mark.parametrize("flag", ["--bf16", "--fp16"])
def test_half_precision_from_the_command_line(flag, corpus, backbones, tmp_path):
    """Trap 5: fairseq takes --bf16 for a TPU. Waveforms reach the frontend exactly, targets are learned."""
    waveforms = {len(w): w for w in map(torch.from_numpy, map(read_segment, segments(corpus)))}
    seen, forward = [], SpeechEncoder.forward

    def watching(self: SpeechEncoder, src_tokens: torch.Tensor, src_lengths: torch.Tensor, **kwargs: Any) -> Any:
        for row, n in zip(src_tokens, src_lengths.tolist()):
            seen.append(torch.equal(row[:n].float(), waveforms[n]))
        return forward(self, src_tokens, src_lengths, **kwargs)

    with mock.patch.object(SpeechEncoder, "forward", watching):
        run = run_train_command(corpus, backbones, tmp_path / "run", flag, max_update=8, train_modules="adapter,llm")
    assert len(seen) >= 24 and all(seen)
    assert len(run.losses) == 8 and sum(run.losses[4:]) < sum(run.losses[:4])
    assert not run.checkpoint()["cfg"].common.tpu


def segments(corpus: Path) -> list[Any]:
    return [row.segment for split in ("train", "dev") for row in read_manifest(corpus / f"{split}.tsv").rows]


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_resumed_half_precision_is_the_uninterrupted_one(kind, corpus, backbones, tmp_path):
    """Trap 6: fairseq forgets the fp32 master weights; without them, the run would go on from rounded ones."""
    settings = {kind: True, "fp16_no_flatten_grads": True, "max_update": 5, "save_interval_updates": 2}
    straight = run_train(corpus, backbones, tmp_path / "straight", **settings)
    masters = straight.checkpoint()["last_optimizer_state"][MASTER_KEY]
    assert all(master.dtype == torch.float32 for master in masters)
    half = torch.bfloat16 if kind == "bf16" else torch.float16
    assert any(not torch.equal(master, master.to(half).float()) for master in masters)
    assert_resumes_exactly(straight, "checkpoint_1_2", 2, lambda f: run_train(corpus, backbones, f, **settings))

    def forget(state: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in state.items() if key != MASTER_KEY}

    (tmp_path / "forgetful").mkdir()
    edited(straight.path("1_2"), tmp_path / "forgetful" / "checkpoint_last.pt", last_optimizer_state=forget)
    forgetful = run_train(corpus, backbones, tmp_path / "forgetful", **settings)
    assert differences(straight.checkpoint()["model"], forgetful.checkpoint()["model"])


def test_master_weights_of_other_shapes_are_refused(corpus, backbones, tmp_path):
    run = run_train(corpus, backbones, tmp_path, bf16=True, max_update=1)

    def other(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, MASTER_KEY: state[MASTER_KEY][1:]}

    edited(run.path(), run.path(), last_optimizer_state=other)
    with pytest.raises(CheckpointError, match=r"master weights .* other shapes .*--finetune-from-model or"):
        run_train(corpus, backbones, tmp_path, bf16=True, max_update=2)


def test_checkpoints_hold_what_was_trained(corpus, backbones):
    first, second = first_stage(corpus, backbones).checkpoint(), second_stage(corpus, backbones).checkpoint()
    llm = {k for k in second["model"] if k.startswith("decoder.llm.")}
    assert {k.rsplit(".", 1)[0] for k in first["model"] if "marker" in k} == {"encoder.markers"}
    assert all(k.startswith(("encoder.adapter.", "encoder.markers.")) or k == RECORD_KEY for k in first["model"])
    assert second["model"].keys() == first["model"].keys() | llm and llm
    assert "decoder.llm.lm_head.weight" not in llm  # tied to the embeddings: held once
    weights = [[v for v in c["model"].values() if v.is_floating_point() and v.dim()] for c in (first, second)]
    n_trained = [sum(v.numel() for v in tensors) for tensors in weights]
    for checkpoint, n in zip((first, second), n_trained):
        moments = [state["exp_avg"] for state in checkpoint["last_optimizer_state"]["state"].values()]
        assert sum(moment.numel() for moment in moments) == n  # Adam's, of these parameters only
    record = CheckpointRecord.from_tensor(second["model"][RECORD_KEY])
    assert record.held == ["adapter", "llm"] and record.prompt["template"] == "USER: {speech} Deutsch:"
    assert record.sources["llm"]["path"] == backbones["llama"] and len(record.sources["llm"]["fingerprint"]) == 16
    size = Path(first_stage(corpus, backbones).path()).stat().st_size
    assert size < 3 * 4 * n_trained[0] + 60_000  # weights, two moments, and settings


def test_the_second_stage_starts_where_the_first_ended(corpus, backbones, tmp_path):
    first = first_stage(corpus, backbones)
    again = run_train(corpus, backbones, tmp_path / "a", max_update=1, lr=[0.0], finetune_from_model=first.path())
    second = run_train(
        corpus,
        backbones,
        tmp_path / "b",
        max_update=1,
        lr=[0.0],
        finetune_from_model=first.path(),
        train_modules="adapter,llm",
    )
    assert again.losses == second.losses and again.valid_losses == second.valid_losses
    kept = {k: v for k, v in second.checkpoint()["model"].items() if k in first.checkpoint()["model"]}
    kept[RECORD_KEY] = first.checkpoint()["model"][RECORD_KEY]
    assert differences(first.checkpoint()["model"], kept) == []


def test_a_trained_llm_is_kept_when_only_the_adapter_goes_on(corpus, backbones, tmp_path):
    second = second_stage(corpus, backbones)
    run = run_train(corpus, backbones, tmp_path, max_update=2, finetune_from_model=second.path())
    before, after = second.checkpoint()["model"], run.checkpoint()["model"]
    assert before.keys() == after.keys()
    changed = set(differences(before, after))
    assert changed and all(name.startswith((".encoder.adapter.", ".encoder.markers.")) for name in changed)
    generated = run_generate(corpus, run.path(), tmp_path / "out")  # and decoding takes it from there
    assert sorted(generated) == list(range(5))


def test_fairseqs_own_criterion(corpus, backbones, tmp_path):
    """label_smoothed_cross_entropy without smoothing is the plugin's loss; with smoothing, it trains."""
    ours = run_train(corpus, backbones, tmp_path / "ours", max_update=2)
    name = "label_smoothed_cross_entropy"
    theirs = run_train_command(corpus, backbones, tmp_path / "theirs", criterion=name, max_update=2)
    assert theirs.losses == pytest.approx(ours.losses, rel=1e-5)
    extra = ("--label-smoothing", "0.1", "--report-accuracy")
    smoothed = run_train_command(corpus, backbones, tmp_path / "smoothed", *extra, criterion=name)
    assert smoothed.losses[-1] < smoothed.losses[0]


def test_validation_by_command_equals_that_of_training(corpus, backbones, capsys):
    run = first_stage(corpus, backbones)
    run_validate(corpus, run.path(), "--valid-subset", "dev,test", "--batch-size", "2")
    lines = [line for line in capsys.readouterr().out.splitlines() if "subset | loss" in line]
    assert len(lines) == 2 and "| test |" in lines[1]
    assert float(lines[0].split(" loss ")[1].split()[0]) == run.checkpoint()["extra_state"]["val_loss"]


def test_averaged_checkpoints(corpus, backbones, tmp_path):
    """The arithmetic of fairseq's scripts/average_checkpoints.py, which leaves integers as they are."""
    run = run_train(corpus, backbones, tmp_path / "run", save_interval_updates=2)
    models = [run.checkpoint(name)["model"] for name in ("1_2", "last")]
    average = {}
    for key, value in models[0].items():
        total = value.clone() + models[1][key]
        average[key] = total.div_(2) if total.is_floating_point() else total // 2
    path = edited(run.path(), tmp_path / "average.pt", model=average)
    assert torch.equal(average[RECORD_KEY], models[0][RECORD_KEY])
    assert sorted(run_generate(corpus, path, tmp_path / "out")) == list(range(5))


def test_hydra_train(corpus, backbones, tmp_path):
    """fairseq-hydra-train with a configuration that names the user-dir, in a process of its own."""
    config = {
        "common": {"user_dir": str(REPOSITORY / "lst_fairseq"), "cpu": True, "seed": 7, "log_format": "json"},
        "task": {
            "_name": "lst_st",
            "data": str(corpus),
            "speech_encoder": backbones["wav2vec2"],
            "llm": backbones["llama"],
            "prompt": "USER: {speech} Deutsch: ",
        },
        "model": {"_name": "lst_tiny", "adapter_channels": 24},
        "criterion": {"_name": "lst_cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "dataset": {"batch_size": 3, "train_subset": "train", "valid_subset": "dev", "num_workers": 0},
        "optimization": {"max_update": 4, "lr": [0.003]},
        "checkpoint": {"save_dir": str(tmp_path / "hydra")},
    }
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "lst.yaml").write_text("# @package _group_\n" + yaml.safe_dump(config), encoding="utf-8")
    where = ["--config-dir", str(tmp_path / "config"), "--config-name", "lst"]
    run_command("fairseq_cli.hydra_train", *where, cwd=tmp_path)
    trained = read_checkpoint(tmp_path / "hydra" / "checkpoint_last.pt")
    assert differences(trained["model"], first_stage(corpus, backbones).checkpoint()["model"]) == []


def test_decoding_with_relocated_backbones(corpus, backbones, tmp_path):
    checkpoint = first_stage(corpus, backbones).path()
    expected = run_generate(corpus, checkpoint, tmp_path / "a")
    moved = {}
    for flag, name in (("speech_encoder", "wav2vec2"), ("llm", "llama")):
        moved[flag] = shutil.copytree(backbones[name], tmp_path / "elsewhere" / name)
    assert run_generate(corpus, checkpoint, tmp_path / "b", **moved) == expected


@pytest.mark.parametrize(
    ("flag", "other"), [("llm", "llama_other"), ("speech_encoder", "whisper"), ("speech_encoder", "wav2vec2_other")]
)
def test_other_weights_are_refused_by_name(flag, other, corpus, backbones, tmp_path):
    checkpoint = first_stage(corpus, backbones).path()
    path = Path(backbones.get(other, tmp_path / other))
    if other == "wav2vec2_other":  # the same shapes, one number changed
        from safetensors.torch import load_file, save_file

        shutil.copytree(backbones["wav2vec2"], path)
        weights = load_file(path / "model.safetensors")
        next(iter(weights.values())).view(-1)[0] += 0.5
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    own = backbones["llama" if flag == "llm" else "wav2vec2"]
    with pytest.raises(CheckpointError) as caught:
        run_generate(corpus, checkpoint, tmp_path / "out", **{flag: str(path)})
    message = str(caught.value)
    named = f"--{flag.replace('_', '-')}"
    assert message.startswith(f"{checkpoint}: ") and f"{named} {own} (fingerprint " in message
    assert f"{named} {path} has other weights (fingerprint " in message


def test_ensembles(corpus, backbones, tmp_path):
    """Two second stages with an LLM each, decoded together; one with itself is that one."""
    second = second_stage(corpus, backbones)
    other = run_train(
        corpus,
        backbones,
        tmp_path / "other",
        seed=8,
        train_modules="adapter,llm",
        finetune_from_model=first_stage(corpus, backbones).path(),
    )
    alone = run_generate(corpus, second.path(), tmp_path / "a")
    assert run_generate(corpus, f"{second.path()}:{second.path()}", tmp_path / "b") == alone
    both = run_generate(corpus, f"{second.path()}:{other.path()}", tmp_path / "c")
    assert sorted(both) == list(range(5)) and run_generate(corpus, other.path(), tmp_path / "d") != alone


def test_broken_audio_is_skipped_in_training_and_validation(backbones, tmp_path, caplog):
    """Batches with and without good audio, the first of all among them; each is counted in the log."""
    write_split(tmp_path, "train", [(0.5 + 0.1 * i, "Ja, danke.") for i in range(6)])
    write_split(tmp_path, "dev", [(0.5 + 0.1 * i, "Nein.") for i in range(4)])
    whole = run_train(tmp_path, backbones, tmp_path / "whole", batch_size=2, max_epoch=1)
    for name in ("train_5", "train_4", "train_0", "dev_3", "dev_2", "dev_1"):
        spoil(tmp_path / f"{name}.wav")
    with pytest.raises(Exception, match=r"\.tsv:\d: .*NaN.*; --skip-bad-audio leaves such segments out"):
        run_train(tmp_path, backbones, tmp_path / "strict", batch_size=2, max_epoch=1)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run = run_train(tmp_path, backbones, tmp_path / "run", batch_size=2, max_epoch=1, skip_bad_audio=True)
    assert len(run.losses) == len(whole.losses) == 3 and run.losses.count(0.0) == 1
    assert run.valid_losses[0] == 0.0 and run.valid_losses[1] > 0
    logged = {r.name: r.getMessage() for r in caplog.records if r.name in ("train", "dev")}
    assert '"train_skipped_audio": "3"' in logged["train"], logged
    assert '"dev_skipped_audio": "3"' in logged["dev"], logged
    assert '"train_loss": "-1' not in logged["train"] and "did not log a loss" not in caplog.text
