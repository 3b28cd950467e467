"""The LLM as a fairseq decoder: prompt, speech, then the target, with the prefix computed once a sentence."""

import inspect
from functools import partial
from typing import Any

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import NO_TOKEN
from lst_fairseq.models.llm.cuda_graphs import RecordedSteps, Recording, graph_type
from lst_fairseq.models.llm.families import cache_argument, check_llm, position_limit
from lst_fairseq.models.llm.onednn_weights import PackedLinears
from lst_fairseq.models.llm.prefix_cache import (
    CannotSharePrefix,
    FannedOutCache,
    SharedPrefixCache,
    say_fanned_out,
    shares_prefixes,
)
from lst_fairseq.models.llm.sequence_packing import ATTENTION, PackedRows, packs


def left_pad(content: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's content to the right end, keeping its order.

    Args:
        content: [B, L, E], where row b holds content at the positions where ``mask[b]`` is True.
        mask: bool [B, L].

    Returns:
        [B, P, E] and its mask [B, P], P being the longest row's number of positions.
    """
    longest = int(mask.sum(dim=1).max())
    order = mask.long().argsort(dim=1, stable=True)[:, -longest:]
    rows = torch.arange(mask.size(0), device=mask.device).unsqueeze(1)
    return content[rows, order], mask[rows, order]


class LlmDecoder(FairseqIncrementalDecoder):
    """A Hugging Face causal LLM behind fairseq's incremental decoder interface.

    A sentence is ``prompt | speech | prompt | target`` to the LLM. In training, sentences stand one after the other in
    one row where the LLM's attention allows it (``sequence_packing.py``), else side by side, left-padded so that each
    target begins at the same place. Logits are computed for target positions only. fairseq's first target input, the
    end of sentence, stands for the prefix: the prefix's last position predicts the first token.

    Args:
        llm: any ``AutoModelForCausalLM`` that accepts ``inputs_embeds`` and keeps keys and values of its past.
        dictionary: the LLM's vocabulary.
        freeze: keep the LLM's weights; it then runs in eval mode.
        max_speech: LLM positions of the longest speech that decoding must leave room for.
        max_prompt: positions of the longest prompt, likewise.

    Attributes:
        recording: whether steps of beam search on a GPU are recorded and replayed.

    Raises:
        ValueError: the LLM cannot serve (:func:`check_llm`).
    """

    def __init__(self, llm: PreTrainedModel, dictionary: LlmDictionary, freeze: bool, max_speech: int, max_prompt: int):
        super().__init__(dictionary)
        self.llm = llm
        self.freeze = freeze
        self.llm_arguments = set(inspect.signature(llm.forward).parameters)
        check_llm(llm, self.llm_arguments)
        self.cache_argument = cache_argument(self.llm_arguments)
        self.shares_prefixes = shares_prefixes(llm, self.llm_arguments)
        self.packs = packs(llm, self.llm_arguments)
        self.recording = Recording()
        self.llm_positions = position_limit(llm.config)
        self.max_speech = max_speech
        self.max_prompt = max_prompt
        without_token = torch.tensor(dictionary.ids_without_token, dtype=torch.long)
        self.register_buffer("without_token", without_token, persistent=False)

    def train(self, mode: bool = True) -> "LlmDecoder":
        """A frozen LLM stays in eval mode: its dropout would be noise on the adapter's gradient."""
        super().train(mode)
        if self.freeze:
            self.llm.eval()
            # transformers recomputes activations of layers in training mode only. Dropout has modules and flags of its
            # own below the layer, which stay in eval mode.
            for module in self.llm.modules():
                if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                    module.training = mode
        return self

    def max_positions(self) -> int:
        """Target tokens that fit behind the longest prefix."""
        return max(1, self.llm_positions - self.max_speech - self.max_prompt)

    def room(self, encoder_out: dict[str, Tensor]) -> int:
        """Target tokens that fit behind the longest prefix of a batch, which may be longer than any in training.

        Raises:
            ValueError: that prefix alone does not fit.
        """
        prompts = [encoder_out[side].ne(NO_TOKEN).sum(dim=1) for side in ("prompt_before", "prompt_after")]
        longest = int((encoder_out["speech_lengths"] + sum(prompts)).max())
        if longest > self.llm_positions:
            raise ValueError(
                f"speech and prompt take {longest:,} positions of the LLM, which has {self.llm_positions:,}: cut the "
                "speech into shorter segments"
            )
        return max(1, self.llm_positions - longest)

    def reserve_prompt(self, positions: int) -> None:
        """Leave room for prompts that long."""
        self.max_prompt = max(self.max_prompt, positions)

    def prefix(self, encoder_out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of prompt and speech, left-padded: [B, P, E], and bool mask [B, P], one row a sentence."""
        return left_pad(*self._prefix(encoder_out))

    def _prefix(self, encoder_out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of prompt and speech with gaps between them: [B, L, E], and where they are no gap, bool [B, L]."""
        speech, lengths = encoder_out["speech"], encoder_out["speech_lengths"]
        before, after = encoder_out["prompt_before"], encoder_out["prompt_after"]
        embed = self.llm.get_input_embeddings()
        # Any id will do where there is no token: left_pad drops it.
        parts = [embed(before.clamp(min=0)), speech, embed(after.clamp(min=0))]
        has_speech = torch.arange(speech.size(1), device=speech.device) < lengths.unsqueeze(1)
        mask = torch.cat([before.ne(NO_TOKEN), has_speech, after.ne(NO_TOKEN)], dim=1)
        return torch.cat([part.to(parts[0].dtype) for part in parts], dim=1), mask

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, Tensor],
        incremental_state: dict[str, Any] | None = None,
        kept: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, None]]:
        """Logits of the next token.

        Args:
            prev_output_tokens: LongTensor [B, T] as fairseq makes it: the end of sentence, then the target so far.
            encoder_out: what :class:`SpeechEncoder` returned, perhaps reordered.
            incremental_state: None for a whole target (training, scoring); else the generator's dict, in which the
                key/value cache is kept.
            kept: bool [B, T], the positions of a whole target whose logits are wanted; N of them.

        Returns:
            logits [B, T, V], or [N, V] with ``kept``, or [B, 1, V] with an incremental state, and ``{"attn": None}``.
            Beyond a row's own target, logits are of no use.
        """
        if incremental_state is not None:
            logits = self._step(prev_output_tokens, encoder_out, incremental_state)
            logits.index_fill_(-1, self.without_token, -torch.inf)
            return logits, {"attn": None}
        content, mask = self._prefix(encoder_out)
        row = encoder_out["row"]
        if row.size(0) != content.size(0) or not torch.equal(row, torch.arange(row.size(0), device=row.device)):
            content, mask = content[row], mask[row]
        if not self.packs:
            logits = self._score_padded(prev_output_tokens, content, mask)
            return logits if kept is None else logits[kept], {"attn": None}
        fed = prev_output_tokens.ne(self.dictionary.pad())
        fed[:, 0] = True
        logits = self._score_packed(prev_output_tokens, fed, fed if kept is None else kept, content, mask)
        if kept is None:
            places = fed.flatten().cumsum(dim=0) - 1
            logits = reshaped(logits.index_select(0, places), *fed.shape)
        return logits, {"attn": None}

    def _score_padded(self, prev_output_tokens: Tensor, content: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, T, V], the sentences side by side with their targets beginning at the same place."""
        prefix, mask = left_pad(content, mask)
        target = prev_output_tokens[:, 1:]
        inputs = torch.cat([prefix, self.llm.get_input_embeddings()(target).to(prefix.dtype)], dim=1)
        mask = torch.cat([mask, target.ne(self.dictionary.pad())], dim=1)
        return self._logits(
            inputs,
            prev_output_tokens.size(1),
            attention_mask=mask.long(),
            position_ids=positions(mask),
            use_cache=False,
        )

    def _score_packed(
        self, prev_output_tokens: Tensor, fed: Tensor, kept: Tensor, content: Tensor, mask: Tensor
    ) -> Tensor:
        """Logits [N, V] at the kept positions [B, T] of the targets, the sentences one after the other in one row.

        ``fed`` [B, T] is True where ``prev_output_tokens`` holds a sentence's own tokens.
        """
        target = self.llm.get_input_embeddings()(prev_output_tokens[:, 1:]).to(content.dtype)
        packed = PackedRows(torch.cat([mask, fed[:, 1:]], dim=1))
        first = packed.starts + mask.sum(dim=1) - 1  # the prefix's last position predicts the first token
        places = first.unsqueeze(1) + torch.arange(fed.size(1), device=fed.device)
        content = torch.cat([content, target], dim=1)
        return self._packed_logits(packed, content, places[kept], use_cache=False)

    def _packed_logits(
        self, packed: PackedRows, content: Tensor, places: Tensor, cache: DynamicCache | None = None, **arguments: Any
    ) -> Tensor:
        """The LLM's logits [N, V] at N places of the row that content [B, L, E] makes."""
        # For good: layers that are computed again in the backward pass look it up again.
        self.llm.config.get_text_config()._attn_implementation = ATTENTION
        output = self.llm(
            inputs_embeds=packed.pack(content),
            attention_mask=packed.no_mask,
            position_ids=packed.positions,
            logits_to_keep=places,
            packed=packed,
            **{self.cache_argument: cache},
            **arguments,
        )
        return reshaped(output.logits, places.numel())

    def _logits(self, inputs: Tensor, keep: int, cache: DynamicCache | None = None, **arguments: Any) -> Tensor:
        """The LLM's logits [B, keep, V] at the last positions of its input [B, L, E]."""
        arguments[self.cache_argument] = cache
        if "logits_to_keep" in self.llm_arguments:
            arguments["logits_to_keep"] = keep
        if "position_ids" not in self.llm_arguments:  # ALiBi's distances follow from the mask
            arguments.pop("position_ids")
        return self.llm(inputs_embeds=inputs, **arguments).logits[:, -keep:]

    def _step(self, prev_output_tokens: Tensor, encoder_out: dict[str, Tensor], state: dict[str, Any]) -> Tensor:
        if "cache" not in state:
            logits = self._prefill(encoder_out, state)
        tokens = prev_output_tokens[:, state["seen"] :]
        if tokens.size(1):
            try:
                logits = self._next(tokens, state)
            except CannotSharePrefix as error:  # at the first token: an attention's signature does not tell
                say_fanned_out(self.llm, str(error))
                self.shares_prefixes = False
                self._prefill(encoder_out, state)
                logits = self._next(tokens, state)
            state["seen"] += tokens.size(1)
        return logits

    def _next(self, tokens: Tensor, state: dict[str, Any]) -> Tensor:
        """Logits [R, 1, V] after the tokens [R, T] that come next."""
        if state["recorded"] is not None:
            return state["recorded"](tokens)
        cache: FannedOutCache | SharedPrefixCache = state["cache"]
        return self._run(cache, state["linears"], tokens, cache.arguments(tokens.size(1)))

    def _run(
        self,
        cache: FannedOutCache | SharedPrefixCache,
        linears: PackedLinears,
        tokens: Tensor,
        arguments: dict[str, Any],
    ) -> Tensor:
        inputs = self.llm.get_input_embeddings()(tokens)
        with cache.attention(), linears:
            return self._logits(inputs, 1, **arguments)

    def _prefill(self, encoder_out: dict[str, Tensor], state: dict[str, Any]) -> Tensor:
        """Run the prefix once a sentence, for all of the sentence's beams."""
        content, mask = self._prefix(encoder_out)
        row = encoder_out["row"]
        beam = max(1, row.size(0) // mask.size(0))
        side_by_side = torch.arange(mask.size(0), device=row.device).repeat_interleave(beam)
        share = self.shares_prefixes and torch.equal(row, side_by_side)
        # Layers that keep all positions: which of them a window hides depends on the tokens to come.
        cache = DynamicCache() if share else DynamicCache(config=self.llm.config)
        linears = state["linears"] = PackedLinears(self.llm)
        packed = PackedRows(mask, linears.prefix_multiple) if share and self.packs else None
        if packed is None:  # by the weights as they are: oneDNN would meet too many sizes
            prefix, mask = left_pad(content, mask)
            arguments = {"attention_mask": mask.long(), "position_ids": positions(mask)}
            logits = self._logits(prefix, 1, cache, use_cache=True, **arguments)
        else:
            last = packed.starts + packed.lengths - 1
            with linears:
                logits = self._packed_logits(packed, content, last, cache, use_cache=True).unsqueeze(1)
            mask = packed.content_ending_together
        state["seen"], state["recorded"] = 1, None
        if share:
            state["cache"] = SharedPrefixCache(self.llm, cache, mask, beam, packed)
            graph = graph_type(self.llm, mask.device)
            if graph is not None and self.recording.wanted and not torch.is_grad_enabled():
                run = partial(self._run, state["cache"], linears)
                state["recorded"] = RecordedSteps(run, state["cache"], self.recording, graph)
        else:
            state["cache"] = FannedOutCache(cache, mask, row)
        return logits[row]

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> dict[str, Any]:
        """Follow the search: rows move between beams, and those of finished sentences leave."""
        if "cache" in incremental_state:
            incremental_state["cache"].reorder(new_order)
        return incremental_state


def reshaped(logits: Tensor, *shape: int) -> Tensor:
    """Fresh logits [..., V] as [*shape, V], on the same memory but, to autograd, no view.

    FSDP2 hangs its hook for the backward pass on what a model returns, and a view may lose it: the engine warns of one.
    """
    return torch.ops.aten._unsafe_view(logits, [*shape, logits.size(-1)])


def positions(mask: Tensor) -> Tensor:
    """Position ids [B, L] that count a row's content from 0, whatever padding stands before it."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)
