"""Stacked frames and two linear layers, as in SLAM-ASR."""

from typing import Any

from torch import Tensor, nn

from lst_fairseq.models.adapters.base import positive, register_adapter
from lst_fairseq.models.adapters.projection import ProjectedAdapter, embedding_scale
from lst_fairseq.models.frontends.base import SpeechFrontend
from lst_fairseq.utils.masks import padding_mask


@register_adapter("stack")
class StackAdapter(ProjectedAdapter):
    """Concatenates ``stack`` consecutive frames, then Linear, ReLU, Linear (Ma et al., 2024, with 5 frames).

    A row's last group is completed with zeros; SLAM-ASR's code drops its frames instead.
    """

    def __init__(self, input_dim: int, stack: int, channels: int, output_dim: int, norm: str, scale: float = 1.0):
        super().__init__()
        self.stack = stack
        self.hidden = nn.Linear(stack * input_dim, channels)
        self.add_projection(channels, output_dim, norm, scale)

    @classmethod
    def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "StackAdapter":
        stack, channels = positive(cfg, "adapter_stack"), positive(cfg, "adapter_channels")
        scale = embedding_scale(embeddings)
        return cls(frontend.output_dim, stack, channels, embeddings.size(1), cfg.adapter_norm, scale)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths - 1).div(self.stack, rounding_mode="floor") + 1

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows, size, width = features.shape
        x = features.masked_fill(~padding_mask(lengths, size).unsqueeze(2), 0)
        x = nn.functional.pad(x, (0, 0, 0, -size % self.stack))
        x = x.reshape(rows, -1, self.stack * width)  # [B, M, stack * D]
        return self.project(nn.functional.relu(self.hidden(x))), self.output_lengths(lengths)
