"""Lengths of utterances in positions of the LLM, and what training leaves out for them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lst_fairseq.data.audio import SAMPLE_RATE


@dataclass(frozen=True)
class LengthRule:
    """How many LLM positions an utterance takes, and what training leaves out.

    Attributes:
        speech_positions: LongTensor [B] of samples -> LongTensor [B] of LLM positions; the model's own function.
        llm_positions: the most that the LLM has.
        max_source_seconds: longer training segments are left out.
        min_source_seconds: shorter training segments are left out.
    """

    speech_positions: Callable[[Tensor], Tensor]
    llm_positions: int
    max_source_seconds: float
    min_source_seconds: float

    def positions(
        self, n_samples: Sequence[int], prompt_lengths: Sequence[int], target_lengths: Sequence[int]
    ) -> np.ndarray:
        """LLM positions [N] of utterances: prompt, speech with its markers, and the target without the end of sentence,
        which is predicted but never fed.

        Args:
            n_samples: of each utterance; 0 of text only, which has no speech and no markers.
            prompt_lengths: positions of each prompt, with the source text of text only.
            target_lengths: tokens of each target, with the end of sentence.
        """
        samples = np.asarray(n_samples, dtype=np.int64)
        speech = np.where(samples > 0, self.speech_positions(torch.from_numpy(samples)).numpy(), 0)
        target = np.maximum(np.asarray(target_lengths, dtype=np.int64) - 1, 0)
        return speech + np.asarray(prompt_lengths, dtype=np.int64) + target

    def left_out(
        self,
        n_samples: np.ndarray,
        source_lengths: np.ndarray,
        target_lengths: np.ndarray,
        positions: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """What training leaves out: reason -> bool [N]. A segment to which several apply has the first.

        Args:
            n_samples: [N], 0 of text only.
            source_lengths: [N], tokens of the source text of text only.
            target_lengths: [N], tokens of each target, with the end of sentence.
            positions: [N], as :meth:`positions` says.
        """
        is_text = n_samples == 0
        too_short = n_samples < self.min_source_seconds * SAMPLE_RATE
        reasons = {
            f"longer than --max-source-seconds {self.max_source_seconds:g}": (
                n_samples > self.max_source_seconds * SAMPLE_RATE
            ),
            f"shorter than --min-source-seconds {self.min_source_seconds:g}": too_short & ~is_text,
            "empty source": is_text & (source_lengths == 0),
            "empty target": target_lengths <= 1,  # the end of sentence alone
            f"longer than the LLM's {self.llm_positions} positions": positions > self.llm_positions,
        }
        taken = np.zeros(len(n_samples), dtype=bool)
        for reason, applies in reasons.items():
            reasons[reason] = applies & ~taken
            taken |= applies
        return reasons


def padded_batches(order: Iterable[int], lengths: Sequence[float], most: float) -> list[list[int]]:
    """Indices in batches, in their order, none of which comes to more with its padding.

    Args:
        order: of the indices; neighbours should be of like length.
        lengths: of each index.
        most: the longest of a batch, times how many it has; one alone may be longer.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in order:
        longest = max(longest, lengths[index])
        if batches and (len(batches[-1]) + 1) * longest <= most:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches
