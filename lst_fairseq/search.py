"""fairseq's beam search with a shorter way to the best candidates of a large vocabulary."""

from typing import Any

import torch
from fairseq.search import BeamSearch
from torch import Tensor

#: Tokens of which the best one is found first, before any are sorted.
CLASS_SIZE = 32


def best_of_rows(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``values.topk(k)`` of [R, V], by way of the best value of each class of tokens.

    The k best are in the k classes whose best values are highest: were one of them outside, k others would be above it.
    Tokens of a class stand V / CLASS_SIZE apart, so that the maxima are taken over whole runs of memory.
    """
    n_classes = values.size(1) // CLASS_SIZE
    if n_classes <= k:
        return values.topk(k)
    whole = n_classes * CLASS_SIZE
    of_classes = values[:, :whole].unflatten(1, (CLASS_SIZE, n_classes))
    classes = of_classes.amax(dim=1).topk(k)[1].unsqueeze(1)  # [R, 1, k]
    first = torch.arange(0, whole, n_classes, device=values.device).unsqueeze(1)
    tokens = (first + classes).flatten(1)  # [R, CLASS_SIZE * k]
    if whole < values.size(1):
        rest = torch.arange(whole, values.size(1), device=values.device)
        tokens = torch.cat([tokens, rest.expand(len(values), -1)], dim=1)
    best, at = values.gather(1, tokens).topk(k)
    return best, tokens.gather(1, at)


class FastBeamSearch(BeamSearch):
    """:class:`fairseq.search.BeamSearch`, with its choices.

    fairseq adds each beam's score to all of its tokens and sorts those of a sentence's beams together. The order of a
    beam's tokens does not depend on its score, so that it is added to the few best alone.
    """

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor | None,
        prev_output_tokens: Tensor | None = None,
        original_batch_idxs: Tensor | None = None,
        candidate_multiple: int = 2,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best ways on for each sentence.

        Args:
            step: number of tokens that the hypotheses have.
            lprobs: [S, beam, V], log-probabilities of the next token.
            scores: [S, beam, step], of the hypotheses up to each token.
            candidate_multiple: candidates wanted for each beam.

        Returns:
            scores, tokens and beams [S, candidate_multiple * beam], best first.
        """
        sentences, beam, vocabulary = lprobs.shape
        if step == 0:  # all beams are the same yet
            lprobs = lprobs[:, :1]
        n_beams = lprobs.size(1)
        k = min(candidate_multiple * beam, n_beams * vocabulary - 1)
        of_beam = min(k, vocabulary)
        best, tokens = best_of_rows(lprobs.reshape(-1, vocabulary), of_beam)
        best = best.unflatten(0, (sentences, n_beams))
        if step > 0:
            best = best + scores[:, :, step - 1 : step]
        best, at = best.flatten(1).topk(k)
        return best, tokens.view(sentences, -1).gather(1, at), at.div(of_beam, rounding_mode="floor")


def use_fast_search(generator: Any, dictionary: Any) -> None:
    """Let a generator of fairseq's search with :class:`FastBeamSearch` if it does plain beam search."""
    if type(getattr(generator, "search", None)) is BeamSearch:
        generator.search = FastBeamSearch(dictionary)
