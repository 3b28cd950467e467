"""What every adapter offers, and the registry that finds one by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

ADAPTERS: dict[str, type["SpeechAdapter"]] = {}


def register_adapter(name: str) -> Callable[[type["SpeechAdapter"]], type["SpeechAdapter"]]:
    """Class decorator: ``--adapter NAME`` selects this class."""

    def register(cls: type["SpeechAdapter"]) -> type["SpeechAdapter"]:
        ADAPTERS[name] = cls
        return cls

    return register


class SpeechAdapter(nn.Module):
    """Base class: shortens the frontend's features and maps them to the LLM's width.

    Padding must never reach a real frame: a row gives the same output alone and in any batch.
    """

    @classmethod
    def from_config(cls, cfg: Any, input_dim: int, embeddings: Tensor) -> "SpeechAdapter":
        """Build from the model's configuration.

        Args:
            cfg: the model's LstModelConfig.
            input_dim: width of the frontend's features.
            embeddings: the LLM's embedding table [V, E], for its width and scale.
        """
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """LongTensor [B] of input lengths -> LongTensor [B] of output lengths, at least 1."""
        raise NotImplementedError

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features [B, N, input_dim], lengths [B] -> embeddings [B, M, E], lengths [B]."""
        raise NotImplementedError


def build_adapter(cfg: Any, input_dim: int, embeddings: Tensor) -> SpeechAdapter:
    """The adapter that ``cfg.adapter`` names; an unknown name is an error that lists the known ones."""
    if cfg.adapter not in ADAPTERS:
        raise ValueError(f"--adapter {cfg.adapter}: unknown; known: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[cfg.adapter].from_config(cfg, input_dim, embeddings)
