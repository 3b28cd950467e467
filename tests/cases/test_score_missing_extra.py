"""Tokenisers that need more than is installed: one line that says what to install."""

import importlib

import pytest

from lst_fairseq.cli.main import main
from tests.support.scoring import write_scored


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_the_missing_package_is_named(tmp_path, monkeypatch, language):
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{language}_mecab.MeCab", None)
    arguments = write_scored(tmp_path, [("今日は。", "今日は。")])
    with pytest.raises(SystemExit) as error:
        main(["score", *arguments, "--tokenize", f"{language}-mecab"])
    assert str(error.value).startswith(f"error: tokeniser {language}-mecab: its package is not installed")
    assert f"pip install 'sacrebleu[{language}]'" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("tokenizer", ["flores101", "flores200", "spBLEU-1K"])
def test_a_model_that_cannot_be_downloaded_is_named(tmp_path, monkeypatch, tokenizer):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    module = importlib.import_module("sacrebleu.tokenizers.tokenizer_spm")
    monkeypatch.setattr(module, "download_file", no_network)
    monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    arguments = write_scored(tmp_path, [("今日は。", "今日は。")])
    with pytest.raises(SystemExit) as error:
        main(["score", *arguments, "--tokenize", tokenizer])
    message = str(error.value)
    assert "sacreBLEU downloads a model" in message and "no network" in message and "\n" not in message


def test_comparing_needs_the_tokeniser_too(monkeypatch):
    from lst_fairseq.errors import ComparisonError
    from lst_fairseq.evaluation.comparison import compare

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    sentences = {key: ["今日は。"] for key in ("ids", "sources", "references", "hypotheses")}
    system = {"name": "a", "bleu": 1.0, "segments": 1, "signature": "s", "tokenize": "ja-mecab", "sentences": sentences}
    with pytest.raises(ComparisonError, match=r"pip install 'sacrebleu\[ja\]'"):
        compare([system], samples=10)
