"""Chat templates are programs: what they write is taken, and what else they do ends with them."""

from pathlib import Path

import pytest

from lst_fairseq.data import chat_template
from lst_fairseq.data.chat_template import ChatTemplateError, render
from lst_fairseq.data.prompt import PromptSettings
from lst_fairseq.models.pretrained import load_tokenizer

TURNS = [{"role": "user", "content": "hello {speech}"}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)
BAD = {
    LOOP: "takes more than 1 s or",
    DOUBLING: "MemoryError",
    "{{ [0] * 10**12 }}": "MemoryError",
    "{{ 'x' * 200000 }}": "ValueError: 200,000 characters",
    "{{": "TemplateSyntaxError",
    "{{ ''.__class__.__mro__ }}": "SecurityError",
    "{{ raise_exception('no\nway') }}": "TemplateError: no way",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}": "RecursionError",
}


@pytest.fixture
def tokenizer(backbones):
    return load_tokenizer(Path(backbones["llama"]), "--llm")


@pytest.mark.parametrize("template", BAD)
def test_harmful_templates(template, tokenizer, monkeypatch):
    monkeypatch.setattr(chat_template, "MOST_SECONDS", 1)
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match=r"^--prompt chat: the chat template in ") as caught:
        render(tokenizer, TURNS)
    message = str(caught.value)
    assert BAD[template] in message and tokenizer.name_or_path in message and "\n" not in message
    assert message.endswith("write the prompt out instead, or mend the template")


def test_a_template_is_rendered_once(tokenizer, monkeypatch):
    tokenizer.chat_template = "<{{ messages[0].content }}>{% if add_generation_prompt %} A:{% endif %}"
    assert render(tokenizer, TURNS) == "<hello {speech}> A:"
    monkeypatch.setattr(chat_template, "_in_child", None)
    assert render(tokenizer, TURNS) == "<hello {speech}> A:"


@pytest.mark.parametrize("template", ["nothing", "{{ messages[0].content * 2 }}"])
def test_the_turn_is_written_once(template, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="does not write the user's turn exactly once"):
        PromptSettings("chat").texts("", "en", "de", tokenizer)
