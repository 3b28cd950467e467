"""What a model's directory or settings may not ask transformers for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lst_fairseq.checkpoints.settings import check_frontend
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.foreign_code import OWN_ATTENTION, foreign_attention
from lst_fairseq.models.pretrained import model_config, model_directory

HUB = "org/attention"


def copy_with(source: str, folder: Path, file: str, **settings: Any) -> Path:
    """A copy of a model's directory with more settings in one of its JSON files."""
    shutil.copytree(source, folder)
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **settings}))
    return folder


@pytest.mark.parametrize("part", ["llama", "wav2vec2"])
def test_an_adapter_beside_the_weights(part, backbones, tmp_path):
    """transformers would add it to the weights, or load those of another model that it names."""
    folder = copy_with(backbones[part], tmp_path / "model", "adapter_config.json", base_model_name_or_path="org/other")
    flag = "--llm" if part == "llama" else "--speech-encoder"
    with pytest.raises(ValueError, match=rf"{flag} .*adapter_config\.json: an adapter of peft's.*merge it"):
        model_directory(str(folder), flag)


@pytest.mark.parametrize("part", ["llama", "wav2vec2"])
@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": HUB},
        {"_attn_implementation": HUB},
        {"attn_implementation": {"": "sdpa", "text_config": HUB}},
        {"text_config": {"_attn_implementation": f"paged|{HUB}"}},
    ],
    ids=str,
)
def test_attention_of_the_hub(part, settings, backbones, tmp_path):
    """transformers would download a program and run it, where the package kernels is installed."""
    folder = copy_with(backbones[part], tmp_path / "model", "config.json", **settings)
    with pytest.raises(ValueError, match=f"config.json asks for the attention '.*{HUB}'.*remove attn_implementation"):
        model_config(folder, "--llm")
    frontend = {"kind": "wav2vec2", "preprocessor": {}, "config": {"model_type": "wav2vec2", **settings}}
    with pytest.raises(CheckpointError, match=rf"x\.pt: refused, .*attn_implementation' is .*{HUB}.*one of eager"):
        check_frontend("x.pt", "frontend", frontend)


@pytest.mark.parametrize("attention", [None, *sorted(OWN_ATTENTION), "paged|sdpa"])
def test_attention_of_transformers(attention, backbones, tmp_path):
    settings = {"attn_implementation": attention, "architectures": [HUB], "layers": [{"name": HUB}]}
    assert foreign_attention(settings) == ""
    if attention in (None, "eager", "sdpa"):
        folder = copy_with(backbones["llama"], tmp_path / "model", "config.json", attn_implementation=attention)
        assert model_config(folder, "--llm").model_type == "llama"
