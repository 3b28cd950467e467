"""The LLM as a fairseq decoder: prompt, speech, then the target, with the prefix computed once a sentence."""

from typing import Any

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import Prompt

#: For LLMs whose positions have no table (ALiBi): no limit in practice, but fairseq needs a finite number.
UNLIMITED_POSITIONS = 100_000


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

    A row of the LLM's input is ``padding | prompt | speech | prompt | target``. The prefix ends at the same position in
    each row and the target begins there, so that logits are computed for target positions only. fairseq's first
    target input, the end of sentence, stands for the prefix: the prefix's last position predicts the first token.

    Args:
        llm: any ``AutoModelForCausalLM`` that accepts ``inputs_embeds``.
        dictionary: the LLM's vocabulary.
        prompt: token ids before and after the speech.
        freeze: keep the LLM's weights; it then runs in eval mode.
        max_prefix: positions of the longest prefix that decoding must leave room for.
    """

    def __init__(self, llm: PreTrainedModel, dictionary: LlmDictionary, prompt: Prompt, freeze: bool, max_prefix: int):
        super().__init__(dictionary)
        self.llm = llm
        self.freeze = freeze
        config = llm.config.get_text_config()
        self.llm_positions: int = getattr(config, "max_position_embeddings", None) or UNLIMITED_POSITIONS
        self.max_prefix = max_prefix
        self.n_tokens = len(dictionary.tokenizer)
        self.register_buffer("before", torch.tensor(prompt.before, dtype=torch.long), persistent=False)
        self.register_buffer("after", torch.tensor(prompt.after, dtype=torch.long), persistent=False)

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
        return max(1, self.llm_positions - self.max_prefix)

    def prefix(self, encoder_out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of prompt and speech, left-padded: [B, P, E], and bool mask [B, P], one row a sentence."""
        speech, lengths = encoder_out["speech"], encoder_out["speech_lengths"]
        rows = speech.size(0)
        embed = self.llm.get_input_embeddings()
        before, after = (embed(ids).to(speech.dtype).expand(rows, -1, -1) for ids in (self.before, self.after))
        has_speech = torch.arange(speech.size(1), device=speech.device) < lengths.unsqueeze(1)
        mask = torch.cat(
            [has_speech.new_ones(rows, before.size(1)), has_speech, has_speech.new_ones(rows, after.size(1))], dim=1
        )
        return left_pad(torch.cat([before, speech, after], dim=1), mask)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, Tensor],
        incremental_state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, None]]:
        """Logits of the next token.

        Args:
            prev_output_tokens: LongTensor [B, T] as fairseq makes it: the end of sentence, then the target so far.
            encoder_out: what :class:`SpeechEncoder` returned, perhaps reordered.
            incremental_state: None for a whole target (training, scoring); else the generator's dict, in which the
                key/value cache is kept.

        Returns:
            logits [B, T, V], or [B, 1, V] with an incremental state, and ``{"attn": None}``.
        """
        if incremental_state is None:
            logits = self._score_all(prev_output_tokens, encoder_out)
        else:
            logits = self._step(prev_output_tokens, encoder_out, incremental_state)
            # The LLM's table may be longer than its vocabulary; such an id has no text.
            logits[..., self.n_tokens :] = -torch.inf
        return logits, {"attn": None}

    def _score_all(self, prev_output_tokens: Tensor, encoder_out: dict[str, Tensor]) -> Tensor:
        prefix, mask = self.prefix(encoder_out)
        row = encoder_out["row"]
        if row.size(0) != prefix.size(0) or not torch.equal(row, torch.arange(row.size(0), device=row.device)):
            prefix, mask = prefix[row], mask[row]
        target = prev_output_tokens[:, 1:]
        target_mask = target.ne(self.dictionary.pad())
        inputs = torch.cat([prefix, self.llm.get_input_embeddings()(target).to(prefix.dtype)], dim=1)
        mask = torch.cat([mask, target_mask], dim=1)
        return self.llm(
            inputs_embeds=inputs,
            attention_mask=mask.long(),
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=prev_output_tokens.size(1),
        ).logits

    def _step(self, prev_output_tokens: Tensor, encoder_out: dict[str, Tensor], state: dict[str, Any]) -> Tensor:
        if "cache" not in state:
            logits = self._prefill(encoder_out, state)
        tokens = prev_output_tokens[:, state["seen"] :]
        if tokens.size(1):
            state["mask"] = torch.cat([state["mask"], state["mask"].new_ones(tokens.shape)], dim=1)
            logits = self.llm(
                inputs_embeds=self.llm.get_input_embeddings()(tokens).to(encoder_out["speech"].dtype),
                attention_mask=state["mask"].long(),
                position_ids=positions(state["mask"])[:, -tokens.size(1) :],
                past_key_values=state["cache"],
                use_cache=True,
                logits_to_keep=1,
            ).logits
            state["seen"] += tokens.size(1)
        return logits

    def _prefill(self, encoder_out: dict[str, Tensor], state: dict[str, Any]) -> Tensor:
        """Run the prefix once a sentence and fan its keys and values out to the sentence's beams."""
        prefix, mask = self.prefix(encoder_out)
        cache = DynamicCache(config=self.llm.config)
        logits = self.llm(
            inputs_embeds=prefix,
            attention_mask=mask.long(),
            position_ids=positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        row = encoder_out["row"]
        cache.batch_select_indices(row)
        state.update(cache=cache, mask=mask[row], seen=1)
        return logits[row]

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> dict[str, Any]:
        """Follow the search: rows move between beams, and those of finished sentences leave."""
        if "cache" in incremental_state:
            incremental_state["cache"].batch_select_indices(new_order)
            incremental_state["mask"] = incremental_state["mask"].index_select(0, new_order)
        return incremental_state


def positions(mask: Tensor) -> Tensor:
    """Position ids [B, L] that count a row's content from 0, whatever padding stands before it."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)
