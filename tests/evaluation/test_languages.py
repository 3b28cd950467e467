"""languages.py: which of sacreBLEU's tokenisers fits which language, and what is refused."""

import pytest

from lst_fairseq.evaluation.languages import (
    LanguageError,
    base_language,
    is_spaceless,
    language_of,
    script_language,
    tokenizer_for,
)

CODES = {
    "zh": ("zh", "zh-CN", "zh_TW", "ZH", "cmn", "yue", "zho_Hans", "wuu"),
    "ja": ("ja", "ja-JP", "ja_JP", "jpn", "jpn_Jpan"),
    "ko": ("ko", "ko_KR", "kor_Hang"),
    "th": ("th", "tha", "th_TH"),
    "de": ("de", "de-AT", "de_DE"),
}


@pytest.mark.parametrize(("base", "codes"), CODES.items())
def test_codes_with_region_script_or_three_letters(base, codes):
    assert {base_language(code) for code in codes} == {base}


@pytest.mark.parametrize(
    ("code", "tokenizer"),
    [
        *(("zh-TW", "zh"), ("cmn", "zh"), ("ja-JP", "ja-mecab"), ("ko", "ko-mecab"), ("th", "char"), ("my", "char")),
        *(("de", "13a"), ("vi", "13a"), ("", "13a")),
    ],
)
def test_the_tokeniser_follows_the_language(code, tokenizer):
    assert tokenizer_for(code) == tokenizer


def test_tokenisers_of_words_are_refused_without_spaces():
    for code, wanted in (("zh-CN", "13a"), ("ja", "intl"), ("ja", "zh"), ("th", "13a"), ("lo", "none"), ("km", "zh")):
        with pytest.raises(LanguageError, match=rf"--tokenize {wanted}: {code} writes no spaces.*choose one of .*char"):
            tokenizer_for(code, wanted)
    for code, wanted in (("zh", "zh"), ("zh", "char"), ("ja", "flores200"), ("ko", "13a"), ("de", "intl"), ("", "zh")):
        assert tokenizer_for(code, wanted) == wanted
    assert is_spaceless("zh_TW") and is_spaceless("bod") and not is_spaceless("ko") and not is_spaceless("")


def test_scripts_without_spaces_are_told_apart():
    assert script_language(["今天天气很好。", "OK, 我住在北京。"]) == "zh"
    assert script_language(["今日は良い天気ですね。"]) == "ja"
    assert script_language(["สวัสดีครับ"]) == "th"
    assert script_language(["Das ist 北京.", "Guten Tag"]) == ""
    assert script_language(["안녕하세요", "..."]) == script_language([]) == ""


def test_the_language_of_texts():
    german, chinese = ["Guten Tag."], ["你好，我住在北京。"]
    assert language_of(["de", "fr_FR", ""], german * 3) == "de"
    assert language_of(["", ""], chinese * 2) == "zh"
    assert language_of([""], german, "zh-TW") == "zh"
    assert language_of(["th", "my"], ["สวัสดี", "สวัสดี"]) == "th"
    with pytest.raises(LanguageError, match=r"segments in de and zh-CN.*score each language with a manifest"):
        language_of(["zh-CN", "de"], chinese + german)
    with pytest.raises(LanguageError, match=r"the language named is de, and most letters are .*zh.*correct tgt_lang"):
        language_of(["de"], chinese)
