"""Waveform to log-mel features in torch: batched, on whatever device the waveforms are on.

`kaldi_log_mel` is what w2v-BERT 2.0 reads (equal to transformers' SeamlessM4TFeatureExtractor), `whisper_log_mel` what
Whisper reads (equal to WhisperFeatureExtractor). Both give every utterance the features it has alone: neither its
batch companions nor its padding change them.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lst_fairseq.data.audio import SAMPLE_RATE

# Kaldi's analysis: 25 ms frames every 10 ms, padded to the next power of two for the FFT.
KALDI_FRAME = 400
KALDI_HOP = 160
KALDI_FFT = 512
KALDI_PREEMPHASIS = 0.97
KALDI_MEL_FLOOR = 1.192092955078125e-07

# Frames computed at once: bounds the memory of the float64 intermediates to some 200 MB.
FRAMES_AT_ONCE = 16_384


@lru_cache(maxsize=8)
def _kaldi_filters(num_mel_bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mel filters [257, num_mel_bins] and Povey window [400], both float64."""
    from transformers.audio_utils import mel_filter_bank, window_function

    filters = mel_filter_bank(
        num_frequency_bins=KALDI_FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=20,
        max_frequency=SAMPLE_RATE // 2,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    window = window_function(KALDI_FRAME, "povey", periodic=False)
    with torch.inference_mode(False):  # they may serve in training, too
        return torch.from_numpy(filters).to(device).double(), torch.from_numpy(window).to(device).double()


def _kaldi_log_power(waveforms: Tensor, num_mel_bins: int) -> Tensor:
    """Log mel energies, not normalised: [B, T] in [-1, 1] -> [B, frames, num_mel_bins], float64."""
    filters, window = _kaldi_filters(num_mel_bins, waveforms.device)
    frames = (waveforms.double() * 2**15).unfold(-1, KALDI_FRAME, KALDI_HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    # The first sample of a frame is taken as its own predecessor.
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - KALDI_PREEMPHASIS * previous) * window
    spectrum = torch.fft.rfft(frames, n=KALDI_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ filters).clamp(min=KALDI_MEL_FLOOR).log()


def kaldi_log_mel(
    waveforms: Tensor,
    lengths: Tensor,
    num_mel_bins: int = 80,
    stride: int = 2,
    padding_value: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Kaldi log-mel features, normalised per utterance and mel bin, `stride` frames stacked into one.

    waveforms      [B, T] float32 in [-1, 1], 16 kHz; whatever stands beyond an utterance's length is ignored
    lengths        [B] samples of each utterance
    padding_value  what fills the frames beyond an utterance's own, as the feature extractor's `padding_value`

    Returns features [B, N, stride * num_mel_bins] float32 and lengths [B] (int64), the number of stacked frames made of
    the utterance's own frames only. An utterance with one frame too many for its stride has that frame, completed by
    padding, after its valid ones, as in the feature extractor, whose attention mask excludes it too. 16 kHz and
    `stride=2` give 50 stacked frames a second. Under 400 samples there is no frame.
    """
    # float64, because the power of a quiet mel bin beside a loud one is lost in float32's rounding.
    batch, samples = waveforms.shape
    lengths = lengths.to(waveforms.device)
    num_frames = ((lengths - KALDI_FRAME).div(KALDI_HOP, rounding_mode="floor") + 1).clamp(min=0)
    longest = max(0, (samples - KALDI_FRAME) // KALDI_HOP + 1)
    if batch:
        longest = min(longest, int(num_frames.max()))
    total = -(-longest // stride) * stride
    features = waveforms.new_full((batch, total, num_mel_bins), padding_value, dtype=torch.float32)
    if longest:
        rows_at_once = max(1, FRAMES_AT_ONCE // longest)
        used = (longest - 1) * KALDI_HOP + KALDI_FRAME
        for start in range(0, batch, rows_at_once):
            rows = slice(start, start + rows_at_once)
            log_mel = _kaldi_log_power(waveforms[rows, :used], num_mel_bins)
            count = num_frames[rows, None, None]
            own = torch.arange(longest, device=waveforms.device)[None, :, None] < count
            # masked_fill, not a product: beyond its length a row may hold anything, NaN included.
            mean = log_mel.masked_fill(~own, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
            deviation = (log_mel - mean).masked_fill(~own, 0.0)
            variance = deviation.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
            normalised = (deviation / (variance + 1e-7).sqrt()).masked_fill(~own, padding_value)
            features[rows, :longest] = normalised.float()
    stacked = features.view(batch, total // stride, stride * num_mel_bins)
    return stacked, num_frames.div(stride, rounding_mode="floor")


def whisper_log_mel(
    waveforms: Tensor,
    lengths: Tensor,
    *,
    mel_filters: Tensor | np.ndarray,
    n_samples: int,
    n_fft: int = 400,
    hop: int = 160,
) -> Tensor:
    """Whisper's log-mel features of `n_samples` samples: shorter utterances are padded with silence, longer ones cut.

    waveforms    [B, T] float32 in [-1, 1], 16 kHz; whatever stands beyond an utterance's length is ignored
    lengths      [B] samples of each utterance
    mel_filters  [n_fft // 2 + 1, mels], as WhisperFeatureExtractor.mel_filters

    Returns [B, mels, n_samples // hop] float32: log10 energies, floored 8 below the utterance's maximum, about [-1, 1].
    """
    device = waveforms.device
    waveforms = waveforms[:, :n_samples].float()
    own = torch.arange(waveforms.shape[1], device=device) < lengths.to(device)[:, None]
    waveforms = F.pad(waveforms.masked_fill(~own, 0.0), (0, n_samples - waveforms.shape[1]))
    filters = torch.as_tensor(mel_filters).to(device, torch.float32)
    # Autocast would round the product with the filters to 8 bits of mantissa.
    with torch.autocast(device.type, enabled=False):
        window = torch.hann_window(n_fft, device=device)
        spectrum = torch.stft(waveforms, n_fft, hop, window=window, return_complex=True)[..., :-1]
        log_mel = (filters.T @ spectrum.abs().square()).clamp(min=1e-10).log10()
    log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
    return (log_mel + 4.0) / 4.0
