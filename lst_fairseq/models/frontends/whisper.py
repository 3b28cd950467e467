"""Whisper's encoder as a frontend: log-mels of a 30 s window or of the true length, 50 feature vectors a second."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lst_fairseq.models.frontends.base import register_frontend
from lst_fairseq.models.frontends.log_mel import whisper_log_mel
from lst_fairseq.models.frontends.pretrained_frontend import PretrainedFrontend, span_mask
from lst_fairseq.utils.masks import padding_mask


@register_frontend("whisper")
class WhisperFrontend(PretrainedFrontend):
    """Encoder of Whisper (Radford et al., 2022); the decoder is neither built nor loaded.

    Whisper was trained on windows of 30 s (``max_source_positions``) with no mask. With ``options.window`` ``exact``
    each utterance is padded to a whole window and the feature vectors of its true length are kept. With ``trim`` only
    the true length is encoded: the log-mels are those of the padded window, cut to the utterance's own, and positions
    beyond it are masked; that is several times faster for short speech, but nothing the pretrained encoder has seen.
    Speech longer than a window goes through consecutive windows. A row never depends on its batch companions.
    """

    model_class = "transformers.models.whisper.modeling_whisper:WhisperEncoder"
    key_mapping: ClassVar[dict[str, str]] = {r"^(model\.)?encoder\.": ""}
    layer_count = "encoder_layers"

    def __init__(self, *args: Any, **kwargs: Any):
        from transformers import WhisperFeatureExtractor

        super().__init__(*args, **kwargs)
        n_mels = self.config.num_mel_bins
        extractor = WhisperFeatureExtractor(**{"feature_size": n_mels, **self.preprocessor})
        if extractor.feature_size != n_mels:
            raise ValueError(
                f"preprocessor_config.json makes {extractor.feature_size} log-mels and config.json expects {n_mels}"
            )
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        # The second convolution of the encoder halves the frame rate.
        self.samples_per_vector = 2 * self.hop
        self.window_samples = self.config.max_source_positions * self.samples_per_vector
        self.mel_filters = extractor.mel_filters

    def drop_what_follows_the_layers(self) -> None:
        self.model.layer_norm = nn.Identity()

    def layers(self) -> list[nn.Module]:
        return list(self.model.layers)

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        rounded_up = (n_samples + self.samples_per_vector - 1).div(self.samples_per_vector, rounding_mode="floor")
        return rounded_up.clamp(min=1)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = waveforms.float()
        n_windows = -(-waveforms.size(1) // self.window_samples)
        waveforms = nn.functional.pad(waveforms, (0, n_windows * self.window_samples - waveforms.size(1)))
        windows = waveforms.view(-1, self.window_samples)  # [B * n_windows, window], a row's windows in order
        starts = torch.arange(n_windows, device=lengths.device) * self.window_samples
        window_lengths = (lengths.unsqueeze(1) - starts).clamp(0, self.window_samples).view(-1)
        # Windows that hold padding only are not encoded; their vectors lie beyond the row's length anyway.
        used = (window_lengths > 0).nonzero().squeeze(1)
        encoded = self._encode_windows(windows[used], window_lengths[used])
        # Rows of several windows have all but the last full, so that their vectors stand side by side.
        n_vectors = self.config.max_source_positions if n_windows > 1 else encoded.size(1)
        features = encoded.new_zeros(windows.size(0), n_vectors, self.output_dim)
        features[used, : encoded.size(1)] = encoded
        feature_lengths = self.output_lengths(lengths)
        features = features.view(lengths.size(0), -1, self.output_dim)[:, : int(feature_lengths.max())]
        return features, feature_lengths

    def _encode_windows(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms [W, window] of the given lengths -> [W, N, output_dim], N for the longest or the whole window."""
        n_samples = self.window_samples
        n_vectors = self.output_lengths(lengths)
        if self.options.window == "trim":
            # One vector more of silence: the analysis mirrors what stands at the end, which must not be speech.
            n_samples = min(n_samples, (int(n_vectors.max()) + 1) * self.samples_per_vector)
        log_mels = whisper_log_mel(
            windows, lengths, mel_filters=self.mel_filters, n_samples=n_samples, n_fft=self.n_fft, hop=self.hop
        )
        log_mels = self._augment(log_mels, 2 * n_vectors).to(self.dtype)
        if self.options.window == "exact":
            return self.model(log_mels).last_hidden_state
        return self._encode_own(log_mels[..., : 2 * int(n_vectors.max())], n_vectors)

    def _encode_own(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        """transformers' WhisperEncoder.forward for any length and with a mask: [W, mels, 2 N], lengths [W]."""
        from transformers.masking_utils import create_bidirectional_mask

        model = self.model
        # Only the first convolution reads beyond a row's end: the second one's last input is the row's last frame.
        log_mels = log_mels.masked_fill(~padding_mask(2 * lengths, log_mels.size(2)).unsqueeze(1), 0)
        hidden = nn.functional.gelu(model.conv1(log_mels))
        hidden = nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.size(1)]
        hidden = nn.functional.dropout(hidden, p=model.dropout, training=self.training)
        mask = create_bidirectional_mask(
            config=model.config, inputs_embeds=hidden, attention_mask=padding_mask(lengths, hidden.size(1))
        )
        for layer in model.layers:
            if not (self.training and torch.rand(()) < model.layerdrop):
                hidden = layer(hidden, mask)
        return model.layer_norm(hidden)

    def _augment(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        """SpecAugment in train mode where config.json asks for it: [W, mels, T], lengths [W] in frames."""
        config = self.model.config
        if not (self.training and config.apply_spec_augment):
            return log_mels
        time = self.time_mask(lengths, log_mels.size(2))
        if time is not None:
            log_mels = log_mels.masked_fill(time.unsqueeze(1), 0)
        if config.mask_feature_prob > 0:
            rows, n_mels, _ = log_mels.shape
            channels = span_mask(
                [n_mels] * rows,
                n_mels,
                config.mask_feature_prob,
                config.mask_feature_length,
                config.mask_feature_min_masks,
            )
            log_mels = log_mels.masked_fill(channels.to(log_mels.device).unsqueeze(2), 0)
        return log_mels
