"""The last step that adapters share: a linear layer to the LLM's width, normalised or not."""

import torch
from torch import Tensor, nn

from lst_fairseq.models.adapters.base import NORMS, SpeechAdapter


class ProjectedAdapter(SpeechAdapter):
    """Base class of adapters that end in a linear layer: ``norm``, ``projection`` and ``scale`` in their state dicts.

    ``norm="none"`` is the linear layer alone. ``norm="embedding"`` puts a layer norm before it and scales its output to
    the standard deviation of the LLM's embeddings: Adam's step is about the learning rate whatever the scale of a
    weight, and a linear layer whose output must be as small as an embedding would be overrun by it.
    """

    def add_projection(self, input_dim: int, output_dim: int, norm: str, scale: float = 1.0) -> None:
        """Create the layers; to be called once, after the adapter's own ones.

        Args:
            input_dim: width of what ``project`` takes.
            output_dim: width E of the LLM's embeddings.
            norm: one of NORMS.
            scale: standard deviation of the LLM's embeddings, as ``embedding_scale`` gives it.

        Raises:
            ValueError: ``norm`` is unknown.
        """
        if norm not in NORMS:
            raise ValueError(f"--adapter-norm {norm}: unknown; known: {', '.join(NORMS)}")
        self.norm = nn.LayerNorm(input_dim) if norm == "embedding" else nn.Identity()
        self.projection = nn.Linear(input_dim, output_dim)
        # A buffer, not derived anew: stage 2 changes the embeddings, and the scale must stay what it was.
        self.register_buffer("scale", torch.tensor(scale if norm == "embedding" else 1.0))

    def project(self, x: Tensor) -> Tensor:
        """[B, M, input_dim] -> [B, M, E]."""
        x = self.projection(self.norm(x))
        return x * self.scale.to(x.dtype)


def embedding_scale(embeddings: Tensor) -> float:
    """Standard deviation of the LLM's embeddings [V, E]."""
    # In float: the squares of a table of 128,000 rows overflow half precision when they are summed.
    return embeddings.detach().float().std().item()
