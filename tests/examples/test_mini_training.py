"""The mini trainings: what they save loads with from_pretrained, and an interrupted run goes on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModelForCausalLM, AutoModelForCTC, AutoProcessor, AutoTokenizer

MINI = Path(__file__).resolve().parents[2] / "examples" / "mini"
sys.path.insert(0, str(MINI))
import train_frontend  # noqa: E402
import train_llm  # noqa: E402
import train_whisper  # noqa: E402
from grammar import is_heldout, sample  # noqa: E402

from lst_fairseq.models.frontends import FrontendOptions, build_frontend  # noqa: E402


def run(module, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def write_corpus(root: Path) -> Path:
    """ROOT/en-de with four half-second segments of noise in train, dev, tst-COMMON and tst-HE."""
    rng = np.random.default_rng(0)
    for split in ("train", *train_frontend.EVALUATION_SPLITS):
        folder = root / "en-de" / "data" / split
        (folder / "wav").mkdir(parents=True)
        (folder / "txt").mkdir()
        soundfile.write(folder / "wav" / "talk.wav", 0.1 * rng.standard_normal(40_000), 16_000)
        lines = [f"- {{duration: 0.5, offset: {i * 0.6}, speaker_id: spk.1, wav: talk.wav}}" for i in range(4)]
        (folder / "txt" / f"{split}.yaml").write_text("\n".join(lines) + "\n")
        (folder / "txt" / f"{split}.en").write_text("It's a book.\nTwo.\nForty-one.\nWho?\n")
    return root / "en-de"


FRONTEND = "--hidden 16 --layers 1 --heads 2 --ffn 16 --kernel 3 --batch-seconds 1.2 --threads 1 --log-every 1".split()


def test_frontend_is_a_complete_ctc_model(tmp_path, monkeypatch, capsys):
    corpus, out = write_corpus(tmp_path), tmp_path / "frontend"
    run(train_frontend, monkeypatch, "--corpus", corpus, "--out", out, "--updates", 2, *FRONTEND)
    model, processor = AutoModelForCTC.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert model.dtype == torch.float32 and model.config.pad_token_id == train_frontend.BLANK
    assert type(AutoFeatureExtractor.from_pretrained(out)).__name__ == "SeamlessM4TFeatureExtractor"
    inputs = processor(np.zeros(8000, np.float32), sampling_rate=16_000, return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 24, len(train_frontend.VOCABULARY))
    ids = processor.tokenizer("it's forty one").input_ids
    assert ids == [train_frontend.VOCABULARY["|" if c == " " else c] for c in "it's forty one"]
    results = json.loads((out / "results.json").read_text())
    assert results["updates"] == 2 and set(results) >= set(train_frontend.EVALUATION_SPLITS)
    assert not (out / "checkpoint.pt").exists()
    with open(out / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"} == {"F16"}

    capsys.readouterr()
    run(train_frontend, monkeypatch, "--corpus", corpus, "--out", out, "--updates", 2)
    assert "is finished" in capsys.readouterr().out
    again = tmp_path / "again"
    run(train_frontend, monkeypatch, "--corpus", corpus, "--out", again, "--init", out, "--updates", 1, *FRONTEND)
    assert AutoModelForCTC.from_pretrained(again).config.hidden_size == 16


def test_interrupted_frontend_equals_uninterrupted(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path)
    arguments = ["--corpus", corpus, "--updates", 4, "--save-minutes", 0, *FRONTEND]
    run(train_frontend, monkeypatch, "--out", tmp_path / "whole", *arguments)

    mask = train_frontend.mask_features
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return mask(*args)

    monkeypatch.setattr(train_frontend, "mask_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(train_frontend, monkeypatch, "--out", tmp_path / "halves", *arguments)
    run(train_frontend, monkeypatch, "--out", tmp_path / "halves", *arguments)
    assert len(calls) == 3 + 2
    whole, halves = (AutoModelForCTC.from_pretrained(tmp_path / x).state_dict() for x in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_augmentation_keeps_digital_silence_in_a_share():
    waveform = np.zeros(16_000, np.float32)
    waveform[:4000] = np.sin(np.arange(4000) / 5)
    rng = np.random.default_rng(0)
    augmented = [train_frontend.augment(waveform, 0.25, 0.5, rng) for _ in range(60)]
    silent = sum(not x[-2000:].any() for x in augmented)
    assert 18 <= silent <= 42
    assert 0.8 <= min(map(len, augmented)) / 16_000 < 0.85 and 1.18 < max(map(len, augmented)) / 16_000 <= 1.25
    assert all(train_frontend.augment(waveform, 0.25, 1.0, rng)[-2000:].any() for _ in range(20))


def test_edit_distance():
    assert train_frontend.edit_distance("kitten", "sitting") == 3
    assert train_frontend.edit_distance([], ["a", "b"]) == 2 and train_frontend.edit_distance("ab", "ab") == 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of the grammar's text, saved and loaded."""
    pairs = train_llm.grammar_pairs(600, 1, "train")
    lines = [text for sentences in pairs.values() for pair in sentences for text in pair]
    folder = tmp_path_factory.mktemp("tokenizer")
    train_llm.train_tokenizer(lines, 700).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_tokenizer_gives_text_back_exactly(tokenizer):
    for sentence in sample(150, 2, "heldout"):
        for text in sentence:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    for text in ("¿Dónde está mi llave?", "L'école est là, n'est-ce pas ?", "Können Sie über Öl reden?"):
        known = "".join(c for c in text if tokenizer.decode(tokenizer(c, add_special_tokens=False).input_ids) == c)
        assert tokenizer.decode(tokenizer(known, add_special_tokens=False).input_ids) == known


