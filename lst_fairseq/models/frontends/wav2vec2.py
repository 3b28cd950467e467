"""wav2vec 2.0 (raw waveform) and w2v-BERT 2.0 (stacked log-mel) frontends, 50 feature vectors a second."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, Wav2Vec2BertModel, Wav2Vec2Model

from lst_fairseq.models.features import kaldi_log_mel
from lst_fairseq.models.frontends.base import SpeechFrontend, register_frontend
from lst_fairseq.models.pretrained import load_pretrained

#: Added to the variance by Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm.
VARIANCE_FLOOR = 1e-7


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """Bool [B, size]: True where a row has content."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def normalise_waveforms(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over each row's own samples; the padding stays zero.

    As Wav2Vec2FeatureExtractor does for one utterance, for a whole batch on its device.

    Args:
        waveforms: float32 [B, T].
        lengths: LongTensor [B].
    """
    mask = padding_mask(lengths, waveforms.size(1))
    counts = lengths.unsqueeze(1)
    mean = waveforms.masked_fill(~mask, 0).sum(dim=1, keepdim=True) / counts
    centred = (waveforms - mean).masked_fill(~mask, 0)
    variance = centred.square().sum(dim=1, keepdim=True) / counts
    return centred / torch.sqrt(variance + VARIANCE_FLOOR)


@register_frontend("wav2vec2")
class Wav2Vec2Frontend(SpeechFrontend):
    """wav2vec 2.0 (Baevski et al., 2020), pretrained or with a CTC head, which is dropped.

    Scaling follows the directory's preprocessor_config.json (``do_normalize``). Models whose first convolution is
    group-normalised (base) were trained without a mask: their features depend on a batch's padding.
    """

    unused = ("masked_spec_embed",)

    def __init__(self, model: PreTrainedModel, preprocessor: dict[str, Any]):
        super().__init__(model, preprocessor)
        self.normalise = preprocessor.get("do_normalize", True)

    @classmethod
    def load_encoder(cls, directory: Path, config: PretrainedConfig) -> PreTrainedModel:
        return load_pretrained(Wav2Vec2Model, directory, config, cls.unused)

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        return self.model._get_feat_extract_output_lengths(n_samples).clamp(min=1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = waveforms.float()
        shortest = self._receptive_field()
        if waveforms.size(1) < shortest:
            waveforms = torch.nn.functional.pad(waveforms, (0, shortest - waveforms.size(1)))
        if self.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        # A row shorter than the receptive field still gives one vector, over its padding.
        mask = padding_mask(lengths.clamp(min=shortest), waveforms.size(1))
        output = self.model(waveforms.to(self.dtype), attention_mask=mask.long())
        return output.last_hidden_state, self.output_lengths(lengths)

    def _receptive_field(self) -> int:
        """Samples that one feature vector sees: the shortest input that the convolutions accept."""
        field, step = 1, 1
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field


@register_frontend("wav2vec2-bert")
class Wav2Vec2BertFrontend(SpeechFrontend):
    """w2v-BERT 2.0 (Communication et al., 2023): 80 log-mels, two frames stacked, conformer."""

    unused = ("masked_spec_embed",)
    window, hop = 400, 160

    def __init__(self, model: PreTrainedModel, preprocessor: dict[str, Any]):
        super().__init__(model, preprocessor)
        self.stride: int = preprocessor.get("stride", 2)
        self.num_mel_bins: int = preprocessor.get("num_mel_bins", 80)
        if self.stride * self.num_mel_bins != model.config.feature_projection_input_dim:
            raise ValueError(
                f"preprocessor_config.json makes {self.stride} x {self.num_mel_bins} features and config.json "
                f"expects {model.config.feature_projection_input_dim}"
            )
        if model.config.add_adapter:
            raise ValueError("a w2v-BERT with its own adapter (add_adapter) is not supported; use one without")

    @classmethod
    def load_encoder(cls, directory: Path, config: PretrainedConfig) -> PreTrainedModel:
        return load_pretrained(Wav2Vec2BertModel, directory, config, cls.unused)

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        frames = (n_samples - self.window).div(self.hop, rounding_mode="floor") + 1
        return frames.div(self.stride, rounding_mode="floor").clamp(min=1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # Two frames are the least that make one feature vector; shorter rows see their zero padding.
        shortest = self.window + (self.stride - 1) * self.hop
        waveforms = waveforms.float()
        if waveforms.size(1) < shortest:
            waveforms = torch.nn.functional.pad(waveforms, (0, shortest - waveforms.size(1)))
        features, feature_lengths = kaldi_log_mel(
            waveforms, lengths.clamp(min=shortest), num_mel_bins=self.num_mel_bins, stride=self.stride
        )
        mask = padding_mask(feature_lengths, features.size(1))
        output = self.model(features.to(self.dtype), attention_mask=mask.long())
        return output.last_hidden_state, feature_lengths
