"""Temperature sampling of several manifests, by segments."""

from collections.abc import Sequence

import numpy as np
from fairseq.data import FairseqDataset, ResamplingDataset


def sampled_sizes(sizes: Sequence[int], alpha: float) -> list[int]:
    """Segments of each manifest in an epoch of temperature sampling (arXiv 1907.05019).

    fairseq's own ratios go by language pair and by frames: those of several tasks over one language pair are all 1,
    and text has no frames.

    Args:
        sizes: segments of each manifest.
        alpha: 1/T; shares are proportional to the sizes to this power.

    Returns:
        at least one segment of each, and as many in all as there are, up to rounding.
    """
    powers = np.asarray(sizes, dtype=np.float64) ** alpha
    return np.maximum(1, np.rint(powers / powers.sum() * sum(sizes))).astype(int).tolist()


def sampled(dataset: FairseqDataset, size: int, seed: int, epoch: int) -> FairseqDataset:
    """A dataset of so many segments, drawn anew in each epoch; with replacement where there are not enough."""
    if size == len(dataset):
        return dataset
    # fairseq rounds the product of ratio and length up.
    ratio = (size - 0.5) / len(dataset)
    return ResamplingDataset(dataset, size_ratio=ratio, seed=seed, epoch=epoch, replace=size > len(dataset))
