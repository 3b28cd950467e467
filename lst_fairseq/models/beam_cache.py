"""Keys and values of a beam search: the prefix once a sentence, the generated tokens once a beam.

    sentence 1   prefix  ------------------+-- beam 1: tokens      attention of a token: over its sentence's prefix and
                                           +-- beam 2: tokens      its own beam's tokens, in one softmax
    sentence 2   prefix  ------------------+-- beam 1: tokens      a step reorders the tokens' part only, and the beams
                                           +-- beam 2: tokens      of a sentence read its prefix together

``FannedOutCache`` keeps a copy of the prefix for each beam, for LLMs whose attention is not transformers' exchangeable
one. Both give the same scores.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

logger = logging.getLogger(__name__)

#: Name under which transformers finds :func:`shared_prefix_attention`.
ATTENTION = "lst_shared_prefix"


class FannedOutCache:
    """A copy of the sentence's keys and values for each beam.

    Args:
        cache: keys and values of the prefixes, one row a sentence.
        mask: bool [S, P], where the prefixes have content.
        row: LongTensor [R], the sentence of each beam.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor, row: Tensor):
        cache.batch_select_indices(row)
        self.cache = cache
        self.mask = mask[row]

    def arguments(self, n_tokens: int) -> dict[str, Any]:
        """The LLM's arguments for the next tokens of each beam, which the cache takes up."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(self.mask.size(0), n_tokens)], dim=1)
        positions = (self.mask.long().cumsum(dim=1) - 1)[:, -n_tokens:]
        return {"past_key_values": self.cache, "attention_mask": self.mask.long(), "position_ids": positions}

    def reorder(self, order: Tensor) -> None:
        """Beam i becomes what beam ``order[i]`` was."""
        self.cache.batch_select_indices(order)
        self.mask = self.mask.index_select(0, order)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """The LLM's own attention."""
        yield


