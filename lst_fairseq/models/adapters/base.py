"""What every adapter offers, and the registry that finds one by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lst_fairseq.models.frontends.base import SpeechFrontend

#: Choices of --adapter-norm; see projection.py.
NORMS = ("none", "embedding")

ADAPTERS: dict[str, type["SpeechAdapter"]] = {}


def register_adapter(name: str) -> Callable[[type["SpeechAdapter"]], type["SpeechAdapter"]]:
    """Class decorator: ``--adapter NAME`` selects this class.

    Raises:
        ValueError: the name is taken.
    """

    def register(cls: type["SpeechAdapter"]) -> type["SpeechAdapter"]:
        if name in ADAPTERS:
            raise ValueError(f"adapter {name}: registered already, by {ADAPTERS[name].__module__}; take another name")
        ADAPTERS[name] = cls
        return cls

    return register


class SpeechAdapter(nn.Module):
    """Base class: shortens the frontend's features and maps them to the LLM's width.

    A new adapter is one file in this folder with one decorated class; files here are found and registered by
    themselves, and those outside when something imports them::

        @register_adapter("mean")                       # --adapter mean
        class MeanAdapter(ProjectedAdapter):            # or SpeechAdapter, where the last step is no linear layer
            def __init__(self, input_dim, output_dim, norm, scale): ...
            @classmethod
            def from_config(cls, cfg, frontend, embeddings): ...
            def output_lengths(self, lengths): ...
            def forward(self, features, lengths): ...

    Its settings are fields of LstModelConfig, which fairseq makes flags of; ``positive`` reads those that count things.

    Padding must never reach a real frame: a row gives the same output alone and in any batch, whatever its padding
    holds, and its gradient does not reach the padding. Positions beyond a row's output length must be finite, since the
    LLM masks them and does not leave them out.

    Attributes:
        needs_ctc: whether ``forward`` takes the frontend's CTC labels as a third argument; the model then keeps the
            frontend's CTC head.
    """

    needs_ctc: bool = False

    @classmethod
    def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "SpeechAdapter":
        """Build from the model's configuration.

        Args:
            cfg: the model's LstModelConfig.
            frontend: the speech encoder, for ``output_dim``, the width of its features, and its CTC head.
            embeddings: outputs of the LLM's embedding layer for every id [V, E], for their width and scale.

        Raises:
            ValueError: a setting is not valid, or the frontend lacks what the adapter needs.
        """
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Positions in the LLM that are planned for inputs of that many frames.

        Args:
            lengths: LongTensor [B], frames.

        Returns:
            LongTensor [B], at least 1: what ``forward`` returns, or an upper bound where that depends on the features.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Shorten and map a batch.

        Args:
            features: [B, N, input_dim] in the adapter's type; anything may stand beyond a row's length.
            lengths: LongTensor [B], frames of each row, at least 1.

        Returns:
            embeddings [B, M, E], and their lengths, LongTensor [B].

        With ``needs_ctc`` there is a third argument, the frontend's ``ctc_labels``, LongTensor [B, N].
        """
        raise NotImplementedError


def build_adapter(cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> SpeechAdapter:
    """The adapter that ``cfg.adapter`` names; an unknown name is an error that lists the known ones.

    Arguments and errors are those of ``SpeechAdapter.from_config``.
    """
    if cfg.adapter not in ADAPTERS:
        raise ValueError(f"--adapter {cfg.adapter}: unknown; known: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[cfg.adapter].from_config(cfg, frontend, embeddings)


def positive(cfg: Any, name: str) -> int:
    """The setting ``cfg.name``, checked to be a whole number of at least 1; the error names its flag."""
    value = getattr(cfg, name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"--{name.replace('_', '-')} {value}: give a whole number of at least 1")
    return value
