"""The LLM's tokenizer seen as a fairseq Dictionary: index i of the dictionary is id i of the LLM."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fairseq.data import Dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Everything that some reader of text files takes for the end of a line or field.
LINE_BREAKS = "[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]+"
#: The byte 0xFF as byte-level BPE and sentencepiece's byte fallback write it. No UTF-8 text contains it.
BYTE_FF = ("ÿ", "<0xFF>")


class LlmDictionary(Dictionary):
    """One-to-one view of an LLM's vocabulary, so that fairseq's generator and scorers work unchanged.

    It may be made before the LLM is known: fairseq-generate asks the task for its dictionary first and reads the
    checkpoint, which names the LLM, afterwards. :meth:`bind` fills it in; using it earlier is an error.

    Attributes:
        tokenizer: the LLM's tokenizer, None before :meth:`bind`.
        ids_without_token: outputs of the LLM for which the tokenizer has no token: LLMs pad their tables, and some
            tokenizers leave ids out. The decoder never emits them.
    """

    def __init__(self) -> None:
        super().__init__(add_special_symbols=False)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.ids_without_token: list[int] = []

    def bind(self, tokenizer: PreTrainedTokenizerBase, n_logits: int) -> None:
        """Take over a tokenizer's vocabulary.

        Args:
            tokenizer: the LLM's own tokenizer.
            n_logits: width of the LLM's output, beyond the tokenizer's largest id. Ids without a token get a
                placeholder symbol.

        Raises:
            ValueError: the tokenizer has no end-of-sentence token, no token that can serve as padding, or tokens
                beyond the LLM's outputs.
        """
        ids = sorted(set(tokenizer.get_vocab().values()))
        if ids[-1] >= n_logits:
            raise ValueError(
                f"the tokenizer has {ids[-1] + 1} tokens and the LLM only {n_logits} outputs: take the tokenizer that "
                "belongs to the LLM, or resize the LLM's embeddings"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the LLM's tokenizer has no end-of-sentence token (eos_token): copy its tokenizer_config.json again, "
                "or name the token there"
            )
        self.tokenizer = tokenizer
        tokens = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
        self.ids_without_token = [i for i in range(n_logits) if i not in tokens]
        self.symbols = [tokens.get(i, f"<unused_{i}>") for i in range(n_logits)]
        self.indices = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.count = [1] * n_logits
        self.eos_index = tokenizer.eos_token_id
        self.pad_index = self._padding_id()
        self.bos_index = self.pad_index if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        # GPT-2 and Qwen have one token for all of them; fairseq's penalty on unknown words must not fall on the end.
        has_unk = tokenizer.unk_token_id not in (None, self.eos_index)
        self.unk_index = tokenizer.unk_token_id if has_unk else self.pad_index
        self.bos_word, self.pad_word = self.symbols[self.bos_index], self.symbols[self.pad_index]
        self.eos_word, self.unk_word = self.symbols[self.eos_index], self.symbols[self.unk_index]
        self.nspecial = 0

    def _padding_id(self) -> int:
        """An id that never occurs in a target: fairseq masks it in the loss and forbids it in the search.

        Many LLMs come without a padding token, or with the end of sentence in its place. The begin of sentence serves
        as well (Llama), since targets are encoded without special tokens; so does an output without a token or another
        special token (Qwen), or the token of a byte that no text contains (GPT-2). The unknown word is the last choice:
        some tokenizers need it in targets.
        """
        tokenizer = self.tokenizer
        unknown = tokenizer.unk_token_id
        special = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i != unknown)
        bytes_ff = [i for i in tokenizer.convert_tokens_to_ids(list(BYTE_FF)) if i not in (None, unknown)]
        candidates = [
            *(tokenizer.pad_token_id, tokenizer.bos_token_id),
            *self.ids_without_token,
            *special,
            *(i for i in bytes_ff if tokenizer.decode([i]) == "\ufffd"),
            unknown,
        ]
        for candidate in candidates:
            if candidate not in (None, self.eos_index):
                return candidate
        raise ValueError(
            "the LLM's tokenizer has no pad, bos, unk or other special token apart from the end of sentence, and no "
            "token of a byte that no text contains: add a pad token to it"
        )

    def __len__(self) -> int:
        self._check_bound()
        return len(self.symbols)

    def pad(self) -> int:
        self._check_bound()
        return self.pad_index

    def eos(self) -> int:
        self._check_bound()
        return self.eos_index

    def unk(self) -> int:
        self._check_bound()
        return self.unk_index

    def bos(self) -> int:
        self._check_bound()
        return self.bos_index

    def _check_bound(self) -> None:
        if self.tokenizer is None:
            raise RuntimeError("the LLM is not known yet: give --llm DIRECTORY, or load a checkpoint, which names it")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens and without the end of sentence.

        A text in which "</s>" is written means these four characters, and not the end of the sentence.
        """
        self._check_bound()
        if not texts:
            return []
        only_ids = {"return_attention_mask": False, "return_token_type_ids": False}
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, **only_ids)
        return encoded["input_ids"]

    def fingerprint(self) -> str:
        """A hash of all that a text's ids depend on: the whole tokenizer, and the versions of its libraries."""
        import tokenizers
        import transformers

        self._check_bound()
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            state = json.loads(backend.to_str())
            # Calls of the tokenizer change these two, and encode() uses neither.
            state.update(truncation=None, padding=None)
        else:
            state = {"vocabulary": self.tokenizer.get_vocab(), "settings": self.tokenizer.init_kwargs}
        versions = [type(self.tokenizer).__name__, tokenizers.__version__, transformers.__version__]
        return hashlib.sha256(json.dumps([state, versions], sort_keys=True, default=str).encode()).hexdigest()

    def encode_line(self, line: str, *args: Any, append_eos: bool = True, **kwargs: Any) -> torch.IntTensor:
        """Ids [T] of one text by the LLM's tokenizer; fairseq's other arguments do not apply to it."""
        ids = self.encode([line])[0] + ([self.eos_index] if append_eos else [])
        return torch.tensor(ids, dtype=torch.int32)

    def string(
        self,
        tensor: torch.Tensor | Iterable[int],
        bpe_symbol: str | None = None,
        escape_unk: bool = False,
        extra_symbols_to_ignore: Iterable[int] | None = None,
        unk_string: str | None = None,
        include_eos: bool = False,
        separator: str = " ",
    ) -> str:
        """Detokenised text of ids [T] (or [B, T], one line a row), on one line whatever the LLM emits.

        fairseq's arguments about subword symbols do not apply: the tokenizer itself undoes its segmentation.
        """
        if torch.is_tensor(tensor) and tensor.dim() == 2:
            return "\n".join(self.string(row, include_eos=include_eos) for row in tensor)
        self._check_bound()
        ignored = {self.pad_index, self.bos_index, *self.ids_without_token, *(extra_symbols_to_ignore or ())}
        # The begin of sentence may be the same token (OPT).
        (ignored.discard if include_eos else ignored.add)(self.eos_index)
        ids = [i for i in map(int, tensor) if i not in ignored]
        # A newline inside a hypothesis would end its line in every file that holds one sentence a line; other white
        # space (the no-break space of French) is text.
        return re.sub(LINE_BREAKS, " ", self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip()
