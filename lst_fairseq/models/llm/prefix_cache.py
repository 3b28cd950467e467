"""Keys and values of a beam search: the prefix once a sentence, each generated token once.

    sentence 1   | prefix | step 1: beams 1, 2 | step 2: beams 1, 2 | ...    one buffer a layer: a token is written
    sentence 2   | prefix | step 1: beams 1, 2 | step 2: beams 1, 2 | ...    once and stays where it is

A beam's hypothesis is a path through the steps' slots. The search reorders who sees which slot, and never the keys and
values themselves; the beams of a sentence attend to its buffer together, in one product. Slots that no beam sees any
more are given up from time to time. While the buffers are static, for steps that are recorded (``cuda_graphs.py``),
nothing moves: they are attended to as a whole, and a sentence that ends leaves its rows behind.

``FannedOutCache`` keeps a copy of the prefix for each beam, for LLMs whose attention is not transformers' exchangeable
one. Both give the same scores.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lst_fairseq.models.llm.sequence_packing import PackedRows

logger = logging.getLogger(__name__)

#: Name under which transformers finds :func:`shared_prefix_attention`.
ATTENTION = "lst_shared_prefix"
#: Steps that a new buffer has room for, and steps after which slots that no beam sees are given up.
ROOM = 32
INTERVAL = 16
#: Keys are attended to in multiples of this number: PyTorch's fused attention on GPUs copies a mask of another size.
ALIGNMENT = 16
#: Static buffers are given up when this many times fewer sentences are left: the rest is computed for nothing.
SPARSE = 4


class CannotSharePrefix(RuntimeError):
    """An LLM's attention turned out not to be exchangeable; a fanned-out cache will do."""


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
        cached = {"cache": self.cache, "use_cache": True}
        return {**cached, "attention_mask": self.mask.long(), "position_ids": positions}

    def reorder(self, order: Tensor) -> None:
        """Beam i becomes what beam ``order[i]`` was."""
        self.cache.batch_select_indices(order)
        self.mask = self.mask.index_select(0, order)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """The LLM's own attention."""
        yield


