"""CTC compression: one vector for each run of frames that the frontend's CTC head gives the same label."""

from typing import Any

import torch
from torch import Tensor

from lst_fairseq.models.adapters.base import register_adapter
from lst_fairseq.models.adapters.projection import ProjectedAdapter, embedding_scale
from lst_fairseq.models.frontends.base import SpeechFrontend
from lst_fairseq.utils.masks import padding_mask


@register_adapter("ctc")
class CtcAdapter(ProjectedAdapter):
    """Averages each run of frames with the same label and leaves blanks out, then a linear layer.

    The averaging is that of Gaido et al. (2021), who keep runs of blanks as vectors of their own. A row that is blank
    throughout gives one vector, the mean of its frames. ::

        labels   _ _ c c _ a a a t _ _ t _
        vectors      |--|  |----|-|   |-|      (4; "_" is the blank)
    """

    needs_ctc = True

    def __init__(self, input_dim: int, blank: int, output_dim: int, norm: str, scale: float = 1.0):
        super().__init__()
        self.blank = blank
        self.add_projection(input_dim, output_dim, norm, scale)

    @classmethod
    def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "CtcAdapter":
        if frontend.ctc_head is None:
            raise ValueError(
                f"--adapter ctc needs a speech encoder with a CTC head; this {type(frontend).__name__} is without"
            )
        scale = embedding_scale(embeddings)
        return cls(frontend.output_dim, frontend.blank, embeddings.size(1), cfg.adapter_norm, scale)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The number of frames: an upper bound, which batching and the length limits plan with.

        How many vectors a row gives is known only once it has been encoded; ``forward`` returns that number.
        """
        return lengths

    def forward(self, features: Tensor, lengths: Tensor, ctc_labels: Tensor) -> tuple[Tensor, Tensor]:
        runs = label_runs(ctc_labels, lengths, self.blank)
        features = features.masked_fill(~padding_mask(lengths, features.size(1)).unsqueeze(2), 0)
        lengths = runs.amax(dim=1)
        numbers = torch.arange(1, int(lengths.max()) + 1, device=runs.device)
        # A product with the matrix of the averages, in float: as exact as a loop, and unlike scatter_add it sums in the
        # same order every time on a GPU.
        members = (runs.unsqueeze(1) == numbers.view(1, -1, 1)).float()  # [B, M, N]
        means = members / members.sum(dim=2, keepdim=True).clamp(min=1) @ features.float()
        return self.project(means.to(features.dtype)), lengths


def label_runs(labels: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Number the runs of frames that have the same label.

    Args:
        labels: LongTensor [B, N] of CTC labels; anything may stand beyond a row's length.
        lengths: LongTensor [B], frames of each row, at least 1.
        blank: the label of no token.

    Returns:
        LongTensor [B, N]: the number of each frame's run in its row, from 1; 0 for blanks and padding. The frames of a
        row that is blank throughout are one run.
    """
    real = padding_mask(lengths, labels.size(1))
    kept = real & (labels != blank)
    starts = kept.clone()
    starts[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    runs = starts.cumsum(dim=1).masked_fill(~kept, 0)
    return torch.where(kept.any(dim=1, keepdim=True), runs, real.long())
