"""The prompt around the speech: a template with ``{speech}``, split into what stands before and after it."""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES

#: LST's conversation (arXiv 2310.02050): one fixed instruction for translation.
LST_PROMPT = "USER: {speech} Start by converting the English audio into {tgt_lang} written form. ASSISTANT:"
PLACEHOLDERS = ("speech", "tgt_lang")


def language_name(code: str) -> str:
    """English name of a language code: ``de`` -> ``German``; an unknown code is an error that lists the known ones."""
    if code not in LANGUAGES:
        raise ValueError(f"unknown language code {code!r}; known: {', '.join(sorted(LANGUAGES))}")
    return LANGUAGES[code].title()


def fill_prompt(template: str, tgt_lang: str | None) -> str:
    """The template with its language named; ``{speech}`` stays.

    Raises:
        ValueError: ``{speech}`` is not there exactly once, another placeholder is, or ``{tgt_lang}`` has no value.
    """
    unknown = sorted(set(re.findall(r"\{(\w*)\}", template)) - set(PLACEHOLDERS))
    if unknown:
        raise ValueError(f"--prompt {template!r}: unknown placeholder {unknown}; valid: {list(PLACEHOLDERS)}")
    if template.count("{speech}") != 1:
        raise ValueError(f"--prompt {template!r} must contain {{speech}} exactly once: that is where the speech goes")
    if "{tgt_lang}" in template:
        if not tgt_lang:
            raise ValueError(
                f"--prompt {template!r} names the target language: give --target-lang CODE, or "
                "`target_lang: CODE` in the data config"
            )
        template = template.replace("{tgt_lang}", language_name(tgt_lang))
    return template


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the speech."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def from_text(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> "Prompt":
        """Tokenise a filled template; the begin-of-sentence token stands first where the LLM has one."""
        before, after = text.split("{speech}")

        def encode(part: str) -> tuple[int, ...]:
            return tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) if part else ()

        bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        return cls(bos + encode(before.strip()), encode(after.strip()))

    def __len__(self) -> int:
        return len(self.before) + len(self.after)
