"""wav2vec 2.0 and its kin: raw waveforms through convolutions and a Transformer, 50 feature vectors a second."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lst_fairseq.models.frontends.base import register_frontend
from lst_fairseq.models.frontends.pretrained_frontend import PretrainedFrontend
from lst_fairseq.utils.masks import padding_mask

#: Added to the variance by Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm.
VARIANCE_FLOOR = 1e-7


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


def own_group_norm(norm: nn.GroupNorm, hidden: Tensor, mask: Tensor) -> Tensor:
    """Group normalisation with one channel a group, over each row's own positions: [B, C, T], mask [B, T]."""
    with torch.autocast(hidden.device.type, enabled=False):
        mask = mask.unsqueeze(1)
        counts = mask.sum(dim=2, keepdim=True)
        full = hidden.float()
        mean = full.masked_fill(~mask, 0).sum(dim=2, keepdim=True) / counts
        centred = (full - mean).masked_fill(~mask, 0)
        variance = centred.square().sum(dim=2, keepdim=True) / counts
        scale = norm.weight.float().unsqueeze(1) * torch.rsqrt(variance + norm.eps)
        return (centred * scale + norm.bias.float().unsqueeze(1)).to(hidden.dtype)


def conv_lengths(lengths: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Positions after unpadded convolutions, LongTensor [B] -> LongTensor [B]."""
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
    return lengths


@register_frontend("wav2vec2-conformer")
@register_frontend("unispeech-sat")
@register_frontend("unispeech")
@register_frontend("data2vec-audio")
@register_frontend("wavlm")
@register_frontend("hubert")
@register_frontend("wav2vec2")
class Wav2Vec2Frontend(PretrainedFrontend):
    """wav2vec 2.0 (Baevski et al., 2020), HuBERT, WavLM, data2vec and others built alike, pretrained or with a head.

    Scaling follows the directory's preprocessor_config.json (``do_normalize``). transformers lets a row's padding into
    three places, which are seen to here: the first convolution's group normalisation (base models), data2vec's stacked
    positional convolutions, and the convolutions of the conformer. So a row of any padded batch gets what it gets
    alone, also from models whose preprocessor says ``return_attention_mask: false``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.normalise: bool = self.preprocessor.get("do_normalize", True)
        # These masks stay until the next batch: gradient checkpointing runs the hooked modules again in backward.
        self._first_mask: Tensor | None = None
        self._mask: Tensor | None = None
        if getattr(self.config, "feat_extract_norm", None) == "group":
            self.model.feature_extractor.conv_layers[0].layer_norm.register_forward_hook(self._own_norm)
        for module in self.model.encoder.modules():
            if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1:
                module.register_forward_pre_hook(self._zero_padding)

    def _own_norm(self, norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return own_group_norm(norm, inputs[0], self._first_mask)

    def _zero_padding(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].masked_fill(~self._mask.unsqueeze(1), 0),)

    def drop_what_follows_the_layers(self) -> None:
        # Elsewhere encoder.layer_norm stands before the layers.
        if getattr(self.config, "do_stable_layer_norm", False) or self.config.model_type == "wav2vec2-conformer":
            self.model.encoder.layer_norm = nn.Identity()

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        return conv_lengths(n_samples, self.config.conv_kernel, self.config.conv_stride).clamp(min=1)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        waveforms = waveforms.float()
        shortest = self._receptive_field()
        if waveforms.size(1) < shortest:
            waveforms = nn.functional.pad(waveforms, (0, shortest - waveforms.size(1)))
        if self.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        # A row shorter than the receptive field still gives one vector, over its padding.
        seen = lengths.clamp(min=shortest)
        kernels, strides = self.config.conv_kernel, self.config.conv_stride
        size = torch.tensor(waveforms.size(1))
        first_lengths = conv_lengths(seen, kernels[:1], strides[:1])
        self._first_mask = padding_mask(first_lengths, int(conv_lengths(size, kernels[:1], strides[:1])))
        feature_lengths = self.output_lengths(seen)
        self._mask = padding_mask(feature_lengths, int(self.output_lengths(size)))
        output = self.model(
            waveforms.to(self.dtype),
            attention_mask=padding_mask(seen, waveforms.size(1)).long(),
            mask_time_indices=self.time_mask(feature_lengths, self._mask.size(1)),
        )
        return output.last_hidden_state, feature_lengths

    def _receptive_field(self) -> int:
        """Samples that one feature vector sees: the shortest input that the convolutions accept."""
        field, step = 1, 1
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field
