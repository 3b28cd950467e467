"""The LLM's tokenizer as a fairseq Dictionary: one to one, exact text, a padding id that no target holds."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import collate_prompts
from tests.support.helpers import SENTENCES, build

HARD = [
    "Où est la gare\u00a0?",
    "« Bien sûr\u202f! », dit-elle.",
    "¿Dónde está el libro?",
    "Où est la gare ?",
    "Ja , nein .  Zwei  Leerzeichen.",
    "don 't, n't, 's",
    "</s> <s> <unk> sind hier Text.",
    "<|endoftext|> und <|im_start|> auch.",
    "ÿ und 東京 und 🙂.",
    "a ' b ! c , d .",
]
N_UNUSED = 3


def byte_level_bpe(special: list[str]) -> Tokenizer:
    """A byte-level BPE that knows any text, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def byte_level_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind Llama 3 has: any text, any special tokens."""
    tokenizer = byte_level_bpe(["<s>", "</s>", "<unk>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def family_tokenizer(cls: Any, **settings: Any) -> PreTrainedTokenizerBase:
    """A family's own class with a byte-level BPE trained here, saved, and loaded as a user's is.

    Its end of sentence is ``<|endoftext|>``, which most of these families have in place of pad, bos and unk, too.
    """
    trained = json.loads(byte_level_bpe(["<|endoftext|>"]).to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    with TemporaryDirectory() as path:
        cls(vocab=trained["vocab"], merges=merges, **settings).save_pretrained(path)
        loaded = AutoTokenizer.from_pretrained(path)
    assert isinstance(loaded, cls)
    return loaded


def holed_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 5, 6 and the last but one have no token."""
    trained = json.loads(byte_level_bpe(["<|endoftext|>"]).to_str())
    vocabulary = trained["model"]["vocab"]
    last = max(vocabulary.values())
    trained["model"]["vocab"] = {t: i if i < 5 else i + 2 if i < last else i + 3 for t, i in vocabulary.items()}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(trained)), eos_token="<|endoftext|>")


def metaspace_tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer().train_new_from_iterator([*SENTENCES, *HARD], vocab_size=160)


def sentencepiece_tokenizer() -> PreTrainedTokenizerBase:
    """From a sentencepiece model alone, as Llama 2 was published, with byte fallback."""
    with TemporaryDirectory() as path:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*SENTENCES, *HARD]),
            model_prefix=str(Path(path) / "tokenizer"),
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            minloglevel=2,
        )
        return LlamaTokenizer.from_pretrained(path)


def bound(tokenizer: Any, n_unused: int = N_UNUSED) -> LlmDictionary:
    dictionary = LlmDictionary()
    dictionary.bind(tokenizer, max(tokenizer.get_vocab().values()) + 1 + n_unused)
    return dictionary


TOKENIZERS = {
    "no pad": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>"),
    "pad": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "pad is eos": lambda: byte_level_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="</s>"),
    "no bos": lambda: byte_level_tokenizer(eos_token="</s>", unk_token="<unk>"),
    "Llama 2": metaspace_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "Qwen 2": lambda: family_tokenizer(Qwen2Tokenizer),
    "Qwen 2 chat": lambda: family_tokenizer(
        Qwen2Tokenizer, eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>", "<|im_end|>"]
    ),
    "GPT-2": lambda: family_tokenizer(GPT2Tokenizer),
    "OPT": lambda: family_tokenizer(GPT2Tokenizer, pad_token="<pad>", add_bos_token=True),
    "GPT-NeoX": lambda: family_tokenizer(GPTNeoXTokenizer),
    "holes": holed_tokenizer,
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def dictionary(request: pytest.FixtureRequest) -> LlmDictionary:
    return bound(TOKENIZERS[request.param]())


def test_ids_are_the_tokenizers(dictionary):
    tokenizer = dictionary.tokenizer
    assert len(dictionary) == max(tokenizer.get_vocab().values()) + 1 + N_UNUSED
    for token, i in tokenizer.get_vocab().items():
        assert dictionary[i] == token and dictionary.index(token) == i
    assert len(set(dictionary.symbols)) == len(dictionary)  # the unused ids, too, have a symbol each
    assert dictionary.ids_without_token == sorted(set(range(len(dictionary))) - set(tokenizer.get_vocab().values()))
    assert dictionary.eos() == tokenizer.eos_token_id
    assert dictionary.encode(SENTENCES) == [tokenizer.encode(s, add_special_tokens=False) for s in SENTENCES]


def test_holes_are_among_the_ids_without_a_token():
    tokenizer = holed_tokenizer()
    last = max(tokenizer.get_vocab().values())
    assert len(tokenizer) == last - 2
    assert bound(tokenizer, 2).ids_without_token == [5, 6, last - 1, last + 1, last + 2]


