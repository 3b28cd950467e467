"""Speech encoders on disk: names of parameters, shards, what is left unread; the hub's cache; fingerprints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, WhisperForConditionalGeneration

from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.frontends import FrontendOptions, build_frontend, encoder_fingerprint
from lst_fairseq.models.pretrained import load_pretrained, model_directory
from lst_fairseq.models.weight_files import fingerprint
from tests.models.frontends.test_frontends import features_alone, waveform

Directories = Callable[[str], str]
DEFAULTS = FrontendOptions()


def copy_of(directory: str, path: Path) -> Path:
    return Path(shutil.copytree(directory, path / "model"))


@torch.no_grad()
def assert_same_features(path: Path, other: str) -> None:
    samples = waveform(5_000)
    mine, theirs = (features_alone(build_frontend(str(p)).eval(), samples) for p in (path, other))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["wav2vec2_base", "hubert_large", "wavlm_base", "wav2vec2_conformer"])
@pytest.mark.parametrize("names", [("original0", "original1"), ("weight_g", "weight_v")])
def test_both_names_of_weight_normalisation(
    kind: str, names: tuple[str, str], speech_model: Directories, tmp_path: Path
) -> None:
    directory = copy_of(speech_model(kind), tmp_path)
    weights = load_file(directory / "model.safetensors")
    targets = dict(zip(("original0", "original1"), names))
    renamed = {}
    for key, tensor in weights.items():
        for ending in ("original0", "original1"):
            old = "weight_g" if ending == "original0" else "weight_v"
            for spelling in (f"parametrizations.weight.{ending}", old):
                if key.endswith(f"pos_conv_embed.conv.{spelling}"):
                    name = targets[ending]
                    prefix = "parametrizations.weight." if name == ending else ""
                    key = key.removesuffix(spelling) + prefix + name
        renamed[key] = tensor
    assert sum(key.endswith(names) for key in renamed) == 2
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    assert_same_features(directory, speech_model(kind))


@pytest.mark.parametrize("kind", ["whisper", "seamless", "wavlm_base"])
@pytest.mark.parametrize("how", ["shards", "pickled", "sharded and pickled"])
def test_shards_and_pickled_weights(kind: str, how: str, speech_model: Directories, tmp_path: Path) -> None:
    directory = copy_of(speech_model(kind), tmp_path)
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    keys = sorted(weights)
    parts = [keys] if how == "pickled" else [keys[::2], keys[1::2]]
    names = {}
    stem, suffix = ("model", "safetensors") if how == "shards" else ("pytorch_model", "bin")
    for number, part in enumerate(parts, start=1):
        numbered = f"-{number:05d}-of-{len(parts):05d}" if len(parts) > 1 else ""
        file = directory / f"{stem}{numbered}.{suffix}"
        tensors = {key: weights[key] for key in part}
        if how == "shards":
            save_file(tensors, file, metadata={"format": "pt"})
        else:
            torch.save(tensors, file)
        names |= dict.fromkeys(part, file.name)
    if len(parts) > 1:
        index = {"metadata": {}, "weight_map": names}
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert_same_features(directory, speech_model(kind))


@pytest.mark.parametrize("kind", ["whisper", "seamless", "seamless_speech_to_text", "hubert_base"])
def test_only_the_encoder_is_held_and_needed(kind: str, speech_model: Directories, tmp_path: Path) -> None:
    """With every other tensor gone from the file the directory loads all the same, and not without the encoder's."""
    directory = copy_of(speech_model(kind), tmp_path)
    weights = load_file(directory / "model.safetensors")
    prefix = {"whisper": "model.encoder.", "hubert_base": "hubert."}.get(kind, "speech_encoder.")
    own = {key: tensor for key, tensor in weights.items() if key.startswith(prefix) and ".adapter." not in key}
    assert 0 < len(own) < len(weights)
    held = sum(p.numel() for p in build_frontend(str(directory)).parameters())
    if kind != "seamless" and kind != "seamless_speech_to_text":  # whose part of the length adapter is dropped later
        assert held == sum(tensor.numel() for tensor in own.values())
    save_file(own, directory / "model.safetensors", metadata={"format": "pt"})
    assert_same_features(directory, speech_model(kind))
    gone = next(key for key in own if "layers.2" in key and key.endswith("weight"))
    del own[gone]
    save_file(own, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"do not fit config.json: missing .*{gone.removeprefix(prefix)}"):
        build_frontend(str(directory))


