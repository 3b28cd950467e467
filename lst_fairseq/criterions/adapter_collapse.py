"""Whether an adapter has collapsed: gives the same vector whatever is said.

That vector says what is typical of the corpus, which lowers the loss at first; with too high a learning rate in stage 1
the adapter stays there, and stage 2 spends its updates on undoing it.
"""

import torch
from torch import Tensor

#: Variation below which an adapter says next to nothing about what it hears.
COLLAPSED = 0.05


def adapter_outputs(speech: Tensor, lengths: Tensor) -> Tensor:
    """The adapter's outputs [n, E] of a batch, without markers and padding.

    Args:
        speech: [B, N, E], each row between the two markers.
        lengths: LongTensor [B], markers included; 0 where a row has no speech.
    """
    places = torch.arange(speech.size(1), device=speech.device)
    return speech[(places > 0) & (places < lengths.unsqueeze(1) - 1)]


def squares(outputs: Tensor) -> Tensor:
    """Sums [2], in fp32 at least, over vectors [n, E]: of their squared lengths, and of that of their mean.

    The second is at most as large as the first. Sums of several batches may be added up; what varies between batches
    alone counts as varying no more than it does within them.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return torch.stack([outputs.square().sum(), outputs.sum(dim=0).square().sum() / max(1, outputs.size(0))])


def variation(outputs: Tensor) -> float:
    """Share of the mean square of vectors [n, E] that is not that of their mean: 0 if all are the same vector."""
    return share(*squares(outputs).tolist())


def share(all_squares: float, mean_squares: float) -> float:
    """The variation that sums of :func:`squares` amount to."""
    return 1 - mean_squares / all_squares if all_squares else 0.0


def warning(varies: float) -> str:
    """What to say of an adapter of that variation; empty where it varies enough."""
    if varies >= COLLAPSED:
        return ""
    return (
        f"the adapter has collapsed: of its outputs' mean square {100 * varies:.1f} % varies, the rest is the same "
        "vector whatever is said, and stage 2 would have to undo that; where stage 1 ends so, train it again with a "
        "lower learning rate (--lr, the recipe's STAGE1_LR)"
    )
