"""LST's adapter: strided convolutions with GLU (length), then a linear layer (modality)."""

from typing import Any

from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from torch import Tensor, nn

from lst_fairseq.models.adapters.base import register_adapter
from lst_fairseq.models.adapters.projection import ProjectedAdapter, embedding_scale
from lst_fairseq.models.frontends.base import SpeechFrontend
from lst_fairseq.utils.masks import padding_mask


@register_adapter("conv")
class ConvAdapter(ProjectedAdapter):
    """fairseq's Conv1dSubsampler, with padding masked before each convolution, and a linear layer.

    The paper's adapter is the one with ``norm="none"``.
    """

    def __init__(
        self, input_dim: int, channels: int, output_dim: int, kernel_sizes: list[int], norm: str, scale: float = 1.0
    ):
        super().__init__()
        # Conv1dSubsampler takes the width of its last GLU's output.
        self.subsampler = Conv1dSubsampler(input_dim, channels, channels, kernel_sizes)
        self.add_projection(channels, output_dim, norm, scale)

    @classmethod
    def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "ConvAdapter":
        try:
            kernel_sizes = [int(size) for size in str(cfg.adapter_kernel_sizes).split(",")]
        except ValueError:
            kernel_sizes = []
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(
                f"--adapter-kernel-sizes {cfg.adapter_kernel_sizes}: give odd numbers joined by commas, such as 3,3"
            )
        if cfg.adapter_channels < 2 or cfg.adapter_channels % 2:
            raise ValueError(
                f"--adapter-channels {cfg.adapter_channels}: give an even number, since gated linear units halve it"
            )
        scale = embedding_scale(embeddings)
        channels = cfg.adapter_channels
        return cls(frontend.output_dim, channels, embeddings.size(1), kernel_sizes, cfg.adapter_norm, scale)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for _ in self.subsampler.conv_layers:
            lengths = (lengths - 1).div(2, rounding_mode="floor") + 1
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transpose(1, 2)  # [B, C, N]
        for conv in self.subsampler.conv_layers:
            # Zeros, as the convolution's own padding: a row's end looks the same alone and in a batch.
            real = padding_mask(lengths, x.size(2)).unsqueeze(1)
            x = nn.functional.glu(conv(x.masked_fill(~real, 0)), dim=1)
            lengths = (lengths - 1).div(2, rounding_mode="floor") + 1
        return self.project(x.transpose(1, 2)), lengths
