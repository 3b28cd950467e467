"""Beam search for fairseq's generator in fewer passes over the vocabulary, and with one wait for the device a step."""

from typing import Any

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from lst_fairseq.models.llm.decoder import LlmDecoder

#: Tokens of which the best one is found first, before any are sorted.
CLASS_SIZE = 32

Hypothesis = dict[str, Tensor]


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


class BeamSearchGenerator(SequenceGenerator):
    """fairseq's generator with a beam search of its own, which gives the same hypotheses.

    fairseq passes over all log-probabilities several times a step, to add scores, to look for what is no number, and to
    sort. The order of a beam's tokens depends on none of that, so that here the few best of each beam are all that is
    looked at. What is not plain beam search with one model is left to fairseq: sampling, diverse and constrained
    search, forced prefixes, blocked n-grams, suppressed tokens, ensembles, a language model beside.
    """

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[Hypothesis]]:
        if prefix_tokens is None and constraints is None and bos_token is None and self._is_plain():
            return self._beam_search(sample["net_input"])
        # fairseq takes a sentence's id for its place in the batch (search.py:649, diverse search).
        sample = {name: value for name, value in sample.items() if name != "id"}
        return super()._generate(sample, prefix_tokens, constraints, bos_token)

    def _is_plain(self) -> bool:
        others = (self.lm_model, self.repeat_ngram_blocker, self.token_indices_to_suppress)
        return (
            type(self.search) is BeamSearch
            and self.model.models_size == 1
            and isinstance(getattr(self.model.single_model, "decoder", None), FairseqIncrementalDecoder)
            and all(other is None for other in others)
            and not self.match_source_len
            and self.vocab_size > 2 * self.beam_size
        )

    def _beam_search(self, net_input: dict[str, Tensor]) -> list[list[Hypothesis]]:
        """Each sentence's hypotheses, best first, as :meth:`SequenceGenerator.generate` returns them.

        Raises:
            ValueError: --min-len is above the length limit, or a sentence is longer than the LLM.
            FloatingPointError: no hypothesis of a sentence has a score that is a number.
        """
        model, beam = self.model.single_model, self.beam_size
        source = net_input["src_tokens"]
        n_sentences, device = source.size(0), source.device
        (encoded,) = self.model.forward_encoder(net_input)
        limit = self.max_len
        if isinstance(model.decoder, LlmDecoder):
            limit = min(limit, model.decoder.room(encoded))
        max_len = min(int(self.max_len_a * source.size(1) + self.max_len_b), limit - 1)
        if self.min_len > max_len:
            raise ValueError(f"--min-len {self.min_len} is above the length limit of {max_len} tokens: lower it")
        order = torch.arange(n_sentences, device=device).repeat_interleave(beam)
        encoded = model.encoder.reorder_encoder_out(encoded, order)
        state: dict[str, Any] = {}
        tokens = torch.full((order.numel(), max_len + 2), self.pad, device=device)
        tokens[:, 0] = self.eos
        scores = torch.zeros(order.numel(), max_len + 1, device=device)  # of the hypotheses up to each token
        going = list(range(n_sentences))  # the sentences whose beams are in the batch
        ended: list[list[tuple[float, Hypothesis]]] = [[] for _ in range(n_sentences)]

        for step in range(max_len + 1):
            logits = model.decoder(tokens[:, : step + 1], encoder_out=encoded, incremental_state=state)[0][:, -1:]
            best, token, parent = self._candidates(step, max_len, logits, scores)
            is_end = token.eq(self.eos) & best.ne(-torch.inf)
            # Of the ends, those that are among the best count. This waits for the device.
            of_ends = best[:, :beam].masked_fill(~is_end[:, :beam], -torch.inf).tolist()
            ends = [(s, b) for s, row in enumerate(of_ends) for b, score in enumerate(row) if score != -torch.inf]
            if ends:
                at = torch.tensor(ends, device=device)
                rows = parent[at[:, 0], at[:, 1]]
                words = tokens[rows, 1 : step + 2]
                words[:, step] = self.eos
                course = scores[rows, : step + 1]
                course[:, step] = best[at[:, 0], at[:, 1]]
                course[:, 1:] -= course[:, :-1].clone()
                for number, (s, b) in enumerate(ends):
                    if len(ended[going[s]]) < beam:
                        score = of_ends[s][b]
                        if self.normalize_scores:
                            score /= (step + 1) ** self.len_penalty
                        ended[going[s]].append((score, _hypothesis(words[number], score, course[number])))
            left = [s for s, sentence in enumerate(going) if len(ended[sentence]) < beam]
            if not left or step == max_len:
                break
            if len(left) < len(going):
                going = [going[s] for s in left]
                kept = torch.tensor(left, device=device)
                best, token, parent, is_end = (x.index_select(0, kept) for x in (best, token, parent, is_end))
            # The best that do not end, of which there are enough: a beam ends in one way.
            place = torch.arange(2 * beam, device=device)
            on = (place + 2 * beam * is_end).topk(beam, largest=False)[1]
            order = parent.gather(1, on).flatten()
            tokens, scores = tokens.index_select(0, order), scores.index_select(0, order)
            tokens[:, step + 1] = token.gather(1, on).flatten()
            scores[:, step] = best.gather(1, on).flatten()
            model.decoder.reorder_incremental_state_scripting(state, order)
            encoded = model.encoder.reorder_encoder_out(encoded, order)

        if [] in ended:
            raise FloatingPointError(
                f"sentence {ended.index([])} of a batch of {n_sentences} has no hypothesis with a score that is a "
                "number: the model's output is not finite; try fp32 or bf16, or look at how training ended"
            )
        return [[hypothesis for _, hypothesis in sorted(found, key=lambda end: -end[0])] for found in ended]

    def _candidates(self, step: int, max_len: int, logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The 2 * beam best ways on for each sentence: scores, tokens and rows that they come from, [S, 2 * beam].

        Args:
            step: number of tokens that the hypotheses have.
            max_len: with so many, they can only end.
            logits: [R, 1, V] of the next token.
            scores: [R, max_len + 1], of the hypotheses up to each token.
        """
        beam, k = self.beam_size, 2 * self.beam_size
        before = scores[:, step - 1 : step]
        if step == 0:  # all beams are the same yet
            logits, before = logits[::beam], scores.new_zeros(1, 1)
        if self.temperature != 1:
            logits = logits / self.temperature
        lprobs = self.model.single_model.get_normalized_probs((logits, None), log_probs=True, sample=None).squeeze(1)
        lprobs[:, self.pad] = -torch.inf
        lprobs[:, self.unk] -= self.unk_penalty
        if step == max_len:
            end = lprobs[:, self.eos].clone()
            lprobs.fill_(-torch.inf)
            lprobs[:, self.eos] = end
        elif step < self.min_len:
            lprobs[:, self.eos] = -torch.inf
        best, tokens = best_of_rows(lprobs, k)
        best = best + before
        # A row with one value that is no number has no other.
        best = best.masked_fill(best.isnan(), -torch.inf).view(scores.size(0) // beam, -1)
        best, at = best.topk(k)
        first = torch.arange(0, scores.size(0), beam, device=best.device).unsqueeze(1)
        return best, tokens.view(best.size(0), -1).gather(1, at), first + at.div(k, rounding_mode="floor")


def _hypothesis(tokens: Tensor, score: float, positional_scores: Tensor) -> Hypothesis:
    none = torch.empty(0)
    return {
        "tokens": tokens,
        "score": torch.tensor(score),
        "attention": none,
        "alignment": none,
        "positional_scores": positional_scores,
    }
