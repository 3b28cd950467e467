"""The LLM's tokenizer as a fairseq Dictionary: one to one, exact text, a padding id that no target holds."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from lst_fairseq.data.dictionary import LlmDictionary
from tests.helpers import SENTENCES, build

HARD = [
    "Où est la gare\u00a0?",
    "« Bien sûr\u202f! », dit-elle.",
    "¿Dónde está el libro?",
    "Où est la gare ?",
    "Ja , nein .  Zwei  Leerzeichen.",
    "don 't, n't, 's",
    "</s> <s> <unk> sind hier Text.",
    "a ' b ! c , d .",
]
N_UNUSED = 3


def byte_level_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind Llama 3 has: any text, any special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "</s>", "<unk>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def metaspace_tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer().train_new_from_iterator([*SENTENCES, *HARD], vocab_size=120)


def bound(tokenizer: Any) -> LlmDictionary:
    dictionary = LlmDictionary()
    dictionary.bind(tokenizer, len(tokenizer) + N_UNUSED)
    return dictionary


TOKENIZERS = {
    "no pad": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>"),
    "pad": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "pad is eos": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="</s>"),
    "no bos": lambda: byte_level_tokenizer(eos_token="</s>", unk_token="<unk>"),
    "Llama 2": metaspace_tokenizer,
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def dictionary(request: pytest.FixtureRequest) -> LlmDictionary:
    return bound(TOKENIZERS[request.param]())


def test_ids_are_the_tokenizers(dictionary):
    tokenizer = dictionary.tokenizer
    assert len(dictionary) == len(tokenizer) + N_UNUSED
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        assert dictionary[i] == token and dictionary.index(token) == i
    assert len(set(dictionary.symbols)) == len(dictionary)  # the unused ids, too, have a symbol each
    assert dictionary.eos() == tokenizer.eos_token_id
    assert dictionary.encode(SENTENCES) == [tokenizer.encode(s, add_special_tokens=False) for s in SENTENCES]


def test_padding_is_not_the_end_and_in_no_target(dictionary):
    assert dictionary.pad() != dictionary.eos()
    for ids in dictionary.encode([*SENTENCES, *HARD, ""]):
        assert dictionary.pad() not in ids and dictionary.eos() not in ids


@pytest.mark.parametrize("text", [*SENTENCES, *HARD])
def test_text_comes_back_exactly(dictionary, text):
    ids = torch.tensor([*dictionary.encode([text])[0], dictionary.eos(), dictionary.pad(), dictionary.pad()])
    assert dictionary.string(ids) == text
    assert dictionary.string(dictionary.encode_line(text)) == text


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\t", "\u2028", "\x85", "\x0b", "\n\n"])
def test_a_hypothesis_is_one_line(line_break):
    dictionary = bound(TOKENIZERS["no pad"]())
    text = dictionary.string(dictionary.encode([f"Ja.{line_break}Nein."])[0])
    assert text == "Ja. Nein." and text.splitlines() == [text]


def test_what_string_leaves_out():
    dictionary = bound(TOKENIZERS["pad"]())
    ids = dictionary.encode(["Ja."])[0]
    beyond = list(range(len(dictionary) - N_UNUSED, len(dictionary)))  # no token has these ids
    assert dictionary.string([dictionary.bos(), *ids, *beyond, dictionary.eos()]) == "Ja."
    assert dictionary.string([*ids, dictionary.eos()], include_eos=True) == "Ja.</s>"
    assert dictionary.string(ids, extra_symbols_to_ignore=[ids[-1]]) != "Ja."
    assert dictionary.string(torch.tensor([ids, ids])) == "Ja.\nJa."


def test_encode_line_ends_where_asked():
    dictionary = bound(TOKENIZERS["pad"]())
    ids = dictionary.encode(["Ja."])[0]
    assert dictionary.encode_line("Ja.").tolist() == [*ids, dictionary.eos()]
    assert dictionary.encode_line("Ja.", append_eos=False, add_if_not_exist=True).tolist() == ids


@pytest.mark.parametrize(
    "use",
    [
        len,
        LlmDictionary.pad,
        LlmDictionary.eos,
        LlmDictionary.bos,
        LlmDictionary.unk,
        lambda d: d.encode(["Ja."]),
        lambda d: d.encode_line("Ja."),
        lambda d: d.string([1, 2]),
    ],
)
def test_use_before_the_llm_is_known_says_what_to_give(use):
    with pytest.raises(RuntimeError, match="the LLM is not known yet: give --llm DIRECTORY, or load a checkpoint"):
        use(LlmDictionary())


@pytest.mark.parametrize(
    ("special", "n_less", "message"),
    [
        ({"bos_token": "<s>"}, 0, "no end-of-sentence token"),
        ({"eos_token": "</s>"}, 0, "no pad, bos or unk token apart from the end of sentence"),
        ({"eos_token": "</s>", "pad_token": "</s>", "bos_token": "</s>"}, 0, "no pad, bos or unk token apart"),
        ({"eos_token": "</s>", "bos_token": "<s>"}, 1, r"the tokenizer has \d+ tokens and the LLM only \d+ outputs"),
    ],
)
def test_tokenizers_that_cannot_serve(special, n_less, message):
    tokenizer = byte_level_tokenizer(**special)
    with pytest.raises(ValueError, match=message):
        LlmDictionary().bind(tokenizer, len(tokenizer) - n_less)


def test_length_is_the_width_of_the_logits(corpus, backbones):
    _, task, model = build(corpus, backbones)
    encoder_out = model.encoder(torch.zeros(1, 8000), torch.tensor([8000]))
    logits, _ = model.decoder(torch.tensor([[task.target_dictionary.eos(), 5]]), encoder_out=encoder_out)
    assert logits.shape == (1, 2, len(task.target_dictionary))
