"""Frontends give what the transformers classes give, alone and in any batch, and refuse broken directories."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoFeatureExtractor, Wav2Vec2BertModel, Wav2Vec2Model, WhisperModel

from lst_fairseq.models.frontends import build_frontend
from tests.conftest import save_wav2vec2
from tests.support.helpers import batch_of, build

KINDS = ("wav2vec2", "wav2vec2_bert", "whisper")
WINDOW = 32_000  # samples of the tiny Whisper's window
COUNTS = (1, 2, 164, 165, 319, 320, 321, 399, 400, 401, 484, 485, 559, 560, 561, 719, 720, 721, 4321, 16_000, 31_999)
LONG_COUNTS = (32_000, 32_001, 45_678, 64_001)


def waveform(n_samples: int, seed: int = 0) -> Tensor:
    """Noise around an offset, so that scaling shows."""
    rng = np.random.default_rng([seed, n_samples])
    return torch.from_numpy(0.02 + 0.1 * rng.standard_normal(n_samples)).float()


def in_batch(waveforms: list[Tensor], extra: int = 100) -> tuple[Tensor, Tensor]:
    """Waveforms as [B, T], padded with zeros further than needed, and their lengths."""
    lengths = torch.tensor([len(w) for w in waveforms])
    batch = torch.zeros(len(waveforms), int(lengths.max()) + extra)
    for row, w in zip(batch, waveforms):
        row[: len(w)] = w
    return batch, lengths


def features_alone(frontend: torch.nn.Module, samples: Tensor) -> Tensor:
    features, lengths = frontend(samples.unsqueeze(0), torch.tensor([len(samples)]))
    return features[0, : lengths.item()]


@torch.no_grad()
def by_transformers(kind: str, path: str, samples: Tensor) -> Tensor:
    """Features [N, D] of one utterance by the transformers class, fed by its own feature extractor."""
    extractor = AutoFeatureExtractor.from_pretrained(path)
    inputs = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="pt")
    if kind == "wav2vec2":
        return Wav2Vec2Model.from_pretrained(path).eval()(inputs["input_values"]).last_hidden_state[0]
    if kind == "wav2vec2_bert":
        model = Wav2Vec2BertModel.from_pretrained(path).eval()
        features = model(**inputs).last_hidden_state[0]
        return features[: int(inputs["attention_mask"].sum())]
    encoder = WhisperModel.from_pretrained(path).eval().encoder
    return encoder(inputs["input_features"]).last_hidden_state[0, : -(-len(samples) // 320)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [721, 16_123, 30_000])
@torch.no_grad()
def test_equals_transformers(kind: str, n_samples: int, backbones: dict[str, str]) -> None:
    expected = by_transformers(kind, backbones[kind], waveform(n_samples))
    got = features_alone(build_frontend(backbones[kind]).eval(), waveform(n_samples))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_alone_equals_the_row_in_a_batch(kind: str, backbones: dict[str, str]) -> None:
    """For rows of a single vector too."""
    frontend = build_frontend(backbones[kind]).eval()
    waveforms = [waveform(n) for n in (12_345, 1, 300, 560, 31_000, 720, 719)]
    features, lengths = frontend(*in_batch(waveforms))
    for row, length, samples in zip(features, lengths.tolist(), waveforms):
        expected = features_alone(frontend, samples)
        assert expected.size(0) == length
        torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_output_lengths_are_those_of_the_features(kind: str, backbones: dict[str, str]) -> None:
    frontend = build_frontend(backbones[kind]).eval()
    counts = torch.tensor(COUNTS + LONG_COUNTS)
    promised = frontend.output_lengths(counts)
    assert promised.dtype == torch.long and promised.min() == 1
    for count, length in zip(counts.tolist(), promised.tolist()):
        features, lengths = frontend(waveform(count).unsqueeze(0), torch.tensor([count]))
        assert lengths.tolist() == [length] and features.size(1) >= length, count
        assert features[0, :length].isfinite().all(), count
    features, lengths = frontend(*in_batch([waveform(n) for n in COUNTS]))
    assert lengths.tolist() == promised.tolist()[: len(COUNTS)] and features.size(1) >= max(lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_output_lengths_are_those_of_the_pretrained_model(kind: str, backbones: dict[str, str]) -> None:
    """For each utterance that the transformers classes accept (165 samples for the tiny wav2vec 2.0)."""
    shortest = {"wav2vec2": 165, "wav2vec2_bert": 560, "whisper": 1}[kind]
    counts = [n for n in COUNTS if n >= shortest]
    promised = build_frontend(backbones[kind]).output_lengths(torch.tensor(counts)).tolist()
    expected = [by_transformers(kind, backbones[kind], waveform(n)).size(0) for n in counts[:: len(counts) // 5]]
    assert promised[:: len(counts) // 5] == expected


@pytest.mark.parametrize("do_normalize", [True, False])
@torch.no_grad()
def test_waveform_scaling_follows_the_preprocessor(do_normalize: bool, tmp_path: Path) -> None:
    save_wav2vec2(tmp_path, do_normalize=do_normalize)
    frontend = build_frontend(str(tmp_path)).eval()
    samples = waveform(5_000)
    got = features_alone(frontend, samples)
    torch.testing.assert_close(got, by_transformers("wav2vec2", str(tmp_path), samples), atol=1e-4, rtol=0)
    louder_is_the_same = torch.allclose(features_alone(frontend, 3 * samples + 0.1), got, atol=1e-3)
    assert louder_is_the_same == do_normalize


@torch.no_grad()
def test_whisper_goes_on_in_further_windows(backbones: dict[str, str]) -> None:
    """Beyond its window each window is encoded as the transformers class encodes it apart; short rows stay the same."""
    frontend = build_frontend(backbones["whisper"]).eval()
    waveforms = [waveform(n) for n in (2 * WINDOW + 5_000, 9_000, WINDOW, WINDOW + 1)]
    features, lengths = frontend(*in_batch(waveforms))
    for row, length, samples in zip(features, lengths.tolist(), waveforms):
        windows = samples.split(WINDOW)
        expected = torch.cat([by_transformers("whisper", backbones["whisper"], window) for window in windows])
        assert length == expected.size(0)
        torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_in_the_model(kind: str, backbones: dict[str, str], corpus: Path) -> None:
    """model.train() leaves the frontend in eval mode: no dropout, no gradient, not even an autograd graph."""
    _, task, model = build(corpus, {**backbones, "wav2vec2": backbones[kind]})
    task.load_dataset("test")
    sample = batch_of(task, "test", [0, 3])["net_input"]
    model.train()
    assert model.training and model.encoder.adapter.training
    assert not any(module.training for module in model.encoder.frontend.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.frontend.parameters())
    graphs = []
    model.encoder.frontend.register_forward_hook(lambda module, inputs, output: graphs.append(output[0].requires_grad))
    del sample["prev_output_tokens"]
    in_training = model.encoder(**sample)["speech"]
    in_training.sum().backward()
    assert graphs == [False]
    assert all(parameter.grad is None for parameter in model.encoder.frontend.parameters())
    assert all(parameter.grad is not None for parameter in model.encoder.adapter.parameters())
    again = model.encoder(**sample)["speech"]
    in_eval = model.eval().encoder(**sample)["speech"]
    assert torch.equal(in_training, again) and torch.equal(in_training, in_eval)


def without_config(path: Path) -> None:
    (path / "config.json").unlink()


def without_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def broken_config(path: Path) -> None:
    (path / "config.json").write_text("{", encoding="utf-8")


def invented_model_type(path: Path) -> None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "model_type": "wav3vec"}), encoding="utf-8")


def missing_key(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    del weights["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def other_shape(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["wav2vec2.encoder.layers.0.layer_norm.bias"] = torch.zeros(5)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def truncated(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def no_safetensors(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")


@pytest.mark.parametrize(
    "damage,named",
    [
        (shutil.rmtree, ["no such directory"]),
        (without_config, ["no config.json", "model.safetensors"]),
        (without_weights, ["no weights"]),
        (broken_config, ["config.json"]),
        (invented_model_type, ["wav3vec", "hubert", "seamless_m4t_v2", "wav2vec2-bert", "whisper"]),
        (missing_key, ["encoder.layers.1.attention.k_proj.weight"]),
        (other_shape, ["encoder.layers.0.layer_norm.bias"]),
        (truncated, ["model.safetensors", "truncated"]),
        (no_safetensors, ["model.safetensors", "truncated"]),
    ],
)
def test_wrong_directory(
    damage: Callable[[Path], None], named: list[str], backbones: dict[str, str], tmp_path: Path
) -> None:
    """Each is a ValueError that names the directory and what is wrong with it."""
    directory = Path(shutil.copytree(backbones["wav2vec2"], tmp_path / "encoder"))
    damage(directory)
    with pytest.raises(ValueError) as error:
        build_frontend(str(directory))
    for text in (str(directory), *named):
        assert text in str(error.value)


def test_a_model_that_is_no_speech_encoder(backbones: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"model type 'llama'.*known: wav2vec2, hubert, .*, whisper$") as error:
        build_frontend(backbones["llama"])
    assert "fairseq" not in str(error.value)  # of these there are files, not directories


def test_not_set() -> None:
    with pytest.raises(ValueError, match="--speech-encoder is not set"):
        build_frontend(None)


def test_w2v_bert_with_features_of_another_width(backbones: dict[str, str], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(backbones["wav2vec2_bert"], tmp_path / "encoder"))
    path = directory / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "num_mel_bins": 40}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 x 40 features and config\.json expects 160"):
        build_frontend(str(directory))
