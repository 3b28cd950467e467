"""Cross-entropy of token predictions with one tensor as wide as the vocabulary: the logits themselves.

PyTorch's own way makes four more: the logits in fp32, their log-probabilities, and the gradient of each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Logits taken to fp32 at a time.
CHUNK = 2**22


class _TokenLoss(torch.autograd.Function):
    """Chunks of rows go through fp32; the gradient is written over the logits, which nobody needs any more."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        n_rows, n_words = logits.shape
        log_sums, nll, even = torch.zeros(3, n_rows, dtype=torch.float32, device=logits.device)
        best = torch.empty_like(target)
        for rows in _chunks(n_rows, n_words):
            chunk = logits[rows].float()
            highest, best[rows] = chunk.max(dim=1)
            log_sums[rows] = (chunk - highest.unsqueeze(1)).exp_().sum(dim=1).log_().add_(highest)
            nll[rows] = log_sums[rows] - chunk.gather(1, target[rows].unsqueeze(1)).squeeze(1)
            if smoothing:
                even[rows] = log_sums[rows] - chunk.mean(dim=1)
        ctx.save_for_backward(logits, target, log_sums)
        ctx.smoothing = smoothing
        ctx.mark_non_differentiable(nll, best)
        loss = (1 - smoothing) * nll + smoothing * even if smoothing else nll.clone()
        return loss, nll, best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor, None, None]:
        logits, target, log_sums = ctx.saved_tensors
        n_rows, n_words = logits.shape
        for rows in _chunks(n_rows, n_words):
            # The softmax, less what it should be; in place where the logits are in fp32 already.
            chunk = logits[rows].float().sub_(log_sums[rows].unsqueeze(1)).exp_()
            if ctx.smoothing:
                chunk.sub_(ctx.smoothing / n_words)
            right = target[rows].unsqueeze(1)
            chunk.scatter_add_(1, right, torch.full_like(right, ctx.smoothing - 1, dtype=chunk.dtype))
            chunk.mul_(grad[rows].unsqueeze(1))
            if logits.dtype != chunk.dtype:
                logits[rows] = chunk
        return logits, None, None


def token_loss(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each token with label smoothing as PyTorch's (the even share includes the right token).

    The backward pass overwrites ``logits``, and can run once.

    Args:
        logits: [N, V] in any floating-point type.
        target: LongTensor [N].
        smoothing: share of the probability spread evenly over the vocabulary, in [0, 1).

    Returns:
        the loss [N] and its part without smoothing [N] (without gradient), in fp32, and the best token's id [N].
    """
    return _TokenLoss.apply(logits, target, smoothing)


def _chunks(n_rows: int, n_words: int) -> list[slice]:
    size = max(1, CHUNK // n_words)
    return [slice(start, start + size) for start in range(0, n_rows, size)]