class SharedPrefixCache:
    """One copy of a sentence's prefix for all of its beams.

    The beams of a sentence stand side by side and are equally many for all sentences, and a reorder keeps them so, as
    fairseq's generator does: beams change places within their sentence, and whole sentences leave.

    Args:
        llm: the model, which reads the prefix through :meth:`attention`.
        cache: keys and values of the prefixes, one row a sentence, in layers that keep all positions.
        mask: bool [S, P], where the prefixes have content.
        beam: beams of each sentence.
    """

    def __init__(self, llm: PreTrainedModel, cache: DynamicCache, mask: Tensor, beam: int):
        self.config = llm.config.get_text_config()
        self.n_layers = len(cache.layers)
        self.keys = [layer.keys for layer in cache.layers]
        self.values = [layer.values for layer in cache.layers]
        self.mask = mask
        self.beam = beam
        self.tokens = DynamicCache()
        self.n_tokens = 0
        self._visible: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = {}
        self._attended = 0

    def arguments(self, n_tokens: int) -> dict[str, Any]:
        """As of :class:`FannedOutCache`; the prefix reaches the attention as an argument of its own."""
        lengths = self.mask.sum(dim=1).repeat_interleave(self.beam)
        positions = lengths.unsqueeze(1) + torch.arange(self.n_tokens, self.n_tokens + n_tokens, device=lengths.device)
        self.n_tokens += n_tokens
        self._visible.clear()
        return {"past_key_values": self.tokens, "position_ids": positions, "shared_prefix": self}

    def reorder(self, order: Tensor) -> None:
        """As of :class:`FannedOutCache`."""
        if order.numel() < self.mask.size(0) * self.beam:
            sentences = order[:: self.beam].div(self.beam, rounding_mode="floor")
            self.keys = [keys.index_select(0, sentences) for keys in self.keys]
            self.values = [values.index_select(0, sentences) for values in self.values]
            self.mask = self.mask.index_select(0, sentences)
        if self.n_tokens:
            self.tokens.batch_select_indices(order)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Let the LLM attend by :func:`shared_prefix_attention`."""
        before = self.config._attn_implementation
        self.config._attn_implementation = ATTENTION
        self._attended = 0
        try:
            yield
        finally:
            self.config._attn_implementation = before
        if self._attended != self.n_layers:
            raise RuntimeError(
                f"{self._attended} of {self.n_layers} layers attended to the prefix: this LLM cannot share it"
            )

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [S, H, P, D] of a layer's prefixes."""
        self._attended += 1
        return self.keys[index], self.values[index]

    def visible(self, window: int | None, n_queries: int) -> tuple[Tensor, Tensor]:
        """Which keys the last tokens of each beam see: 0 or -inf, to be added to scores.

        Args:
            window: a token sees the ``window`` last positions, itself among them; None for all.
            n_queries: number T of tokens.

        Returns:
            float32 [S, 1, 1, T, P] for the prefix and [T, N] for the beam's N tokens.
        """
        key = (window, n_queries)
        if key not in self._visible:
            device = self.mask.device
            query = torch.arange(self.n_tokens - n_queries, self.n_tokens, device=device).unsqueeze(1)
            token = torch.arange(self.n_tokens, device=device)
            own = token <= query
            # The prefixes end at the same place, so that the distance to a key is the same in each row.
            size = self.mask.size(1)
            distance = query + size - torch.arange(size, device=device)
            prefix = self.mask.unsqueeze(1).expand(-1, n_queries, -1)
            if window is not None:
                own = own & (query - token < window)
                prefix = prefix & (distance < window)
            self._visible[key] = (_penalty(prefix)[:, None, None], _penalty(own))
        return self._visible[key]


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefixCache | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of each beam's last tokens over its sentence's prefix and its own tokens.

    Equal to attention over their concatenation; the beams of a sentence share one product with the prefix's keys and
    one with its values.

    Args:
        module: the attention layer, whose ``layer_idx`` finds the prefix.
        query: [R, H, T, D], R beams.
        key, value: [R, G, N, D], of the beam's tokens so far; H is a multiple of G (grouped queries).
        attention_mask: ignored, since ``shared_prefix`` knows what a token may see.
        scaling: of the scores.
        shared_prefix: the prefixes.
        sliding_window: number of positions that a token sees.
        softcap: bends scores s to softcap * tanh(s / softcap) (Gemma 2).

    Returns:
        [R, T, H, D], and None for the weights.
    """
    if shared_prefix is None:
        raise RuntimeError("this LLM does not hand its arguments on to the attention, and cannot share prefixes")
    if kwargs.get("s_aux") is not None:
        raise RuntimeError("attention sinks (s_aux) are not served by the shared prefix")
    prefix_key, prefix_value = shared_prefix.layer(module.layer_idx)
    rows, heads, n_queries, width = query.shape
    groups, n_tokens = key.size(1), key.size(2)
    sentences, size = prefix_key.size(0), prefix_key.size(2)
    beam = rows // sentences
    per_group = heads // groups
    scaling = width**-0.5 if scaling is None else scaling
    window = sliding_window or None

    query = query.reshape(rows, groups, per_group * n_queries, width)
    own = query @ key.transpose(2, 3)  # [R, G, Q, N]
    own = own.reshape(sentences, beam, groups, per_group, n_queries, n_tokens).transpose(1, 2)
    together = query.reshape(sentences, beam, groups, per_group * n_queries, width).transpose(1, 2)
    shared = together.reshape(sentences, groups, -1, width) @ prefix_key.transpose(2, 3)  # [S, G, beam * Q, P]
    shared = shared.reshape(sentences, groups, beam, per_group, n_queries, size)
    scores = torch.cat([shared, own], dim=-1).float() * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    prefix_penalty, own_penalty = shared_prefix.visible(window, n_queries)
    penalty = torch.cat([prefix_penalty, own_penalty.expand(*prefix_penalty.shape[:-1], -1)], dim=-1)
    weights = (scores + penalty.unsqueeze(2)).softmax(dim=-1).to(value.dtype)

    shared = weights[..., :size].reshape(sentences, groups, -1, size) @ prefix_value  # [S, G, beam * Q, D]
    shared = shared.reshape(sentences, groups, beam, -1, width).transpose(1, 2).reshape(rows, groups, -1, width)
    own = weights[..., size:].transpose(1, 2).reshape(rows, groups, -1, n_tokens) @ value
    output = (shared + own).reshape(rows, heads, n_queries, width)
    return output.transpose(1, 2), None


def _penalty(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -torch.inf)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, shared_prefix_attention)


def shares_prefixes(llm: PreTrainedModel, arguments: set[str]) -> bool:
    """Whether an LLM's attention can be exchanged; says so once if not.

    Args:
        llm: the model.
        arguments: names that its ``forward`` takes.
    """
    able = bool(getattr(llm, "_supports_attention_backend", False)) and {"position_ids", "kwargs"} <= arguments
    if not able:
        logger.info(f"{type(llm).__name__} cannot share prefixes between beams: each beam gets a copy, which is slower")
    return able
