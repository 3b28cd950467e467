"""The prompt around the speech: template, instructions and languages, split into what stands before and after it.

A template holds ``{speech}`` once and may hold ``{instruction}``, ``{src_lang}`` and ``{tgt_lang}``; the last two may
also stand in instructions. Instructions belong to a task (the manifest's ``task`` column); of several, training draws
one for each utterance and epoch, and decoding takes the first. In text translation the source text stands where
otherwise the speech does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lst_fairseq.data.chat_template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: LST's conversation (arXiv 2310.02050) and its one instruction for translation; those of the other tasks are ours.
LST_TEMPLATE = "USER: {speech} {instruction} ASSISTANT:"
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "st": ("Start by converting the {src_lang} audio into {tgt_lang} written form.",),
    "asr": (
        "Write down what is said in the {src_lang} audio.",
        "Transcribe the {src_lang} speech.",
        "Turn the {src_lang} recording into text.",
        "Please write out the {src_lang} words of this audio.",
        "What does the {src_lang} speaker say? Write it down word for word.",
        "Give the {src_lang} transcript of the audio.",
        "Put the spoken {src_lang} into written form.",
        "Listen to the {src_lang} audio and note what you hear.",
        "Produce a {src_lang} transcript of this speech.",
        "Convert the {src_lang} speech to {src_lang} text.",
    ),
    "mt": ("Translate the {src_lang} text into {tgt_lang}.",),
    "cot": ("Write down what is said in the {src_lang} audio, then translate it into {tgt_lang}.",),
}
#: As a template: the tokenizer's own chat template, with speech and instruction as the user's turn.
CHAT = "chat"
CHAT_TURN = "{speech} {instruction}"
DEFAULT_TASK = "st"
#: The default of lines that are text only.
TEXT_TASK = "mt"
#: Chain of thought: the target is the transcript, this separator, and the translation.
COT_TASK = "cot"
COT_SEPARATOR = " => "
DEFAULT_SOURCE = "en"
PLACEHOLDERS = ("speech", "instruction", "src_lang", "tgt_lang")
#: Beyond a row's own prompt, in a batch of token ids.
NO_TOKEN = -1


def language_name(code: str) -> str:
    """English name of a language code: ``de``, ``de_DE`` and ``de-AT`` -> ``German``; an unknown code is an error."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    base = re.split("[-_]", code)[0].lower()
    if base not in LANGUAGES:
        raise ValueError(f"unknown language code {code!r}; known: {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[base].title()


@dataclass(frozen=True)
class PromptSettings:
    """What makes a model's prompts; a checkpoint carries it.

    Attributes:
        template: text with placeholders, or ``chat``.
        instructions: for each task, the texts that ``{instruction}`` stands for.
        src_lang, tgt_lang: language codes for utterances whose manifest names none.
        cot_separator: what stands between transcript and translation in targets of the task ``cot``.

    Raises:
        ValueError: ``{speech}`` is not in the template exactly once, a placeholder is unknown, a task has no text, or
            the separator is blank.
    """

    template: str = LST_TEMPLATE
    instructions: Mapping[str, tuple[str, ...]] | None = None
    src_lang: str = DEFAULT_SOURCE
    tgt_lang: str | None = None
    cot_separator: str = COT_SEPARATOR

    def __post_init__(self) -> None:
        if not isinstance(self.cot_separator, str) or not self.cot_separator.strip():
            raise ValueError(
                f"cot_separator {self.cot_separator!r}: give a text that no translation contains, such as "
                f"{COT_SEPARATOR!r}"
            )
        object.__setattr__(self, "template", self.template.strip())
        given = {task: _texts(task, texts) for task, texts in (self.instructions or {}).items()}
        object.__setattr__(self, "instructions", {**INSTRUCTIONS, **given})
        if self.template != CHAT:
            _check_placeholders(self.template, PLACEHOLDERS, "--prompt")
            if self.template.count("{speech}") != 1:
                raise ValueError(
                    f"--prompt {self.template!r} must contain {{speech}} exactly once: write it where the speech goes "
                    f"(or give {CHAT!r}, for the tokenizer's own chat template)"
                )
        for task, texts in self.instructions.items():
            for text in texts:
                _check_placeholders(text, ("src_lang", "tgt_lang"), f"instruction of task {task!r}")

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and checkpoints."""
        instructions = {task: list(texts) for task, texts in sorted(self.instructions.items())}
        return {
            "template": self.template,
            "instructions": instructions,
            "src_lang": self.src_lang,
            "tgt_lang": self.tgt_lang,
            "cot_separator": self.cot_separator,
        }

    def mentions(self, placeholder: str, task: str) -> bool:
        """Whether the template, or decoding's instruction of a task in it, has that placeholder."""
        template = CHAT_TURN if self.template == CHAT else self.template
        instruction = self.instructions[task][0] if "{instruction}" in template else ""
        return f"{{{placeholder}}}" in template + instruction

    def split_cot(self, text: str) -> tuple[str, str]:
        """Transcript and translation of a hypothesis of the task ``cot``: what stands before and after the last
        separator. Without one it is all transcript."""
        transcript, separator, translation = text.rpartition(self.cot_separator.strip())
        return (transcript.strip(), translation.strip()) if separator else (text, "")

    def texts(self, task: str, src_lang: str, tgt_lang: str, chat: PreTrainedTokenizerBase) -> tuple[str, ...]:
        """Every prompt that an utterance may have, filled in, ``{speech}`` still in place; the first is decoding's.

        Args:
            task: of the manifest; empty for speech translation.
            src_lang, tgt_lang: language codes of the manifest; empty for the settings' own.
            chat: the tokenizer whose chat template serves for ``chat``.
        """
        template = _chat_text(chat) if self.template == CHAT else self.template
        instructions: Sequence[str] = ("",)
        if "{instruction}" in template:
            task = task or DEFAULT_TASK
            if task not in self.instructions:
                raise ValueError(
                    f"no instruction for task {task!r}; tasks with one: {', '.join(sorted(self.instructions))}; add it "
                    "under `instructions:` in the data config"
                )
            instructions = self.instructions[task]
        languages = {"src_lang": src_lang or self.src_lang, "tgt_lang": tgt_lang or self.tgt_lang}
        return tuple(self._fill(template.replace("{instruction}", text), languages) for text in instructions)

    def _fill(self, text: str, languages: Mapping[str, str | None]) -> str:
        for name, code in languages.items():
            if f"{{{name}}}" in text:
                if not code:
                    raise ValueError(
                        f"--prompt {self.template!r} names the target language: give --target-lang CODE, or "
                        "`target_lang: CODE` in the data config, or a column tgt_lang in the manifest"
                    )
                text = text.replace(f"{{{name}}}", language_name(code))
        return text


def _texts(task: str, texts: Any) -> tuple[str, ...]:
    listed = tuple(texts) if isinstance(texts, list | tuple) else (texts,)
    if not listed or not all(isinstance(text, str) and text.strip() for text in listed):
        raise ValueError(f"instructions of task {task!r}: give a text or a list of texts, not {texts!r}")
    return tuple(text.strip() for text in listed)


def _check_placeholders(text: str, known: Sequence[str], where: str) -> None:
    unknown = sorted(set(re.findall(r"\{(\w*)\}", text)) - set(known))
    if unknown:
        raise ValueError(f"{where} {text!r}: unknown placeholder {unknown}; valid: {list(known)}")


def _chat_text(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise ValueError(f"--prompt {CHAT}: the LLM's tokenizer has no chat template; write the prompt out instead")
    turns = [{"role": "user", "content": CHAT_TURN}]
    text = render(tokenizer, turns)
    if text.count("{speech}") != 1:
        raise ValueError(
            f"--prompt {CHAT}: the chat template in {tokenizer.name_or_path} does not write the user's turn exactly "
            "once; write the prompt out instead"
        )
    return text


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the speech."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def from_text(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """Tokenise a filled template; the begin-of-sentence token stands first where the LLM has one."""
        bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        before, after = text.split("{speech}")
        return cls(bos + _encode(before.strip(), tokenizer), _encode(after.strip(), tokenizer))

    @classmethod
    def from_chat(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """Tokenise a filled chat template, which writes its own special tokens and means every space and newline."""
        before, after = text.split("{speech}")
        return cls(_encode(before, tokenizer), _encode(after, tokenizer))

    def around_text(self, ids: Sequence[int]) -> Prompt:
        """The whole prompt of a source text: its token ids in the place of the speech, and no speech."""
        return Prompt((*self.before, *ids, *self.after), ())

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


class Prompts:
    """Tokenised prompts of a model, by task and languages.

    Args:
        settings: template, instructions and languages.
        tokenizer: the LLM's.
    """

    def __init__(self, settings: PromptSettings, tokenizer: PreTrainedTokenizerBase):
        self.settings = settings
        self.tokenizer = tokenizer
        self._known: dict[tuple[str, str, str], tuple[Prompt, ...]] = {}

    def choices(self, task: str = "", src_lang: str = "", tgt_lang: str = "") -> tuple[Prompt, ...]:
        """Every prompt of a task and a language pair, decoding's first; empty strings stand for the defaults."""
        key = (task, src_lang, tgt_lang)
        if key not in self._known:
            make = Prompt.from_chat if self.settings.template == CHAT else Prompt.from_text
            texts = self.settings.texts(*key, self.tokenizer)
            self._known[key] = tuple(make(text, self.tokenizer) for text in texts)
        return self._known[key]

    def longest(self, task: str = "", src_lang: str = "", tgt_lang: str = "") -> int:
        """Positions of the longest of them."""
        return max(map(len, self.choices(task, src_lang, tgt_lang)))


def collate_prompts(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """LongTensors ``prompt_before`` and ``prompt_after`` [B, P], each row's ids first, then ``NO_TOKEN``."""
    return {
        f"prompt_{side}": torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(getattr(prompt, side), dtype=torch.long) for prompt in prompts],
            batch_first=True,
            padding_value=NO_TOKEN,
        )
        for side in ("before", "after")
    }
