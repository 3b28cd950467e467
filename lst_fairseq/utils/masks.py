"""Masks of batches."""

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """Bool [B, size]: True where a row has content."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
