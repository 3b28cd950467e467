"""Checkpoints of fairseq's own s2t_transformer, the recipe's baseline, work on with the plugin loaded."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_cli import generate, train

from lst_fairseq.checkpoints.averaging import average
from lst_fairseq.errors import CheckpointError
from tests.support.helpers import write_tsv
from tests.support.running import USER_DIR, command_line, first_stage, forget_runs, run_generate

WORDS = ("ja", "nein", "danke")
EACH = ("--required-batch-size-multiple", "1", "--num-workers", "0")
SIZES = ("--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of random log-mels, a dictionary and a data configuration."""
    root = tmp_path_factory.mktemp("s2t")
    rng = np.random.default_rng(1)
    for split in ("train", "dev"):
        rows = []
        for i in range(4):
            path = root / f"{split}{i}.npy"
            np.save(path, rng.standard_normal((30 + i, 8)).astype(np.float32))
            rows.append({"id": f"{split}{i}", "audio": path, "n_frames": 30 + i, "tgt_text": WORDS[i % 3]})
        write_tsv(root / f"{split}.tsv", rows)
    (root / "dict.txt").write_text("".join(f"{word} 1\n" for word in WORDS))
    (root / "config.yaml").write_text("vocab_filename: dict.txt\ninput_feat_per_channel: 8\ninput_channels: 1\n")
    return root


def trained(features: Path, out: Path, *more: str) -> Path:
    flags = ["--task", "speech_to_text", "--arch", "s2t_transformer_xs", "--criterion", "label_smoothed_cross_entropy"]
    flags += ["--train-subset", "train", "--valid-subset", "dev", "--optimizer", "adam", "--lr", "1e-3", *EACH]
    flags += ["--max-tokens", "200", "--max-update", "2", "--save-dir", str(out), *SIZES, *more]
    forget_runs()
    with command_line(features, "--cpu", "--user-dir", USER_DIR, *flags):
        train.cli_main()
    return out / "checkpoint_last.pt"


def translated(features: Path, path: Path, out: Path, *more: str) -> str:
    flags = ["--task", "speech_to_text", "--path", path, "--gen-subset", "dev", "--max-tokens", "500", "--beam", "1"]
    with command_line(features, "--cpu", "--user-dir", USER_DIR, *flags, *EACH, "--results-path", out):
        generate.cli_main()
    return (out / "generate-dev.txt").read_text()


def test_trains_on_averages_and_translates(features: Path, tmp_path: Path) -> None:
    path = trained(features, tmp_path / "run")
    trained(features, tmp_path / "run", "--max-update", "3")
    trained(features, tmp_path / "next", "--load-pretrained-encoder-from", str(path))
    average_path = tmp_path / "average.pt"
    checkpoint_utils.torch_persistent_save(average([path, path]), str(average_path))
    assert "D-3" in translated(features, average_path, tmp_path / "out")
    state = torch.load(path, weights_only=True)
    assert isinstance(state["cfg"]["model"], Namespace)

    def refused(change: dict[str, Any], message: str) -> None:
        torch.save({**state, **change}, tmp_path / "odd.pt")
        with pytest.raises(CheckpointError, match=rf"odd\.pt: refused, {message}"):
            translated(features, tmp_path / "odd.pt", tmp_path / "out")

    settings = vars(state["cfg"]["model"])
    for name, change in {
        "adaptive_softmax_cutoff": {"adaptive_softmax_cutoff": "print(1)"},
        "decoder_xformers_att_config": {"decoder_xformers_att_config": "print(1)"},
        "xformers_att_config": {"decoder": {"xformers_att_config": "print(1)"}},
        "encoder_layers": {"encoder_layers": 10**9},
    }.items():
        evaluated = Namespace(**{**settings, **change})
        refused({"cfg": {**state["cfg"], "model": evaluated}}, f"its setting '{name}' is ")
    named = Namespace(**{**settings, "arch": "fconv"})
    message = "since it is of the task 'speech_to_text' with the model 'fconv' and 's2t_transformer_xs'"
    refused({"cfg": {**state["cfg"], "model": named}}, message)
    # The form of fairseq before 0.10.
    torch.save({**state, "cfg": None, "args": state["cfg"]["model"]}, tmp_path / "old.pt")
    assert "D-3" in translated(features, tmp_path / "old.pt", tmp_path / "out")


def test_each_task_has_its_own_files(features: Path, corpus: Path, backbones: dict[str, str], tmp_path: Path) -> None:
    path = trained(features, tmp_path / "run")
    message = r"checkpoint_last\.pt: not a checkpoint of the task lst_st \(but of 'speech_to_text' with the model 's2t_"
    with pytest.raises(CheckpointError, match=message):
        run_generate(corpus, path, tmp_path / "out")
    own = first_stage(corpus, backbones).path()
    with pytest.raises(CheckpointError, match=r"of the task lst_st, and this command has another; give --task lst_st"):
        translated(features, own, tmp_path / "out")


def test_files_of_other_models_are_read_as_data(tmp_path: Path) -> None:
    """Training of fairseq's own models goes on with the plugin loaded; references between settings are fairseq's."""
    cfg = {"model": {"_name": "hubert", "label_rate": "${task.label_rate}"}, "task": {"_name": "x", "label_rate": 50}}
    history = [{"optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 1}]
    state = {"cfg": cfg, "args": None, "model": {}, "optimizer_history": history, "extra_state": {"train_iterator": {}}}
    torch.save(state, tmp_path / "hubert.pt")
    assert checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "hubert.pt"))["cfg"].model.label_rate == 50
    with pytest.raises(CheckpointError, match=r"hubert\.pt: refused, its setting 'cfg\.model\.label_rate' is"):
        checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "hubert.pt")])
    torch.save({**state, "cfg": {**cfg, "model": {"_name": "hubert"}}}, tmp_path / "hubert.pt")
    with pytest.raises(CheckpointError, match="since it is of the task 'x' with the model 'hubert'"):
        checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "hubert.pt")])
