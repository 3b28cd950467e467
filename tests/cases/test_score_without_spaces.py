"""Languages that are written without spaces are scored by their own tokeniser, and transcripts by characters."""

import json
import subprocess

import pytest

from lst_fairseq.cli.main import main
from tests.support.helpers import REPOSITORY
from tests.support.scoring import write_scored

CHINESE = [
    ("我住在北京。", "我住在北京。"),
    ("今天天气很好。", "今天天气真好。"),
    ("她在学校教英语。", "她在学校里教英语。"),
]
SPOKEN = [
    ("宋朝末年年间定居粉岭。", "宋朝末年年间定居粉岭围。"),
    ("二十一年去世。", "二十一年去世。"),
    ("他们自称哈拉。", "他们自称恰哈拉。"),
]
THAI = [("สวัสดีครับผม", "สวัสดีครับ"), ("ขอบคุณมาก", "ขอบคุณมาก")]


@pytest.mark.parametrize("columns", [{"tgt_lang": "zh"}, {"tgt_lang": "zh_TW"}, {}], ids=str)
def test_chinese_is_scored_by_its_tokeniser(tmp_path, capsys, columns):
    out = tmp_path / "score.json"
    main(["score", *write_scored(tmp_path, CHINESE, **columns), "--json", str(out)])
    assert "BLEU = 68.38" in capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["tokenize"] == "zh" and "tok:zh" in found["full_signature"] and found["ter"] < 10


def test_words_are_refused_and_named(tmp_path):
    with pytest.raises(SystemExit, match=r"--tokenize 13a: zh writes no spaces.*choose one of zh, char, flores200"):
        main(["score", *write_scored(tmp_path, CHINESE, tgt_lang="zh"), "--tokenize", "13a"])
    with pytest.raises(SystemExit, match=r"test\.tsv: the language named is de, and most letters"):
        main(["score", *write_scored(tmp_path, CHINESE), "--target-lang", "de"])


def test_transcripts_are_scored_by_characters(tmp_path, capsys):
    out = tmp_path / "score.json"
    main(["score", *write_scored(tmp_path, SPOKEN, tgt_lang="zh", task="asr"), "--json", str(out)])
    assert "CER = 8.33 lower case without punctuation, 7.41 as it is" in capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["cer_raw"] == pytest.approx(100 * 2 / 27) and found["cer"] == pytest.approx(100 * 2 / 24)
    assert "wer" not in found and found["durations"]["0-5"]["cer"] == found["cer"]


def test_with_spaces_transcripts_have_both_rates(tmp_path):
    out = tmp_path / "score.json"
    main(["score", *write_scored(tmp_path, [("ab d", "ab cd")], tgt_lang="de", task="asr"), "--json", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["wer"], found["cer"]) == (50, 20)


def test_other_languages_without_spaces_are_scored_by_characters(tmp_path):
    out = tmp_path / "score.json"
    main(["score", *write_scored(tmp_path, THAI, tgt_lang="th"), "--json", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["tokenize"] == "char" and found["ter"] == pytest.approx(100 * 2 / 19)
    assert found["ter_signature"].endswith("|chars:yes")


def test_the_recipe_passes_tokeniser_and_language_on(tmp_path):
    # The recipe's own function, with a stand-in for the command.
    script = f"""
        set -euo pipefail; source {REPOSITORY}/examples/mustc/lib.sh
        lst() {{ printf '%s ' "$@"; echo; }}
        DATA=data TGT_LANG=zh; score dev name hypotheses {tmp_path}/out.json
        TOKENIZE=char; score dev name hypotheses {tmp_path}/out.json"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    by_language, named = done.stdout.strip().split("\n")
    assert "--target-lang zh" in by_language and "--tokenize" not in by_language
    assert "--tokenize char" in named
