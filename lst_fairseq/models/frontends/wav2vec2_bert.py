"""w2v-BERT 2.0 and SeamlessM4T v2's speech encoder: stacked log-mels through a conformer, 50 vectors a second."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lst_fairseq.models.frontends.base import register_frontend
from lst_fairseq.models.frontends.log_mel import KALDI_FRAME, KALDI_HOP, kaldi_log_mel
from lst_fairseq.models.frontends.pretrained_frontend import PretrainedFrontend
from lst_fairseq.utils.masks import padding_mask


@register_frontend("wav2vec2-bert")
class Wav2Vec2BertFrontend(PretrainedFrontend):
    """w2v-BERT 2.0 (Communication et al., 2023): 80 log-mels, two frames stacked, conformer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stride: int = self.preprocessor.get("stride", 2)
        self.num_mel_bins: int = self.preprocessor.get("num_mel_bins", 80)
        if self.stride * self.num_mel_bins != self.config.feature_projection_input_dim:
            raise ValueError(
                f"preprocessor_config.json makes {self.stride} x {self.num_mel_bins} features and config.json "
                f"expects {self.config.feature_projection_input_dim}"
            )

    def drop_what_follows_the_layers(self) -> None:
        self.model.intermediate_ffn = None

    def output_lengths(self, n_samples: Tensor) -> Tensor:
        frames = (n_samples - KALDI_FRAME).div(KALDI_HOP, rounding_mode="floor") + 1
        return frames.div(self.stride, rounding_mode="floor").clamp(min=1)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # As many frames as are stacked make one feature vector; shorter rows see their zero padding.
        shortest = KALDI_FRAME + (self.stride - 1) * KALDI_HOP
        waveforms = waveforms.float()
        if waveforms.size(1) < shortest:
            waveforms = nn.functional.pad(waveforms, (0, shortest - waveforms.size(1)))
        log_mels, feature_lengths = kaldi_log_mel(
            waveforms, lengths.clamp(min=shortest), num_mel_bins=self.num_mel_bins, stride=self.stride
        )
        return self.encode_log_mels(log_mels.to(self.dtype), feature_lengths), feature_lengths

    def encode_log_mels(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        """Stacked log-mels [B, N, stride * mels] and lengths [B] -> features [B, N, output_dim]."""
        return self.model(
            log_mels,
            attention_mask=padding_mask(lengths, log_mels.size(1)).long(),
            mask_time_indices=self.time_mask(lengths, log_mels.size(1)),
        ).last_hidden_state


@register_frontend("seamless_m4t_v2")
class SeamlessFrontend(Wav2Vec2BertFrontend):
    """The conformer of SeamlessM4T v2's speech encoder (Communication et al., 2023), a fine-tuned w2v-BERT 2.0.

    Its output is taken before SeamlessM4T's own length adapter: that is the adapter itself, and the feed-forward
    module before and the norm behind it, which were trained around it. Text encoder, decoders and vocoder are neither
    built nor loaded. There is no time masking in this model.
    """

    model_class = "transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2:SeamlessM4Tv2SpeechEncoder"
    key_mapping: ClassVar[dict[str, str]] = {r"^speech_encoder\.": ""}
    layer_count = "speech_encoder_layers"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.intermediate_ffn = self.model.inner_layer_norm = None

    def drop_what_follows_the_layers(self) -> None:
        self.model.encoder.layer_norm = nn.Identity()

    def encode_log_mels(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        mask = padding_mask(lengths, log_mels.size(1)).long()
        return self.model.encoder(self.model.feature_projection(log_mels), attention_mask=mask)
