"""Every kind of transformers speech encoder: its features, lengths, inner layers, CTC head, and a rebuild."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCTC, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lst_fairseq.models.frontends import FrontendOptions, SpeechFrontend, build_frontend
from tests.models.frontends.test_frontends import features_alone, in_batch, waveform
from tests.support.speech_models import RAW, SAVERS, save_bert, save_raw

WINDOW = 32_000  # samples of the tiny Whispers' window
CTC_KINDS = [*RAW, "wav2vec2_bert"]
LOG_MEL = ("wav2vec2_bert", "wav2vec2_bert_adapter", "seamless", "seamless_speech_to_text")
#: One of each class and order of norms.
CLASSES = (
    "wav2vec2_base",
    "hubert_large",
    "wavlm_base",
    "wavlm_large",
    "data2vec",
    "wav2vec2_conformer",
    "wav2vec2_bert_adapter",
    "seamless",
    "whisper",
)
#: Very different lengths; the tiny convolutions need 165 samples and two stacked log-mel frames 560.
MIXED = (12_345, 1, 164, 165, 300, 560, 31_000, 720, 719)
Directories = Callable[[str], str]


def without_adapter(kind: str, model: Any) -> Any:
    """The pretrained model up to where its own length adapter begins."""
    if kind == "wav2vec2_bert_adapter":
        model.adapter = None
    if kind.startswith("seamless"):
        model = model.speech_encoder
        model.adapter = None
        torch.nn.init.zeros_(model.intermediate_ffn.output_dense.weight)
        torch.nn.init.zeros_(model.intermediate_ffn.output_dense.bias)
        model.inner_layer_norm = torch.nn.Identity()
    return model.encoder if kind.startswith("whisper") else model


@torch.no_grad()
def by_transformers(kind: str, path: str, samples: Tensor, layer: int | None = None) -> Tensor:
    """Features [N, D] of one utterance by the pretrained model with its own feature extractor."""
    inputs = AutoFeatureExtractor.from_pretrained(path)(samples.numpy(), sampling_rate=16_000, return_tensors="pt")
    model = without_adapter(kind, AutoModel.from_pretrained(path).eval())
    output = model(**inputs, output_hidden_states=True)
    features = (output.last_hidden_state if layer is None else output.hidden_states[layer])[0]
    if kind.startswith("whisper"):
        return features[: -(-len(samples) // 320)]
    return features[: int(inputs["attention_mask"].sum())] if kind in LOG_MEL else features


@pytest.mark.parametrize("kind", SAVERS)
@torch.no_grad()
def test_equals_transformers(kind: str, speech_model: Directories) -> None:
    frontend = build_frontend(speech_model(kind)).eval()
    for n_samples in (721, 16_123):
        expected = by_transformers(kind, speech_model(kind), waveform(n_samples))
        got = features_alone(frontend, waveform(n_samples))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        assert frontend.output_lengths(torch.tensor([n_samples])).tolist() == [len(expected)]


@pytest.mark.parametrize(
    ("kind", "batching"),
    [*((kind, "auto") for kind in SAVERS), *((kind, "equal") for kind in ("wavlm_base", "whisper"))],
)
@torch.no_grad()
def test_features_do_not_depend_on_companions(kind: str, batching: str, speech_model: Directories) -> None:
    """With rows of a single vector, and two of the same length."""
    frontend = build_frontend(speech_model(kind), FrontendOptions(batching=batching)).eval()
    waveforms = [*(waveform(n) for n in MIXED), waveform(720, seed=1)]
    features, lengths = frontend(*in_batch(waveforms, extra=5_000))
    assert lengths.tolist() == frontend.output_lengths(torch.tensor([len(w) for w in waveforms])).tolist()
    for row, length, samples in zip(features, lengths.tolist(), waveforms):
        expected = features_alone(frontend, samples)
        assert len(expected) == length
        torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_inner_layers(kind: str, speech_model: Directories) -> None:
    """Layer N is transformers' hidden_states[N], the topmost the model's own output; higher layers are not held."""
    path = speech_model(kind)
    samples = waveform(9_000)
    sizes = [sum(p.numel() for p in build_frontend(path).parameters())]
    for layer in (3, 1):
        frontend = build_frontend(path, FrontendOptions(layer=layer)).eval()
        expected = by_transformers(kind, path, samples, layer if layer < 3 else None)
        torch.testing.assert_close(features_alone(frontend, samples), expected, atol=1e-4, rtol=0)
        assert len(frontend.layers()) == layer
        sizes.append(sum(p.numel() for p in frontend.parameters()))
    assert sizes[0] == sizes[1] > sizes[2]
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"--frontend-layer {layer}: the speech encoder has layers 1 to 3"):
            build_frontend(path, FrontendOptions(layer=layer))


@pytest.mark.parametrize("kind", CTC_KINDS)
@torch.no_grad()
def test_ctc_labels_equal_the_pretrained_head(kind: str, speech_model: Directories) -> None:
    path = speech_model(kind)
    frontend = build_frontend(path, FrontendOptions(ctc=True)).eval()
    waveforms = [waveform(n) for n in (9_000, 16_000)]
    features, lengths = frontend(*in_batch(waveforms))
    labels = frontend.ctc_labels(features)
    model = AutoModelForCTC.from_pretrained(path).eval()
    assert labels.dtype == torch.long and frontend.blank == model.config.pad_token_id
    assert not any(parameter.requires_grad for parameter in frontend.ctc_head.parameters())
    seen = set()
    for row, length, samples in zip(labels, lengths.tolist(), waveforms):
        inputs = AutoFeatureExtractor.from_pretrained(path)(samples.numpy(), sampling_rate=16_000, return_tensors="pt")
        expected = model(**inputs).logits[0].argmax(-1)[:length]
        assert row[:length].tolist() == expected.tolist()
        seen |= set(expected.tolist())
    assert len(seen) > 1
    plain = build_frontend(path)
    assert plain.ctc_head is None
    with pytest.raises(ValueError, match="built without its CTC head"):
        plain.ctc_labels(features)


def test_the_blank_is_the_padding_token(tmp_path: Path) -> None:
    save_raw(tmp_path, "hubert_base", pad_token_id=7)
    assert build_frontend(str(tmp_path), FrontendOptions(ctc=True)).blank == 7


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("whisper", "no CTC head there .config.json: WhisperForConditionalGeneration.; give a model fine-tuned"),
        ("seamless", "no CTC head there"),
        ("wav2vec2_bert_adapter", r"own length adapter \(add_adapter\), which LST leaves out"),
    ],
)
def test_no_ctc_head(kind: str, message: str, speech_model: Directories) -> None:
    with pytest.raises(ValueError, match=f"{kind}: .*{message}"):
        build_frontend(speech_model(kind), FrontendOptions(ctc=True))
    with pytest.raises(ValueError, match="--frontend-layer 2: a CTC head reads the last layer"):
        FrontendOptions(layer=2, ctc=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, FrontendOptions()) for kind in ("wav2vec2_base", "data2vec", "wav2vec2_bert_adapter", "whisper_128")),
        ("wavlm_large", FrontendOptions(layer=2)),
        ("seamless", FrontendOptions(layer=1)),
        ("whisper", FrontendOptions(layer=1, window="trim")),
        ("hubert_large", FrontendOptions(ctc=True)),
    ],
)
@torch.no_grad()
def test_rebuilt_from_its_settings(kind: str, options: FrontendOptions, speech_model: Directories) -> None:
    """Without the directory, through JSON: the same parameters, and with their values the same features."""
    frontend = build_frontend(speech_model(kind), options).eval()
    settings = json.loads(json.dumps(frontend.settings()))
    again = build_frontend("gone/away", options, settings).eval()
    assert type(again) is type(frontend) and again.options == options
    samples = waveform(9_000)
    assert not torch.allclose(features_alone(again, samples), features_alone(frontend, samples), atol=1e-2)
    again.load_state_dict(frontend.state_dict(), strict=True)
    assert torch.equal(features_alone(again, samples), features_alone(frontend, samples))
    assert again.settings() == frontend.settings() and again.blank == frontend.blank
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())


def test_settings_do_not_replace_a_broken_directory(speech_model: Directories, tmp_path: Path) -> None:
    settings = build_frontend(speech_model("whisper")).settings()
    with pytest.raises(ValueError, match=r"no config\.json there"):
        build_frontend(str(tmp_path), FrontendOptions(), settings)
    with pytest.raises(ValueError, match="no such directory"):
        build_frontend(str(tmp_path / "gone"))
    with pytest.raises(
        ValueError, match=r"--speech-encoder models/gone\.pt: no such file; give a fairseq checkpoint or"
    ):
        build_frontend("models/gone.pt")


@torch.no_grad()
def test_half_precision_of_the_published_config(tmp_path: Path) -> None:
    """A directory in fp16 is loaded and rebuilt in fp32."""
    save_bert(tmp_path)
    model = AutoModelForCTC.from_pretrained(tmp_path, dtype=torch.float16)
    model.save_pretrained(tmp_path)
    frontend = build_frontend(str(tmp_path))
    assert frontend.dtype == torch.float32
    assert build_frontend("gone/away", FrontendOptions(), frontend.settings()).dtype == torch.float32


@pytest.fixture
def trim(speech_model: Directories) -> SpeechFrontend:
    return build_frontend(speech_model("whisper"), FrontendOptions(window="trim")).eval()


@pytest.mark.parametrize("kind", ["whisper", "whisper_128"])
@pytest.mark.parametrize("n_samples", [321, 9_000, 31_679])
@torch.no_grad()
def test_trimmed_whisper_equals_an_encoder_of_that_window(kind: str, n_samples: int, speech_model: Directories) -> None:
    """As transformers' encoder would do it, had it been built for just that length; the log-mels are the window's."""
    path = speech_model(kind)
    model = WhisperModel.from_pretrained(path)
    n_vectors = -(-n_samples // 320)
    config = model.config
    config.max_source_positions = n_vectors
    encoder = WhisperEncoder(config).eval()
    state = model.encoder.state_dict()
    state["embed_positions.weight"] = state["embed_positions.weight"][:n_vectors]
    encoder.load_state_dict(state)
    samples = waveform(n_samples)
    log_mels = AutoFeatureExtractor.from_pretrained(path)(
        samples.numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    expected = encoder(log_mels[..., : 2 * n_vectors]).last_hidden_state[0]
    frontend = build_frontend(path, FrontendOptions(window="trim")).eval()
    torch.testing.assert_close(features_alone(frontend, samples), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_trimmed_rows_do_not_depend_on_companions(trim: SpeechFrontend) -> None:
    """Among them rows up to the last sample of a window, and beyond it."""
    counts = (*MIXED, WINDOW - 321, WINDOW - 200, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 5_000)
    for group in (counts, counts[:9], counts[:12]):
        waveforms = [waveform(n) for n in group]
        features, lengths = trim(*in_batch(waveforms))
        assert lengths.tolist() == [-(-n // 320) for n in group]
        for row, length, samples in zip(features, lengths.tolist(), waveforms):
            torch.testing.assert_close(row[:length], features_alone(trim, samples), atol=1e-4, rtol=0)


@torch.no_grad()
def test_trimmed_windows_that_are_full_equal_exact_ones(trim: SpeechFrontend, speech_model: Directories) -> None:
    exact = build_frontend(speech_model("whisper")).eval()
    samples = waveform(2 * WINDOW + 5_000)
    got, expected = features_alone(trim, samples), features_alone(exact, samples)
    torch.testing.assert_close(got[:200], expected[:200], atol=1e-4, rtol=0)
    assert not torch.allclose(got[200:], expected[200:], atol=1e-2)


@torch.no_grad()
def test_a_loud_companion_does_not_raise_whispers_floor(trim: SpeechFrontend) -> None:
    """Log-mels are cut off 8 below the utterance's own maximum, not the batch's."""
    quiet, loud = 1e-4 * waveform(8_000), 50 * waveform(20_000)
    features, _ = trim(*in_batch([quiet, loud]))
    torch.testing.assert_close(features[0, :25], features_alone(trim, quiet), atol=1e-4, rtol=0)


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match="--frontend-window half: unknown; known: exact, trim"):
        FrontendOptions(window="half")
    with pytest.raises(ValueError, match="--frontend-batching some: unknown; known: auto, padded, equal"):
        FrontendOptions(batching="some")


def test_silence_is_finite(speech_model: Directories) -> None:
    """Waveforms of zeros have no variance to divide by."""
    for kind in ("wav2vec2_large", "wav2vec2_base", "wav2vec2_bert", "whisper"):
        features = features_alone(build_frontend(speech_model(kind)).eval(), torch.from_numpy(np.zeros(4_000)).float())
        assert features.isfinite().all()
