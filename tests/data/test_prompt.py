"""Prompts: templates and instructions filled, refused with the remedy, and tokenised around the speech."""

import pytest
import torch
from transformers import AutoTokenizer

from lst_fairseq.data.prompt import INSTRUCTIONS, Prompt, Prompts, PromptSettings, collate_prompts, language_name

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def tokenizer(backbones):
    return AutoTokenizer.from_pretrained(backbones["llama"])


def filled(settings, task="", src_lang="", tgt_lang="", tokenizer=None):
    return settings.texts(task, src_lang, tgt_lang, tokenizer)


def test_the_papers_prompt_names_the_languages():
    settings = PromptSettings(tgt_lang="de")
    assert filled(settings) == (
        "USER: {speech} Start by converting the English audio into German written form. ASSISTANT:",
    )
    assert filled(settings, "st", "it", "fr") == (
        "USER: {speech} Start by converting the Italian audio into French written form. ASSISTANT:",
    )
    assert filled(PromptSettings("{speech} in {tgt_lang}, {tgt_lang}:", tgt_lang="fr")) == (
        "{speech} in French, French:",
    )
    assert filled(PromptSettings("Only {speech}\n")) == ("Only {speech}",)


def test_a_task_has_its_own_instructions():
    texts = filled(PromptSettings(), "asr")
    assert len(texts) == len(set(texts)) == 10 == len(INSTRUCTIONS["asr"])
    assert all(text.startswith("USER: {speech} ") and "English" in text for text in texts)
    settings = PromptSettings("{speech} {instruction}", {"st": ["To {tgt_lang}:", "Into {tgt_lang}:"], "mt": "Say it:"})
    assert filled(settings, "", "", "es") == ("{speech} To Spanish:", "{speech} Into Spanish:")
    assert filled(settings, "mt") == ("{speech} Say it:",)
    assert filled(settings, "asr")[0].startswith("{speech} Write down")  # those that are not given stay


@pytest.mark.parametrize(
    ("code", "name"), [("de", "German"), ("fr", "French"), ("es_MX", "Spanish"), ("zh-CN", "Chinese")]
)
def test_language_names(code, name):
    assert language_name(code) == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "Translate:"}, r"--prompt 'Translate:' must contain \{speech\} exactly once"),
        ({"template": "{speech} {speech}"}, r"must contain \{speech\} exactly once"),
        ({"template": "{speech} {lang}"}, r"unknown placeholder \['lang'\]; valid: \['speech', 'instruction', "),
        ({"template": "{speech} {}"}, r"unknown placeholder \[''\]; valid"),
        ({"instructions": {"st": "Say {speech}"}}, r"instruction of task 'st' .* unknown placeholder \['speech'\]"),
        ({"instructions": {"st": []}}, "instructions of task 'st': give a text or a list of texts"),
        ({"instructions": {"st": [3]}}, "instructions of task 'st': give a text or a list of texts"),
        ({"cot_separator": " "}, "cot_separator ' ': give a text that no translation contains, such as ' => '"),
        ({"cot_separator": 3}, "cot_separator 3: give a text"),
    ],
)
def test_settings_that_cannot_serve(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(**settings)


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (
            "{speech} {tgt_lang}",
            ("", "", ""),
            "give --target-lang CODE, or `target_lang: CODE` in the data config, or a",
        ),
        ("{speech} {tgt_lang}", ("", "", "xx"), "unknown language code 'xx'; known: .*de, .*en, "),
        ("{speech} {tgt_lang}", ("", "", "German"), "unknown language code 'German'; known"),
        (
            "{speech} {instruction}",
            ("sing", "", "de"),
            "no instruction for task 'sing'; tasks with one: asr, cot, mt, st; add it",
        ),
    ],
)
def test_rows_that_cannot_be_served(template, row, message):
    with pytest.raises(ValueError, match=message):
        filled(PromptSettings(template), *row)


def test_settings_survive_a_checkpoint():
    settings = PromptSettings("{speech} {instruction}", {"mt": "Say it:"}, "it", "de", " | ")
    saved = settings.as_dict()
    assert PromptSettings(**saved) == settings and PromptSettings(**saved).as_dict() == saved