def test_padding_is_not_the_end_and_in_no_target(dictionary):
    assert dictionary.pad() != dictionary.eos()
    for ids in dictionary.encode([*SENTENCES, *HARD, ""]):
        assert dictionary.pad() not in ids and dictionary.eos() not in ids


@pytest.mark.parametrize(
    ("name", "n_unused", "padding"),
    [
        ("no pad", 0, "<s>"),
        ("pad", 0, "<pad>"),
        ("pad is eos", 0, "<s>"),
        ("no bos", 0, "<s>"),  # special, though the tokenizer does not call it the begin of sentence
        ("Llama 2", 0, "<s>"),
        ("sentencepiece", 0, "<s>"),
        ("Qwen 2", 0, "ÿ"),
        ("Qwen 2", 3, "<unused_320>"),
        ("Qwen 2 chat", 0, "<|endoftext|>"),
        ("GPT-2", 0, "ÿ"),
        ("OPT", 0, "<pad>"),
        ("GPT-NeoX", 0, "<|padding|>"),
        ("holes", 0, "<unused_5>"),
    ],
)
def test_which_token_serves_as_padding(name, n_unused, padding):
    dictionary = bound(TOKENIZERS[name](), n_unused)
    assert dictionary[dictionary.pad()] == padding


def test_the_byte_that_serves_as_padding_is_the_byte_and_not_the_letter():
    """ÿ as a letter is in the alphabet of many tokenizers; it may occur in a target."""
    vocabulary = {"</s>": 0, "<unk>": 1, "ÿ": 2}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    dictionary = bound(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>"), 0)
    assert dictionary[dictionary.pad()] == "<unk>"
    ff = bound(TOKENIZERS["GPT-2"](), 0)
    assert ff.tokenizer.decode([ff.pad()]) == "\ufffd"
    assert ff.pad() not in {i for ids in ff.encode([chr(c) for c in range(0x3000)]) for i in ids}


def test_the_penalty_on_unknown_words_is_not_on_the_end():
    """GPT-2, OPT and Qwen call the end of sentence their unknown word, too."""
    for name in ("GPT-2", "OPT", "Qwen 2"):
        dictionary = bound(TOKENIZERS[name]())
        assert dictionary.tokenizer.unk_token_id == dictionary.eos() and dictionary.unk() == dictionary.pad()
    assert bound(TOKENIZERS["no bos"]()).unk_word == "<unk>"


@pytest.mark.parametrize("text", [*SENTENCES, *HARD])
def test_text_comes_back_exactly(dictionary, text):
    encoded = dictionary.encode([text])[0]
    ids = torch.tensor([*encoded, dictionary.eos(), dictionary.pad(), dictionary.pad()])
    assert dictionary.string(ids) == text
    assert dictionary.string(dictionary.encode_line(text)) == text
    assert dictionary.tokenizer.decode(encoded).strip() == text


def test_begin_of_sentence_that_is_the_end_of_sentence():
    dictionary = bound(TOKENIZERS["OPT"]())
    assert dictionary.bos() == dictionary.eos()
    ids = dictionary.encode_line("Ja.")
    assert dictionary.string(ids) == "Ja." and dictionary.string(ids, include_eos=True) == "Ja.<|endoftext|>"


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
        ({"eos_token": "</s>", "bos_token": "<s>"}, 1, r"the tokenizer has \d+ tokens and the LLM only \d+ outputs"),
    ],
)
def test_tokenizers_that_cannot_serve(special, n_less, message):
    tokenizer = byte_level_tokenizer(**special)
    with pytest.raises(ValueError, match=message):
        LlmDictionary().bind(tokenizer, len(tokenizer) - n_less)


@pytest.mark.parametrize("special", [{}, {"pad_token": "</s>", "bos_token": "</s>", "unk_token": "</s>"}])
def test_a_tokenizer_without_anything_for_padding(special):
    words = Tokenizer(WordLevel({"</s>": 0, "ja": 1, "ÿ": 2}, unk_token="</s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", **special)
    with pytest.raises(ValueError, match=r"no pad, bos, unk or other special token .*: add a pad token"):
        bound(tokenizer, 0)
    assert bound(tokenizer, 1).pad() == 3


def test_length_is_the_width_of_the_logits(corpus, backbones):
    _, task, model = build(corpus, backbones)
    prompts = collate_prompts(task.prompts.choices()[:1])
    encoder_out = model.encoder(torch.zeros(1, 8000), torch.tensor([8000]), **prompts)
    logits, _ = model.decoder(torch.tensor([[task.target_dictionary.eos(), 5]]), encoder_out=encoder_out)
    assert logits.shape == (1, 2, len(task.target_dictionary))
