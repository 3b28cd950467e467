"""LST's adapter: strided convolutions with GLU (length), then a linear layer (modality)."""

from typing import Any

import torch
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from torch import Tensor, nn

from lst_fairseq.models.adapters.base import SpeechAdapter, register_adapter

NORMS = ("none", "embedding")


@register_adapter("conv")
class ConvAdapter(SpeechAdapter):
    """fairseq's Conv1dSubsampler, with padding masked before each convolution, and a linear layer.

    ``norm="none"`` is the paper's adapter. ``norm="embedding"`` puts a layer norm before the linear layer and scales
    its output to the standard deviation of the LLM's embedding table: Adam's step is about the learning rate whatever
    the scale of a weight, and a linear layer whose output must be as small as an embedding would be overrun by it.
    """

    def __init__(
        self, input_dim: int, channels: int, output_dim: int, kernel_sizes: list[int], norm: str, scale: float = 1.0
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"--adapter-norm {norm}: unknown; known: {', '.join(NORMS)}")
        # Conv1dSubsampler takes the width of its last GLU's output.
        self.subsampler = Conv1dSubsampler(input_dim, channels, channels, kernel_sizes)
        self.norm = nn.LayerNorm(channels) if norm == "embedding" else nn.Identity()
        self.projection = nn.Linear(channels, output_dim)
        # A buffer, not derived anew: stage 2 changes the embedding table, and the scale must stay what it was.
        self.register_buffer("scale", torch.tensor(scale if norm == "embedding" else 1.0))

    @classmethod
    def from_config(cls, cfg: Any, input_dim: int, embeddings: Tensor) -> "ConvAdapter":
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
        # In bulk, since a table of 128,000 rows in half precision overflows a sum of squares.
        scale = embeddings.detach().float().std().item()
        return cls(input_dim, cfg.adapter_channels, embeddings.size(1), kernel_sizes, cfg.adapter_norm, scale)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for _ in self.subsampler.conv_layers:
            lengths = (lengths - 1).div(2, rounding_mode="floor") + 1
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transpose(1, 2)  # [B, C, N]
        for conv in self.subsampler.conv_layers:
            # Zeros, as the convolution's own padding: a row's end looks the same alone and in a batch.
            padding = torch.arange(x.size(2), device=x.device) >= lengths.unsqueeze(1)
            x = nn.functional.glu(conv(x.masked_fill(padding.unsqueeze(1), 0)), dim=1)
            lengths = (lengths - 1).div(2, rounding_mode="floor") + 1
        x = self.projection(self.norm(x.transpose(1, 2)))
        return x * self.scale.to(x.dtype), lengths