def test_ids_around_the_speech(tokenizer):
    prompt = Prompt.from_text("Der Zug {speech} ist da:", tokenizer)
    plain = [tokenizer.encode(part, add_special_tokens=False) for part in ("Der Zug", "ist da:")]
    assert prompt.before == (tokenizer.bos_token_id, *plain[0])
    assert prompt.after == tuple(plain[1])
    assert len(prompt) == 1 + len(plain[0]) + len(plain[1])


def test_speech_alone_and_no_begin_token(tokenizer):
    assert Prompt.from_text("{speech}", tokenizer) == Prompt((tokenizer.bos_token_id,), ())
    tokenizer.bos_token = None
    assert Prompt.from_text("{speech}", tokenizer) == Prompt((), ())


def test_the_tokenizers_own_chat_template(tokenizer):
    """Whole turns as the tokenizer writes them, white space and all, and its begin of sentence once."""
    prompts = Prompts(PromptSettings("chat", {"st": "Deutsch, bitte."}, tgt_lang="de"), tokenizer)
    with pytest.raises(ValueError, match="--prompt chat: the LLM's tokenizer has no chat template"):
        prompts.choices()
    tokenizer.chat_template = CHAT_TEMPLATE
    (prompt,) = prompts.choices()
    before, after = "<s><|user|>\n", " Deutsch, bitte.</s>\n<|assistant|>\n"
    assert prompt.before == tuple(tokenizer.encode(before, add_special_tokens=False))
    assert prompt.after == tuple(tokenizer.encode(after, add_special_tokens=False))
    assert prompt.before.count(tokenizer.bos_token_id) == 1 and tokenizer.eos_token_id in prompt.after


def test_the_longest_prompt_of_a_task(tokenizer):
    settings = PromptSettings("{speech} {instruction}", {"st": ["Ja.", "Der Hund schläft heute."]})
    prompts = Prompts(settings, tokenizer)
    assert prompts.longest() == max(map(len, prompts.choices())) > min(map(len, prompts.choices()))


def test_every_task_has_instructions():
    """That of text translation names no audio, which there is none of."""
    settings = PromptSettings("{speech} {instruction}")
    assert sorted(INSTRUCTIONS) == ["asr", "cot", "mt", "st"]
    for task in INSTRUCTIONS:
        for text in filled(settings, task, "it", "fr"):
            assert "Italian" in text and ("French" in text) == (task != "asr")
    (text,) = filled(settings, "mt", "it", "fr")
    assert text == "{speech} Translate the Italian text into French."


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Yes. => Ja.", ("Yes.", "Ja.")),
        ("Yes.=>Ja.", ("Yes.", "Ja.")),  # as a tokenizer may write it
        ("a => b => Ja.", ("a => b", "Ja.")),
        ("Yes. =>", ("Yes.", "")),
        ("Yes.", ("Yes.", "")),
    ],
)
def test_a_chain_of_thought_is_split_at_its_last_separator(text, parts):
    assert PromptSettings().split_cot(text) == parts


def test_placeholders_of_a_task():
    settings = PromptSettings("{speech} {instruction}", {"st": ["To {tgt_lang}:", "From {src_lang}:"]})
    mentioned = {name: settings.mentions(name, "st") for name in ("instruction", "tgt_lang", "src_lang")}
    assert mentioned == {"instruction": True, "tgt_lang": True, "src_lang": False}  # decoding takes the first
    assert not PromptSettings("{speech} {src_lang}").mentions("tgt_lang", "st")
    assert PromptSettings("chat").mentions("instruction", "st")


def test_a_source_text_in_the_place_of_speech():
    assert Prompt((1, 5), (7, 8)).around_text([3, 4]) == Prompt((1, 5, 3, 4, 7, 8), ())


def test_a_batch_of_prompts():
    batch = collate_prompts([Prompt((1, 5), (7,)), Prompt((1,), ())])
    assert batch["prompt_before"].tolist() == [[1, 5], [1, -1]]
    assert batch["prompt_after"].tolist() == [[7], [-1]]
    empty = collate_prompts([Prompt((), ())])
    assert empty["prompt_before"].shape == (1, 0) and empty["prompt_after"].dtype == torch.long
