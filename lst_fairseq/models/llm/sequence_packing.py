"""Sentences of a batch in one row, one after the other and without padding: in training, and before a beam search.

Every layer of the LLM works on positions one by one, except attention. So the row of all sentences goes through the LLM
as it is, and attention alone lays the sentences out side by side, where each position sees its own sentence's past::

    row            a a a a a b b b c c c c        all linear maps and norms: no padding
    attention      a a a a a                      causal, and padded at the end: the past of a
                   b b b . .                      position never reaches the padding, so that
                   c c c c .                      no mask is needed
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: transformers' name for :func:`packed_attention`.
ATTENTION = "lst_packed"
#: Layers whose attention :func:`packed_attention` computes.
LAYER_TYPES = {"full_attention", "sliding_attention"}


class PackedRows:
    """Where the sentences of a packed row lie.

    Args:
        mask: bool [B, L], where each of the B sentences has content.
        multiple: the row is filled up to a multiple of so many positions, which repeat the first one and belong to no
            sentence.

    Attributes:
        lengths: LongTensor [B], positions of each sentence.
        starts: LongTensor [B], where each begins in the row.
        positions: LongTensor [1, N], counted from 0 in each sentence; N is the sum of the lengths, filled up.
    """

    def __init__(self, mask: Tensor, multiple: int = 1):
        self.lengths = mask.sum(dim=1)
        self.starts = self.lengths.cumsum(dim=0) - self.lengths
        self.width = int(self.lengths.max())
        content = mask.flatten().nonzero().squeeze(1)
        self._content = torch.cat([content, content[:1].expand(-content.size(0) % multiple)])
        counted = mask.long().cumsum(dim=1) - 1
        self.positions = counted.flatten()[self._content].unsqueeze(0)
        rows = torch.arange(mask.size(0), device=mask.device).unsqueeze(1)
        slots = (rows * self.width + counted).flatten()
        self._slots = slots[self._content]
        self._places = torch.zeros(mask.size(0) * self.width, dtype=torch.long, device=mask.device)
        self._places[slots[content]] = torch.arange(content.size(0), device=mask.device)

    def pack(self, content: Tensor) -> Tensor:
        """[B, L, E], with content where the mask is True, to the row [1, N, E]."""
        return content.flatten(0, 1).index_select(0, self._content).unsqueeze(0)

    def side_by_side(self, row: Tensor) -> Tensor:
        """[1, H, N, D] to [B, H, W, D], each sentence from the left, W the longest's length.

        Behind a sentence stands the row's first position, again and again, which no position of the sentence sees.
        """
        # A selection rather than a copy into zeros, for whose gradient autograd would keep the row, too.
        sentences = row.squeeze(0).transpose(0, 1).index_select(0, self._places)
        return sentences.unflatten(0, (-1, self.width)).transpose(1, 2)

    def in_a_row(self, sentences: Tensor) -> Tensor:
        """[B, H, W, D] to [1, N, H, D]; undoes :meth:`side_by_side`, and leaves positions before heads."""
        return sentences.transpose(1, 2).flatten(0, 1).index_select(0, self._slots).unsqueeze(0)

    def ending_together(self, row: Tensor) -> Tensor:
        """As :meth:`side_by_side`, but each sentence from the right; before it stands whatever there is."""
        distance_to_end = torch.arange(self.width - 1, -1, -1, device=row.device)
        places = ((self.starts + self.lengths - 1).unsqueeze(1) - distance_to_end).clamp(min=0)
        sentences = row.squeeze(0).index_select(1, places.flatten())
        return sentences.unflatten(1, (-1, self.width)).transpose(0, 1)

    @property
    def content_ending_together(self) -> Tensor:
        """Bool [B, W], where :meth:`ending_together` has content."""
        from_end = torch.arange(self.width, 0, -1, device=self.lengths.device)
        return from_end <= self.lengths.unsqueeze(1)

    def window_mask(self, window: int | None) -> Tensor | None:
        """Bool [W, W]: the ``window`` last positions that each position sees, itself among them; None if it sees all of
        its past."""
        if not window or window >= self.width:
            return None
        place = torch.arange(self.width, device=self.lengths.device)
        distance = place.unsqueeze(1) - place
        return (distance >= 0) & (distance < window)

    @property
    def no_mask(self) -> Tensor:
        """What keeps transformers from making a mask [1, 1, N, N]: it hands a mask of four dimensions on as it is."""
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.lengths.device)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: PackedRows | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of each position over the past of its own sentence; without ``packed``, transformers' sdpa.

    Args:
        module: the attention layer.
        query: [1, H, N, D].
        key, value: [1, G, N, D]; H is a multiple of G (grouped queries).
        attention_mask: for the case without ``packed``.
        packed: where the sentences lie.
        dropout: of the weights.
        scaling: of the scores.
        sliding_window: number of positions that a position sees.

    Returns:
        [1, N, H, D], and None for the weights.
    """
    if packed is None:
        settings = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    query, key, value = (packed.side_by_side(tensor) for tensor in (query, key, value))
    window = packed.window_mask(sliding_window)
    groups = query.size(1) // key.size(1)
    if groups > 1 and query.is_cuda and (window is not None or query.dtype == torch.float32):
        # torch's fused kernels for these cases know no groups, and the one that does keeps all weights.
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=window,
        dropout_p=dropout,
        is_causal=window is None,
        scale=scaling,
        enable_gqa=query.size(1) != key.size(1),
    )
    return packed.in_a_row(output), None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def packs(llm: PreTrainedModel, arguments: set[str]) -> bool:
    """Whether an LLM can run sentences in one row: its attention is sdpa's, may be exchanged, and is causal.

    Args:
        llm: the model.
        arguments: names that its ``forward`` takes.
    """
    config = llm.config.get_text_config()
    return (
        config._attn_implementation == "sdpa"
        and bool(getattr(llm, "_supports_attention_backend", False))
        and {"position_ids", "logits_to_keep", "kwargs"} <= arguments
        and set(getattr(config, "layer_types", None) or ()) <= LAYER_TYPES
    )
