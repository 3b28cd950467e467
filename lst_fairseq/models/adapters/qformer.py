"""Window-level Q-Former, as in SALMONN: learned queries that attend to one window of frames at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from lst_fairseq.models.adapters.base import positive, register_adapter
from lst_fairseq.models.adapters.projection import ProjectedAdapter, embedding_scale
from lst_fairseq.models.frontends.base import SpeechFrontend
from lst_fairseq.utils.masks import padding_mask


@register_adapter("qformer")
class QFormerAdapter(ProjectedAdapter):
    """The same queries attend to each window of frames through BLIP-2's Q-Former, then a linear layer.

    As in SALMONN (Tang et al., 2024): a layer norm on the features, cross attention in every layer, and by default 2
    layers and 1 query a window. A row's last window holds what frames are left. ::

        frames    |--- window ---|--- window ---|-- rest --|      at 50 frames a second, 15 are 0.3 s
        outputs      q_1 .. q_Q     q_1 .. q_Q   q_1 .. q_Q
    """

    def __init__(
        self,
        input_dim: int,
        channels: int,
        output_dim: int,
        window: int,
        queries: int,
        layers: int,
        heads: int,
        norm: str,
        scale: float = 1.0,
    ):
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__()
        self.window = window
        config = Blip2QFormerConfig(
            hidden_size=channels,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * channels,
            encoder_hidden_size=input_dim,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
        self.input_norm = nn.LayerNorm(input_dim)
        # Not zeros: the queries have no positions, so equal ones would stay equal.
        self.queries = nn.Parameter(config.initializer_range * torch.randn(queries, channels))
        self.qformer = Blip2QFormerModel(config)
        self.add_projection(channels, output_dim, norm, scale)

    @classmethod
    def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "QFormerAdapter":
        channels, heads = positive(cfg, "adapter_channels"), positive(cfg, "adapter_heads")
        if channels % heads:
            valid = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
            raise ValueError(f"--adapter-heads {heads}: does not divide --adapter-channels {channels}; valid: {valid}")
        return cls(
            frontend.output_dim,
            channels,
            embeddings.size(1),
            positive(cfg, "adapter_window"),
            positive(cfg, "adapter_queries"),
            positive(cfg, "adapter_layers"),
            heads,
            cfg.adapter_norm,
            embedding_scale(embeddings),
        )

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return ((lengths - 1).div(self.window, rounding_mode="floor") + 1) * self.queries.size(0)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows, size, width = features.shape
        x = self.input_norm(features.masked_fill(~padding_mask(lengths, size).unsqueeze(2), 0))
        x = nn.functional.pad(x, (0, 0, 0, -size % self.window))
        x = x.reshape(-1, self.window, width)  # [B * windows, W, D]
        first = torch.arange(0, size, self.window, device=lengths.device)
        # A window that is padding altogether keeps one frame, which holds no NaN: attention to nothing would be NaN.
        frames = (lengths.unsqueeze(1) - first).clamp(1, self.window).flatten()
        # In four dimensions, since transformers reads the values of a mask in two, and a GPU would be waited for.
        mask = padding_mask(frames, self.window)[:, None, None]
        queries = self.queries.expand(x.size(0), -1, -1)
        out = self.qformer(query_embeds=queries, encoder_hidden_states=x, encoder_attention_mask=mask)
        out = out.last_hidden_state.reshape(rows, -1, self.queries.size(1))  # [B, windows * Q, C]
        return self.project(out), self.output_lengths(lengths)
