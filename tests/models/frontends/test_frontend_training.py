"""Frontends in train mode: their own dropout, layer drop and masking, drawn from what fairseq seeds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lst_fairseq.models.frontends import FrontendOptions, SpeechFrontend, build_frontend
from lst_fairseq.models.frontends.pretrained_frontend import span_mask
from tests.models.frontends.test_frontends import in_batch, waveform
from tests.support.speech_models import save_raw, save_whisper_mels

KINDS = ("wav2vec2_base", "hubert_large", "wavlm_base", "data2vec", "wav2vec2_bert", "seamless", "whisper")
DROPOUTS = "hidden_dropout attention_dropout activation_dropout feat_proj_dropout feat_quantizer_dropout layerdrop"
NO_DROPOUT = dict.fromkeys((*DROPOUTS.split(), "final_dropout", "dropout", "encoder_layerdrop"), 0.0)


def run(frontend: SpeechFrontend, waveforms: list[Tensor], seed: int = 3, numpy_seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    np.random.seed(numpy_seed)
    return frontend(*in_batch(waveforms))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_from_torchs_generator(kind: str, speech_model: Callable[[str], str]) -> None:
    """The seed of torch decides and numpy's state neither counts nor changes; eval mode is not touched."""
    frontend = build_frontend(speech_model(kind), FrontendOptions(window="trim")).train()
    if kind == "whisper":
        frontend.model.dropout = 0.1  # its configuration has none
    elif kind != "wavlm_base":  # transformers' WavLM cannot
        frontend.model.config.mask_feature_prob = 0.1  # drawn by transformers, from numpy
    waveforms = [waveform(n) for n in (12_345, 9_000)]
    first = run(frontend, waveforms)
    assert np.random.rand() == np.random.RandomState(0).rand()
    assert torch.equal(run(frontend, waveforms, numpy_seed=5), first)
    assert not torch.allclose(run(frontend, waveforms, seed=4), first, atol=1e-3)
    with torch.no_grad():
        frontend.eval()
        assert torch.equal(run(frontend, waveforms, seed=3), run(frontend, waveforms, seed=4))


@pytest.mark.parametrize("batching", ["auto", "equal"])
def test_time_masking_of_wav2vec2(batching: str, tmp_path: Path) -> None:
    """Without dropout the only change is the masking vector; batches shorter than one span stay as they are."""
    save_raw(tmp_path, "wav2vec2_large", mask_time_prob=0.3, mask_time_length=5, **NO_DROPOUT)
    frontend = build_frontend(str(tmp_path), FrontendOptions(batching=batching))
    projected = []
    frontend.model.encoder.register_forward_pre_hook(lambda module, inputs: projected.append(inputs[0].clone()))
    waveforms = [waveform(20_000), waveform(20_000, seed=1)]
    with torch.no_grad():
        run(frontend.eval(), waveforms)
        run(frontend.train(), waveforms)
    plain, masked = projected
    vector = frontend.model.masked_spec_embed
    struck = (masked == vector).all(dim=-1)
    assert torch.equal(masked[~struck], plain[~struck])
    for row in struck.tolist():
        assert 10 <= sum(row) < len(row) / 2
    with torch.no_grad():
        short = [waveform(1_000)]
        assert torch.equal(run(frontend.train(), short), run(frontend.eval(), short))


@pytest.mark.parametrize("window", ["exact", "trim"])
@pytest.mark.parametrize("applied", [True, False])
def test_masking_of_whispers_log_mels(window: str, applied: bool, tmp_path: Path) -> None:
    save_whisper_mels(
        tmp_path,
        apply_spec_augment=applied,
        mask_time_prob=0.2,
        mask_feature_prob=0.1,
        mask_feature_min_masks=2,
        mask_time_length=8,
        **NO_DROPOUT,
    )
    frontend = build_frontend(str(tmp_path), FrontendOptions(window=window))
    log_mels = []
    frontend.model.conv1.register_forward_pre_hook(lambda module, inputs: log_mels.append(inputs[0].clone()))
    with torch.no_grad():
        run(frontend.eval(), [waveform(20_000)])
        run(frontend.train(), [waveform(20_000)])
    plain, masked = log_mels
    struck = masked != plain
    if not applied:
        assert not struck.any()
        return
    assert not masked[struck].any()
    frames, channels = struck[0].all(dim=0), struck[0, :, :126].all(dim=1)
    assert 8 <= frames.sum() <= 63 and 10 <= channels.sum() <= 40
    assert not frames[126:].any()  # beyond the utterance's 63 vectors
    assert torch.equal(struck[0, :, :126], (frames[:126].unsqueeze(0) | channels.unsqueeze(1)))


def test_whispers_layer_drop(tmp_path: Path) -> None:
    """With a rate of 1 no layer is run, in both modes of the window."""
    save_whisper_mels(tmp_path, **{**NO_DROPOUT, "encoder_layerdrop": 1.0})
    for window in ("exact", "trim"):
        frontend = build_frontend(str(tmp_path), FrontendOptions(window=window)).train()
        ran = []
        for layer in frontend.layers():
            layer.register_forward_hook(lambda *args, ran=ran: ran.append(1))
        run(frontend, [waveform(9_000)])
        assert not ran
        run(frontend.eval(), [waveform(9_000)])
        assert len(ran) == 3


@pytest.mark.parametrize("kind", ["wav2vec2_base", "data2vec"])
def test_gradient_checkpointing(kind: str, tmp_path: Path) -> None:
    """Gradients reach every layer and do not change: the second pass keeps padding out of a row, as the first does."""
    save_raw(tmp_path, kind, mask_time_prob=0.0, **NO_DROPOUT)
    frontend = build_frontend(str(tmp_path)).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            frontend.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        frontend.zero_grad()
        features, lengths = frontend(*in_batch([waveform(n) for n in (12_345, 3_000)]))
        sum(row[:length].square().sum() for row, length in zip(features, lengths.tolist())).backward()
        gradients.append([parameter.grad.clone() for parameter in frontend.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(frontend.parameters()))
    for mine, theirs in zip(*gradients):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)


def test_span_masks() -> None:
    """Spans lie within their rows, as many as the rate asks for and at least the minimum."""
    torch.manual_seed(1)
    lengths = [400, 100, 19, 10, 9, 0]
    masks = torch.stack([span_mask(lengths, 400, 0.25, 10, 2) for _ in range(300)])
    counts = masks.sum(dim=2)
    for row, length in enumerate(lengths):
        assert not masks[:, row, length:].any()
    assert counts[:, 0].min() > 10 and counts[:, 0].max() <= 110
    # 10.5 spans on average whose starts are drawn from 391: the expected share of a position that none covers.
    expected = 400 * (1 - (1 - 10 / 391) ** 10.5)
    assert abs(counts[:, 0].float().mean().item() - expected) < 0.06 * expected
    assert set(counts[:, 2].tolist()) == {10} and set(counts[:, 3].tolist()) == {10}
    assert not counts[:, 4:].any()
    starts = masks[:, 2].float().argmax(dim=1)
    assert set(starts.tolist()) == set(range(10))
