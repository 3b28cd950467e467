"""The torch features equal those of transformers' extractors, alone and in batches of mixed lengths."""

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from lst_fairseq.models.frontends.log_mel import kaldi_log_mel, whisper_log_mel

LENGTHS = (16_000, 15_999, 4_321, 560, 12_345, 719)


def speechlike(seed: int = 0) -> list[np.ndarray]:
    """Utterances of the lengths above: tones under an envelope, noise, an offset and some digital silence."""
    rng = np.random.default_rng(seed)
    utterances = []
    for length in LENGTHS:
        t = np.arange(length) / 16_000
        tone = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in rng.uniform(80, 7000, 5))
        x = 0.1 * tone * np.sin(2 * np.pi * 3 * t) ** 2 + 0.003 * rng.standard_normal(length) + 0.01
        x[length // 2 : length // 2 + length // 10] = 0.0
        utterances.append(x.astype(np.float32))
    return utterances


def padded(utterances: list[np.ndarray], filling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Utterances as [B, T] with `filling` beyond each one's length, and their lengths."""
    lengths = torch.tensor([len(x) for x in utterances])
    batch = torch.full((len(utterances), int(lengths.max()) + 100), filling)
    for row, x in zip(batch, utterances):
        row[: len(x)] = torch.from_numpy(x)
    return batch, lengths


@pytest.mark.parametrize("padding_value", [0.0, 1.0])
def test_kaldi_equals_the_extractor_on_a_batch(padding_value):
    utterances = speechlike()
    extractor = SeamlessM4TFeatureExtractor(padding_value=padding_value)
    expected = extractor(utterances, sampling_rate=16_000, return_tensors="pt")
    features, lengths = kaldi_log_mel(*padded(utterances, 0.0), padding_value=padding_value)
    assert lengths.tolist() == expected["attention_mask"].sum(-1).tolist()
    torch.testing.assert_close(features, expected["input_features"].float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("filling", [0.0, 0.5, float("nan")])
def test_kaldi_ignores_padding_and_companions(filling):
    utterances = speechlike(1)
    features, lengths = kaldi_log_mel(*padded(utterances, filling))
    for x, got, length in zip(utterances, features, lengths):
        alone, alone_length = kaldi_log_mel(torch.from_numpy(x)[None], torch.tensor([len(x)]))
        assert alone_length.item() == length.item()
        torch.testing.assert_close(got[: alone.shape[1]], alone[0], atol=1e-6, rtol=0)
        assert not got[alone.shape[1] :].any()


def test_kaldi_in_groups_of_rows_is_the_same(monkeypatch):
    batch = padded(speechlike(2), 0.0)
    whole, _ = kaldi_log_mel(*batch)
    monkeypatch.setattr("lst_fairseq.models.frontends.log_mel.FRAMES_AT_ONCE", 200)
    torch.testing.assert_close(kaldi_log_mel(*batch)[0], whole, atol=1e-6, rtol=0)


def test_kaldi_too_short_for_a_frame():
    features, lengths = kaldi_log_mel(torch.zeros(2, 399), torch.tensor([399, 10]))
    assert features.shape == (2, 0, 160) and lengths.tolist() == [0, 0]
    features, lengths = kaldi_log_mel(torch.rand(2, 1000), torch.tensor([399, 1000]))
    assert lengths.tolist() == [0, 2] and not features[0].any()


@pytest.mark.parametrize("mels,chunk_length", [(80, 1), (128, 2)])
def test_whisper_equals_the_extractor(mels, chunk_length):
    utterances = [*speechlike(3), np.tile(speechlike(3)[0], 3)]  # the last is longer than n_samples: cut
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=chunk_length)
    expected = extractor(utterances, sampling_rate=16_000, return_tensors="pt")["input_features"]
    batch, lengths = padded(utterances, 0.25)
    got = whisper_log_mel(batch, lengths, mel_filters=extractor.mel_filters, n_samples=extractor.n_samples)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = whisper_log_mel(batch, lengths, mel_filters=extractor.mel_filters, n_samples=extractor.n_samples)
    torch.testing.assert_close(cast, got, atol=0, rtol=0)
