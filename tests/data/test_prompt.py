"""Prompt templates: filled, refused with the remedy, and split around the speech."""

import pytest
from transformers import AutoTokenizer

from lst_fairseq.data.prompt import LST_PROMPT, Prompt, fill_prompt, language_name


def test_the_papers_prompt_names_the_language():
    filled = fill_prompt(LST_PROMPT, "de")
    assert filled == "USER: {speech} Start by converting the English audio into German written form. ASSISTANT:"
    assert fill_prompt("{speech} in {tgt_lang}, {tgt_lang}:", "fr") == "{speech} in French, French:"
    assert fill_prompt("Only {speech}", None) == "Only {speech}"


@pytest.mark.parametrize(("code", "name"), [("de", "German"), ("fr", "French"), ("es", "Spanish")])
def test_language_names(code, name):
    assert language_name(code) == name


@pytest.mark.parametrize(
    ("template", "language", "message"),
    [
        ("Translate:", "de", r"--prompt 'Translate:' must contain \{speech\} exactly once"),
        ("{speech} {speech}", "de", r"must contain \{speech\} exactly once"),
        ("{speech} {source_lang}", "de", r"unknown placeholder \['source_lang'\]; valid: \['speech', 'tgt_lang'\]"),
        ("{speech} {}", "de", r"unknown placeholder \[''\]; valid"),
        ("{speech} {tgt_lang}", None, "give --target-lang CODE, or `target_lang: CODE` in the data config"),
        ("{speech} {tgt_lang}", "xx", "unknown language code 'xx'; known: .*de, .*en, "),
        ("{speech} {tgt_lang}", "German", "unknown language code 'German'; known"),
    ],
)
def test_templates_that_cannot_serve(template, language, message):
    with pytest.raises(ValueError, match=message):
        fill_prompt(template, language)


def test_ids_around_the_speech(backbones):
    tokenizer = AutoTokenizer.from_pretrained(backbones["llama"])
    prompt = Prompt.from_text("Der Zug {speech} ist da:", tokenizer)
    plain = [tokenizer.encode(part, add_special_tokens=False) for part in ("Der Zug", "ist da:")]
    assert prompt.before == (tokenizer.bos_token_id, *plain[0])
    assert prompt.after == tuple(plain[1])
    assert len(prompt) == 1 + len(plain[0]) + len(plain[1])


def test_speech_alone_and_no_begin_token(backbones):
    tokenizer = AutoTokenizer.from_pretrained(backbones["llama"])
    assert Prompt.from_text("{speech}", tokenizer) == Prompt((tokenizer.bos_token_id,), ())
    tokenizer.bos_token = None
    assert Prompt.from_text("{speech}", tokenizer) == Prompt((), ())
