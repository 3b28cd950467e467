"""Whisper's encoder as a frontend: log-mels padded to the window it was trained on, 50 feature vectors a second."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, WhisperFeatureExtractor, WhisperModel

from lst_fairseq.models.features import whisper_log_mel
from lst_fairseq.models.frontends.base import SpeechFrontend, register_frontend
from lst_fairseq.models.pretrained import load_pretrained


@register_frontend("whisper")
class WhisperFrontend(SpeechFrontend):
    """Encoder of Whisper (Radford et al., 2022); the decoder is dropped.

    Whisper was trained on windows of 30 s (``max_source_positions``) with no mask, so that each utterance is padded
    to a whole window and the feature vectors of its true length are kept: a row never depends on its batch companions.
    Speech longer than a window goes through consecutive windows.
    """

    def __init__(self, model: PreTrainedModel, preprocessor: dict[str, Any]):
        super().__init__(model, preprocessor)
        extractor = WhisperFeatureExtractor(**{"feature_size": model.config.num_mel_bins, **preprocessor})
        if extractor.feature_size != model.config.num_mel_bins:
            raise ValueError(
                f"preprocessor_config.json makes {extractor.feature_size} log-mels and config.json expects "
                f"{model.config.num_mel_bins}"
            )
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        # The second convolution of the encoder halves the frame rate.
        self.samples_per_vector = 2 * self.hop
        self.window_samples = model.config.max_source_positions * self.samples_per_vector
        self.mel_filters = extractor.mel_filters

    @classmethod
    def load_encoder(cls, directory: Path, config: PretrainedConfig) -> PreTrainedModel:
        return load_pretrained(WhisperModel, directory, config, cls.unused).encoder

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        rounded_up = (n_samples + self.samples_per_vector - 1).div(self.samples_per_vector, rounding_mode="floor")
        return rounded_up.clamp(min=1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = waveforms.float()
        n_windows = -(-waveforms.size(1) // self.window_samples)
        waveforms = nn.functional.pad(waveforms, (0, n_windows * self.window_samples - waveforms.size(1)))
        windows = waveforms.view(-1, self.window_samples)  # [B * n_windows, window], a row's windows in order
        starts = torch.arange(n_windows, device=lengths.device) * self.window_samples
        window_lengths = (lengths.unsqueeze(1) - starts).clamp(0, self.window_samples).view(-1)
        # Windows that hold padding only are not encoded; their vectors lie beyond the row's length anyway.
        used = (window_lengths > 0).nonzero().squeeze(1)
        log_mels = whisper_log_mel(
            windows[used],
            window_lengths[used],
            mel_filters=self.mel_filters,
            n_samples=self.window_samples,
            n_fft=self.n_fft,
            hop=self.hop,
        )
        encoded = self.model(log_mels.to(self.dtype)).last_hidden_state
        features = encoded.new_zeros(windows.size(0), *encoded.shape[1:]).index_copy(0, used, encoded)
        feature_lengths = self.output_lengths(lengths)
        features = features.view(lengths.size(0), -1, self.output_dim)[:, : int(feature_lengths.max())]
        return features, feature_lengths