def test_language_tokens_are_single_tokens(tokenizer):
    for token in train_llm.LANGUAGE_TOKENS:
        (identity,) = tokenizer(token, add_special_tokens=False).input_ids
        assert tokenizer.convert_ids_to_tokens(identity) == token
        german = tokenizer("Das ist neu.", add_special_tokens=False).input_ids
        assert tokenizer(f"{token} Das ist neu.", add_special_tokens=False).input_ids == [identity, *german]
        assert tokenizer(f"Das ist neu. {token}", add_special_tokens=False).input_ids == [*german, identity]
    names = [tokenizer.convert_ids_to_tokens(i) for i in range(4)]
    assert names == ["<unk>", "<s>", "</s>", "<pad>"] and tokenizer("Das").input_ids[0] == tokenizer.bos_token_id


def test_llm_of_a_parallel_text(tmp_path, monkeypatch):
    sentences = sample(60, 1, "train") + sample(6, 1, "heldout")
    folders = []
    for language in ("de", "fr"):
        txt = tmp_path / f"en-{language}/data/train/txt"
        txt.mkdir(parents=True)
        for suffix in ("en", language):
            lines = [getattr(s, suffix) for s in sentences]
            (txt / f"train.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folders.append(txt)
    trained_on = []
    encode = train_llm.encode_examples
    monkeypatch.setattr(train_llm, "encode_examples", lambda pairs, *a: trained_on.append(pairs) or encode(pairs, *a))
    size = "--vocab 300 --hidden 16 --layers 1 --heads 2 --threads 1 --batch-tokens 200".split()
    run(train_llm, monkeypatch, "--out", tmp_path / "llm", "--text", *folders, "--updates", 2, *size)
    assert set(trained_on[0]) == {"de", "fr"}
    assert not any(is_heldout(english) for pairs in trained_on[0].values() for english, _ in pairs)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    assert model.dtype == torch.float32 and model.config.vocab_size == len(tokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    results = json.loads((tmp_path / "llm" / "results.json").read_text())
    assert set(results["bleu"]) == {"en-de", "en-fr"} and results["unseen_sentences"] == {"de": 6, "fr": 6}


def test_whisper_like_frontend_is_the_one_that_lst_reads(tmp_path, monkeypatch):
    """What is saved gives, read as --speech-encoder, the features that it was trained with."""
    corpus, out, models = write_corpus(tmp_path), tmp_path / "whisper", []
    save = train_whisper.save
    monkeypatch.setattr(train_whisper, "save", lambda model, *rest: models.append(model) or save(model, *rest))
    size = "--hidden 16 --layers 1 --heads 2 --ffn 16 --batch-seconds 1.2 --threads 1 --log-every 1".split()
    run(train_whisper, monkeypatch, "--corpus", corpus, "--out", out, "--updates", 2, *size)
    frontend = build_frontend(str(out), FrontendOptions(window="trim")).eval()
    assert type(frontend).__name__ == "WhisperFrontend" and frontend.dtype == torch.float32
    waveforms, lengths = 0.1 * torch.randn(2, 9000, generator=torch.manual_seed(0)), torch.tensor([9000, 5000])
    with torch.no_grad():
        features, n_vectors = frontend(waveforms, lengths)
        expected, expected_lengths = models[0].frontend.eval()(waveforms, lengths)
    assert n_vectors.tolist() == expected_lengths.tolist() == [29, 16]
    torch.testing.assert_close(features[1, :16], expected[1, :16], atol=5e-2, rtol=0)  # stored in fp16
    results = json.loads((out / "results.json").read_text())
    assert results["updates"] == 2 and set(results) >= set(train_frontend.EVALUATION_SPLITS)
    assert sum(file.stat().st_size for file in out.iterdir()) < 200_000
    run(train_whisper, monkeypatch, "--corpus", corpus, "--out", tmp_path / "b", "--init", out, "--updates", 1, *size)
    assert (tmp_path / "b" / "model.safetensors").exists()


def test_llm_of_another_family(tmp_path, monkeypatch):
    size = "--vocab 700 --hidden 16 --layers 1 --heads 2 --threads 1 --batch-tokens 200 --sentences 300".split()
    monkeypatch.setattr(train_llm, "evaluate", lambda *_: {})
    run(train_llm, monkeypatch, "--out", tmp_path, "--family", "gpt2", "--updates", 1, *size)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "gpt2" and model.dtype == torch.float32
    assert tokenizer("<de> Ja.", add_special_tokens=False).input_ids[0] == tokenizer.convert_tokens_to_ids("<de>")
    text = sample(1, 1, "train")[0].de
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    # Left padding changes nothing but the limit of length: positions count from a sentence's own first token.
    sources = ["One.", "Two and three."]
    together = train_llm.translate(model.eval(), tokenizer, sources, "de")
    alone = [train_llm.translate(model, tokenizer, [source], "de")[0] for source in sources]
    assert all(len(text) > 5 for text in alone) and together[1] == alone[1] and together[0].startswith(alone[0])