def test_the_base_model_and_the_masking_vector(speech_model: Directories, tmp_path: Path) -> None:
    """A directory without head, and one that lacks what only masking uses, as fine-tuned models do."""
    base = tmp_path / "base"
    AutoModel.from_pretrained(speech_model("wav2vec2_base")).save_pretrained(base)
    shutil.copy(Path(speech_model("wav2vec2_base")) / "preprocessor_config.json", base)
    weights = load_file(base / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert_same_features(base, speech_model("wav2vec2_base"))
    whisper = tmp_path / "whisper"
    WhisperForConditionalGeneration.from_pretrained(speech_model("whisper")).model.save_pretrained(whisper)
    assert_same_features(whisper, speech_model("whisper"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech_model: Directories) -> Path:
    """A Hugging Face cache that holds the model org/name, as `hf download` lays it out; the network is out of reach."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    shutil.copytree(speech_model("whisper"), repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd", encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was asked"))
    monkeypatch.chdir(tmp_path)
    return cache


def test_hub_ids(hub_cache: Path, speech_model: Directories, tmp_path: Path) -> None:
    snapshot = hub_cache / "models--org--name" / "snapshots" / "0123abcd"
    assert model_directory("org/name", "--speech-encoder") == snapshot
    assert_same_features(snapshot, "org/name")
    assert encoder_fingerprint("org/name", DEFAULTS) == encoder_fingerprint(speech_model("whisper"), DEFAULTS)
    local = copy_of(speech_model("wavlm_base"), tmp_path / "org")
    local.rename(tmp_path / "org" / "name")  # a directory of that name goes before
    assert model_directory("org/name", "--speech-encoder") == Path("org/name")


def test_hub_ids_that_are_not_there(hub_cache: Path) -> None:
    message = (
        r"--llm org/other: no such directory, and no model of that name in the local Hugging Face cache; models are "
        r"never downloaded while training starts: run `hf download org/other` first, or give a directory"
    )
    with pytest.raises(ValueError, match=message):
        model_directory("org/other", "--llm")
    snapshot = hub_cache / "models--org--name" / "snapshots" / "0123abcd"
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="--llm org/name: no weights there"):
        model_directory("org/name", "--llm")
    for path in ("./org/other", "a/b/c", "name", "/org/name"):
        with pytest.raises(ValueError, match=f"--llm {path}: no such directory; download the model first"):
            model_directory(path, "--llm")


def test_fingerprints_follow_the_options(speech_model: Directories) -> None:
    options = [
        DEFAULTS,
        FrontendOptions(layer=2),
        FrontendOptions(layer=1),
        FrontendOptions(window="trim"),
        FrontendOptions(batching="equal"),
        FrontendOptions(ctc=True),
    ]
    keys = [encoder_fingerprint(speech_model("whisper"), option) for option in options]
    assert len(set(keys)) == len(keys)
    assert keys[1] == encoder_fingerprint(speech_model("whisper"), FrontendOptions(layer=2))


def test_fingerprint_of_a_file(tmp_path: Path) -> None:
    """A fairseq checkpoint: its content counts, and neither its name nor its place."""
    torch.manual_seed(0)
    weights = {"a": torch.randn(3_000), "b": torch.randn(3_000)}
    torch.save(weights, tmp_path / "one.pt")
    shutil.copy(tmp_path / "one.pt", tmp_path / "two.pt")
    torch.save({**weights, "b": weights["b"] + 1}, tmp_path / "three.pt")
    one, two, three = (fingerprint(tmp_path / f"{name}.pt") for name in ("one", "two", "three"))
    assert one == two != three
    path = str(tmp_path / "one.pt")
    assert encoder_fingerprint(path, DEFAULTS) != encoder_fingerprint(path, FrontendOptions(layer=1))
    assert encoder_fingerprint(path, DEFAULTS) != encoder_fingerprint(str(tmp_path / "three.pt"), DEFAULTS)


def test_dtype_and_attention_of_an_llm(backbones: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(backbones["llama"])
    config = LlamaConfig.from_pretrained(directory)
    plain = load_pretrained(AutoModelForCausalLM, directory, config)
    assert plain.dtype == torch.float32
    llm = load_pretrained(AutoModelForCausalLM, directory, config, dtype=torch.bfloat16, attn_implementation="eager")
    assert llm.dtype == torch.bfloat16 and llm.config._attn_implementation == "eager"
    choices = "choices: eager, sdpa, flash_attention_2$"
    with pytest.raises(ValueError, match=f"--attn-implementation flash for .*llama: unknown; {choices}"):
        load_pretrained(AutoModelForCausalLM, directory, config, attn_implementation="flash")
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(ValueError, match=f"--attn-implementation flash_attention_2 .*flash-attn.*; {choices}") as error:
        load_pretrained(AutoModelForCausalLM, directory, config, attn_implementation="flash_attention_2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [8000, 48000, "16k", 0, True])
@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2_bert", "whisper"])
def test_a_speech_encoder_for_another_rate_is_refused(backbones, tmp_path, kind, rate):
    directory = tmp_path / kind
    shutil.copytree(backbones[kind], directory)
    path = directory / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**settings, "sampling_rate": 16_000}), encoding="utf-8")
    kept = build_frontend(str(directory)).settings()
    path.write_text(json.dumps({**settings, "sampling_rate": rate}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: sampling_rate is .*give .* for 16000 Hz"):
        build_frontend(str(directory))
    kept["preprocessor"] = {**kept["preprocessor"], "sampling_rate": rate}
    with pytest.raises(CheckpointError, match=r"sampling_rate is .*16000 Hz"):  # which holds it
        build_frontend(None, settings=kept)
