"""A tokenizer's chat template, rendered where it can do no harm.

A template is a program (Jinja): in a few characters it can loop for hours or ask for all memory.
"""

import contextlib
import json
import os
import resource
import signal
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lst_fairseq.utils.messages import with_type

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What rendering may take, in seconds of a processor and bytes, and how long its text may be.
MOST_SECONDS = 4
MOST_BYTES = 2**28
MOST_CHARACTERS = 100_000

_known: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, Any, str]]" = WeakKeyDictionary()


class ChatTemplateError(ValueError):
    """A chat template does not serve; the message says why, and what else to do."""


def render(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]]) -> str:
    """The text of a conversation, up to where the LLM's answer begins.

    Rendered once for each tokenizer, in a child of this process with little time and memory.

    Args:
        tokenizer: with a chat template.
        turns: the conversation, as transformers' ``apply_chat_template`` takes it.

    Raises:
        ChatTemplateError: it does not end, takes too much, or raises an error.
    """
    template, known = tokenizer.chat_template, _known.get(tokenizer)
    if known is not None and known[:2] == (template, turns):
        return known[2]
    where = f"--prompt chat: the chat template in {tokenizer.name_or_path}"
    remedy = "write the prompt out instead, or mend the template"
    answer = _in_child(tokenizer, turns)
    if not answer:
        limits = f"{MOST_SECONDS} s or {MOST_BYTES:,} bytes of memory"
        raise ChatTemplateError(f"{where} takes more than {limits}; {remedy}")
    said = json.loads(answer)
    if "error" in said:
        raise ChatTemplateError(f"{where} cannot be rendered ({said['error']}); {remedy}")
    _known[tokenizer] = (template, turns, said["text"])
    return said["text"]


def _in_child(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]]) -> bytes:
    """The child's answer, JSON; empty if it was ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: the child uses none
        child = os.fork()
    if child == 0:
        try:
            _limit()
            os.write(writing, _answer(tokenizer, turns))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


def _limit() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, MOST_SECONDS)]
    with (
        contextlib.suppress(OSError),  # no Linux: the seconds bound the memory, too
        open("/proc/self/statm", encoding="ascii") as file,
    ):
        in_use = int(file.read().split()[0]) * resource.getpagesize()
        limits.append((resource.RLIMIT_AS, in_use + MOST_BYTES))
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _answer(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]]) -> bytes:
    try:
        # enable_thinking: models that reason first (Qwen 3) then answer at once; others ignore it.
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{len(text):,} characters")
        return json.dumps({"text": text}).encode()
    except Exception as error:  # whatever the template asks for
        return json.dumps({"error": with_type(error)}).encode()