class SharedPrefixCache:
    """One buffer of keys and values for all beams of a sentence.

    The beams of a sentence stand side by side and are equally many for all sentences, and a reorder keeps them so, as
    fairseq's generator does: beams change places within their sentence, and whole sentences leave.

    Args:
        llm: the model, which reads the buffers through :meth:`attention`.
        cache: keys and values of the prefixes, one row a sentence, in layers that keep all positions; emptied.
        mask: bool [S, P], where the prefixes have content; all end at P.
        beam: beams of each sentence.
        packed: where the prefixes lie if all of them are one row of ``cache``.

    Attributes:
        keys, values: of each layer, [S, G, P + room, D].
        sees: bool [S, beam, N], whose hypothesis goes through which of the N slots behind the prefix.
        times: LongTensor [S, N], the step at which each slot was written.
        is_static: whether all that a step of a token reads and writes stays where it is, for as many sentences as there
            were when it became so.
    """

    def __init__(
        self, llm: PreTrainedModel, cache: DynamicCache, mask: Tensor, beam: int, packed: PackedRows | None = None
    ):
        self.config = llm.config.get_text_config()
        self.mask = mask
        self.beam = beam
        self.lengths = mask.sum(dim=1)
        self.room = ROOM * beam
        self.due = INTERVAL * beam  # slots at which it is time to look for those that no beam sees
        self.n_tokens = 0
        self.sees = mask.new_zeros(mask.size(0), beam, 0)
        self.times = self.lengths.new_zeros(mask.size(0), 0)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for layer in cache.layers:
            for buffers, prefix in ((self.keys, layer.keys), (self.values, layer.values)):
                buffers.append(self._buffer(prefix if packed is None else packed.ending_together(prefix)))
            layer.keys = layer.values = None  # one layer's copy at a time
        self.is_static = False
        self._rows = torch.arange(mask.size(0), device=mask.device)  # of each sentence in the buffers
        self._positions = self._slots = self.lengths.new_empty(0)  # of the last tokens
        self._penalties: dict[tuple[Any, ...], Tensor] = {}
        self._attended = 0

    def _buffer(self, prefix: Tensor) -> Tensor:
        """A new buffer that begins with prefixes [S, G, P, D]; zeros behind, since unseen slots must be finite."""
        sentences, groups, size, width = prefix.shape
        buffer = prefix.new_empty(sentences, groups, _aligned(size + self.room), width)
        buffer[:, :, :size] = prefix
        buffer[:, :, size:] = 0
        return buffer

    def arguments(self, n_tokens: int) -> dict[str, Any]:
        """As of :class:`FannedOutCache`; this cache reaches the attention as an argument of its own."""
        if self.is_static and n_tokens > 1:
            self._move_together()
        self._make_room(n_tokens * self.beam)
        device = self.mask.device
        steps = torch.arange(self.n_tokens, self.n_tokens + n_tokens, device=device)
        own = torch.eye(self.beam, dtype=torch.bool, device=device).repeat(1, n_tokens)
        self.sees = torch.cat([self.sees, own.expand(self.mask.size(0), -1, -1)], dim=2)
        times = steps.repeat_interleave(self.beam).expand(self.mask.size(0), -1)
        self.times = torch.cat([self.times, times], dim=1)
        self.n_tokens += n_tokens
        positions = (self.lengths[:, None, None] + steps).expand(-1, self.beam, -1).flatten(0, 1)
        if self.is_static:
            self._positions.index_copy_(0, self.static_rows, positions)
            end = self.mask.size(1) + self.times.size(1)
            self._slots.copy_(torch.arange(end - self.beam, end, device=device))
            for key, penalty in self._penalties.items():
                penalty.index_copy_(0, self._rows, self._penalty(*key))
        else:
            self._positions = positions
            self._penalties.clear()
        return {"use_cache": False, "position_ids": self._positions, "shared_prefix": self}

    def make_static(self) -> None:
        """From now on a step of one token reads and writes the same memory each time."""
        self.is_static = True
        self._positions = self.lengths.new_zeros(len(self._rows) * self.beam, 1)
        self._slots = self.lengths.new_zeros(self.beam)
        self._penalties = {}

    @property
    def static_rows(self) -> Tensor:
        """LongTensor [R]: where the beams that are left stand among those that the static memory has."""
        return (self._rows.unsqueeze(1) * self.beam + torch.arange(self.beam, device=self._rows.device)).flatten()

    def _move_together(self) -> None:
        """Keep the buffers' rows of the sentences that are left."""
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = buffer.index_select(0, self._rows)
        self._rows = torch.arange(len(self._rows), device=self._rows.device)
        self.is_static = False

    def _make_room(self, n_slots: int) -> None:
        """Before that many slots are added, give up those that no beam sees, and grow where there is too little room.

        It asks how many are left, the only time that a GPU is waited for, once in ``INTERVAL`` steps, or where the
        buffers are static and attended to as a whole, when they are full.
        """
        if self.times.size(1) + n_slots <= (self.room if self.is_static else min(self.room, self.due)):
            return
        if len(self._rows) < len(self.keys[0]):
            self._move_together()
        live = self.sees.any(dim=1)
        n_live = int(live.sum(dim=1).max())
        order = live.long().argsort(dim=1, descending=True, stable=True)[:, :n_live]
        self.sees = self.sees.gather(2, order.unsqueeze(1).expand(-1, self.beam, -1))
        self.times = self.times.gather(1, order)
        self.due = n_live + n_slots + INTERVAL * self.beam
        grows = n_live + n_slots > self.room
        while n_live + n_slots > self.room:
            self.room *= 2
            self.is_static = False
        size = self.mask.size(1)
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                index = order[:, None, :, None].expand(-1, buffer.size(1), -1, buffer.size(3))
                kept = buffer[:, :, size:].gather(2, index)
                if grows:
                    buffers[layer] = self._buffer(buffer[:, :, :size])
                buffers[layer][:, :, size : size + n_live] = kept

    def reorder(self, order: Tensor) -> None:
        """As of :class:`FannedOutCache`."""
        if order.numel() < self.mask.size(0) * self.beam:
            sentences = order[:: self.beam].div(self.beam, rounding_mode="floor")
            self._rows = self._rows.index_select(0, sentences)
            if not self.is_static or len(sentences) * SPARSE <= len(self.keys[0]):
                self._move_together()
            self.mask = self.mask.index_select(0, sentences)
            self.lengths = self.lengths.index_select(0, sentences)
            self.times = self.times.index_select(0, sentences)
        self.sees = self.sees.flatten(0, 1).index_select(0, order).unflatten(0, (-1, self.beam))

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Let the LLM attend by :func:`shared_prefix_attention`.

        Raises:
            CannotSharePrefix: not all of its layers do.
        """
        before = self.config._attn_implementation
        self.config._attn_implementation = ATTENTION
        self._attended = 0
        try:
            yield
        finally:
            self.config._attn_implementation = before
        if self._attended != len(self.keys):
            raise CannotSharePrefix(f"{self._attended} of {len(self.keys)} layers attended to the prefix")

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values [R, G, T, D] of the last tokens; returns all that it has, [S, G, K, D]."""
        self._attended += 1
        end = self.mask.size(1) + self.times.size(1)
        for buffers, new in ((self.keys, key), (self.values, value)):
            n_tokens = new.size(2)
            by_slot = new.unflatten(0, (-1, self.beam)).permute(0, 2, 3, 1, 4)
            if self.is_static:
                buffers[layer].index_copy_(2, self._slots, by_slot.squeeze(2))
            else:
                slots = buffers[layer][:, :, end - n_tokens * self.beam : end]
                slots.unflatten(2, (n_tokens, self.beam)).copy_(by_slot)
        return self.keys[layer][:, :, : self._extent], self.values[layer][:, :, : self._extent]

    @property
    def _extent(self) -> int:
        """The number of keys that are attended to, seen and unseen."""
        return self.keys[0].size(2) if self.is_static else _aligned(self.mask.size(1) + self.times.size(1))

    def penalty(self, window: int | None, n_queries: int, per_group: int, dtype: torch.dtype) -> Tensor:
        """Which keys the last tokens of each beam see: 0 or -inf, to be added to scores.

        Args:
            window: a token sees the ``window`` last positions, itself among them; None for all.
            n_queries: number T of tokens.
            per_group: query heads that share a key.
            dtype: of the result.

        Returns:
            [S, 1, beam * per_group * T, K].
        """
        key = (window, n_queries, per_group, dtype)
        if key not in self._penalties:
            self._penalties[key] = self._penalty(*key)
        return self._penalties[key]

    def _penalty(self, window: int | None, n_queries: int, per_group: int, dtype: torch.dtype) -> Tensor:
        size = self.mask.size(1)
        query = torch.arange(self.n_tokens - n_queries, self.n_tokens, device=self.mask.device).unsqueeze(1)
        # The prefixes end at the same place, so that the distance to a key is the same in each row.
        prefix_distance = query + size - torch.arange(size, device=self.mask.device)
        own_distance = (query - self.times.unsqueeze(1)).unsqueeze(1)  # [S, 1, T, N]
        prefix = self.mask[:, None, None].expand(-1, self.beam, n_queries, -1)
        own = self.sees.unsqueeze(2) & (own_distance >= 0)
        if window is not None:
            prefix, own = prefix & (prefix_distance < window), own & (own_distance < window)
        seen = torch.cat([prefix, own], dim=3)
        seen = F.pad(seen, (0, self._extent - seen.size(3)))
        seen = seen.unsqueeze(2).expand(-1, -1, per_group, -1, -1).flatten(1, 3).unsqueeze(1)
        zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return zeros.masked_fill(~seen, -torch.inf)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


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
    """Attention of each beam's last tokens over its sentence's prefix and its own hypothesis.

    The beams of a sentence, and the heads that share keys, are rows of one product with the sentence's keys, and of one
    with its values.

    Args:
        module: the attention layer, whose ``layer_idx`` finds the buffers.
        query: [R, H, T, D], R = S * beam.
        key, value: [R, G, T, D] of the same tokens; H is a multiple of G (grouped queries).
        attention_mask: ignored, since ``shared_prefix`` knows what a token may see.
        scaling: of the scores.
        shared_prefix: the keys and values before.
        sliding_window: number of positions that a token sees.
        softcap: bends scores s to softcap * tanh(s / softcap) (Gemma 2).

    Returns:
        [R, T, H, D], and None for the weights.

    Raises:
        CannotSharePrefix: the LLM does not hand the cache on, or has attention sinks.
    """
    if shared_prefix is None:
        raise CannotSharePrefix("the LLM does not hand its arguments on to the attention")
    if kwargs.get("s_aux") is not None:
        raise CannotSharePrefix("the LLM has attention sinks (s_aux)")
    rows, heads, n_queries, width = query.shape
    groups, beam = key.size(1), shared_prefix.beam
    per_group = heads // groups
    scaling = width**-0.5 if scaling is None else scaling
    keys, values = shared_prefix.extended(module.layer_idx, key, value)
    penalty = shared_prefix.penalty(sliding_window or None, n_queries, per_group, query.dtype)

    together = query.reshape(-1, beam, groups, per_group, n_queries, width).transpose(1, 2).flatten(2, 4)
    if softcap is None:
        output = F.scaled_dot_product_attention(together, keys, values, attn_mask=penalty, scale=scaling)
    else:
        scores = softcap * torch.tanh((together @ keys.transpose(2, 3)).float() * (scaling / softcap))
        output = (scores + penalty).softmax(dim=-1).to(values.dtype) @ values
    output = output.unflatten(2, (beam, per_group, n_queries)).permute(0, 2, 4, 1, 3, 5)
    return output.reshape(rows, n_queries, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, shared_prefix_attention)


def shares_prefixes(llm: PreTrainedModel, arguments: set[str]) -> bool:
    """Whether an LLM's attention can be exchanged; says so once if not.

    Args:
        llm: the model.
        arguments: names that its ``forward`` takes.
    """
    able = bool(getattr(llm, "_supports_attention_backend", False)) and {"position_ids", "kwargs"} <= arguments
    if not able:
        say_fanned_out(llm)
    return able


def say_fanned_out(llm: PreTrainedModel, reason: str = "its attention is its own") -> None:
    """The line about an LLM whose beams get copies."""
    logger.info(f"{type(llm).__name__} cannot share prefixes between beams ({reason}): each beam gets a copy, slower")
