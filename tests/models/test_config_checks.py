"""config.json of a model that asks for far more than its weights hold is refused before anything is built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lst_fairseq.models.config_checks import StoredSizes, check_config
from lst_fairseq.models.pretrained import model_config

#: Each entry and what it is changed to.
ABSURD: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("llama", {"num_hidden_layers": 10**9}),
    "layers that no file holds": ("llama", {"num_hidden_layers": 101}),
    "vocabulary": ("llama", {"vocab_size": 10**12}),
    "width": ("llama", {"intermediate_size": 10**6}),
    "labels": ("llama", {"num_labels": 10**8}),
    "positions": ("llama", {"max_position_embeddings": 10**12}),
    "an id": ("llama", {"eos_token_id": 10**30}),
    "no number": ("llama", {"rms_norm_eps": float("nan")}),
    "a nested one": ("llama", {"text_config": {"hidden_size": 10**9}}),
    "convolutions": ("wav2vec2", {"conv_dim": [8, 10**12]}),
    "kernels": ("wav2vec2", {"conv_kernel": [2**31]}),
    "the encoder's layers": ("wav2vec2", {"num_hidden_layers": 10**9}),
    "the encoder's labels": ("wav2vec2", {"vocab_size": 2**31}),
    "code for experts": ("wav2vec2", {"experts_implementation": "org/kernel"}),
    "quantisation": ("llama", {"quantization_config": {"quant_method": "eetq"}}),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_entries(kind, backbones, tmp_path):
    source, change = ABSURD[kind]
    copy = shutil.copytree(backbones[source], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    flag = "--llm" if source == "llama" else "--speech-encoder"
    with pytest.raises(ValueError, match=f"^{flag} {copy}: config.json: ") as caught:
        model_config(copy, flag)
    message = str(caught.value)
    assert next(iter(change)) in message and "\n" not in message
    assert "copy config.json and the weights again" in message or "remove" in message or "give" in message


def test_half_a_character_hides_nothing(backbones, tmp_path):
    """transformers reads such a file, so that what else it asks for is looked at."""
    copy = shutil.copytree(backbones["llama"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text("utf-8"))
    change = {"num_hidden_layers": 10**9, "note": "\ud800"}
    (copy / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(ValueError, match="num_hidden_layers"):
        model_config(copy, "--llm")


#: Numbers of published models, with what their weights hold.
PUBLISHED: dict[str, tuple[StoredSizes, dict[str, Any]]] = {
    "Llama 3.1 70B": (
        StoredSizes(723, 128_256, False),
        {
            **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80},
            **{"vocab_size": 128_256, "max_position_embeddings": 131_072, "rope_theta": 5e5},
            "eos_token_id": [128_001, 128_008, 128_009],
        },
    ),
    "Llama 4 Scout": (
        StoredSizes(900, 202_048, False),
        {"text_config": {"max_position_embeddings": 10_485_760, "attention_chunk_size": 8192}},
    ),
    "Qwen 2.5 0.5B": (
        StoredSizes(290, 151_936, False),
        {"max_window_layers": 24, "sliding_window": 32_768, "head_dim": None},
    ),
    "the encoder of Whisper alone": (
        StoredSizes(487, 5120, True),
        {"vocab_size": 51_866, "max_source_positions": 1500, "decoder_layers": 32, "pad_token_id": 50_256},
    ),
    "w2v-BERT 2.0": (
        StoredSizes(770, 4096, False),
        {"max_source_positions": 5000, "tdnn_dim": [512, 1500], "mask_time_length": 10},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name, tmp_path):
    stored, config = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    check_config(tmp_path, "--llm" if stored.widest > 10**5 else "--speech-encoder", stored)


def test_what_is_no_json_is_left_to_transformers(backbones, tmp_path):
    copy = Path(shutil.copytree(backbones["llama"], tmp_path / "copy"))
    (copy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"transformers cannot read its config\.json"):
        model_config(copy, "--llm")
