"""LibriSpeech preparation on a small corpus in its layout: order, transcripts, lengths, errors that name the line."""

import numpy as np
import pytest
import soundfile
import yaml

from lst_fairseq.data.manifest import read_manifest
from tests.support.helpers import lst

RATE = 16_000
# split -> (speaker, chapter, number, seconds, transcript)
UTTERANCES = {
    "train-clean-100": [
        ("103", "1240", 0, 1.0, "CHAPTER ONE"),
        ("19", "198", 0, 0.5, "IT WAS A DARK NIGHT"),
        ("19", "198", 1, 2.0, "DON'T GO"),
    ],
    "dev-clean": [("84", "121123", 0, 0.2, "GO")],
}


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    for split, utterances in UTTERANCES.items():
        for speaker, chapter, number, seconds, transcript in utterances:
            folder = tmp_path / "LibriSpeech" / split / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{speaker}-{chapter}-{number:04d}"
            soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
            with open(folder / f"{speaker}-{chapter}.trans.txt", "a", encoding="utf-8") as file:
                file.write(f"{name} {transcript}\n")
    return tmp_path


def run(corpus, *options):
    lst("prep", "librispeech", "--data-root", str(corpus / "LibriSpeech"), "--out", str(corpus / "out"), *options)
    return corpus / "out"


def failure(corpus, *options) -> str:
    with pytest.raises(SystemExit) as caught:
        run(corpus, *options)
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code
    return caught.value.code


def test_manifest(corpus, capsys):
    out = run(corpus)
    rows = read_manifest(out / "train-clean-100.tsv").rows  # checks the audio of each
    assert [row.id for row in rows] == ["19-198-0000", "19-198-0001", "103-1240-0000"]  # 19 before 103
    assert [row.n_samples for row in rows] == [RATE // 2, 2 * RATE, RATE]
    assert [row.src_text for row in rows] == ["IT WAS A DARK NIGHT", "DON'T GO", "CHAPTER ONE"]
    assert all(row.tgt_text == row.src_text for row in rows)
    assert [row.speaker for row in rows] == ["19", "19", "103"]
    assert {(row.src_lang, row.tgt_lang, row.task) for row in rows} == {("en", "en", "asr")}
    assert yaml.safe_load((out / "config.yaml").read_text())["target_lang"] == "en"
    printed = capsys.readouterr().out
    assert printed == "dev-clean: 1 segments, 1 speakers, 0.00 h\ntrain-clean-100: 3 segments, 2 speakers, 0.00 h\n"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {path.name: path.read_bytes() for path in run(corpus).iterdir()} == before
    assert sorted(before) == ["config.yaml", "dev-clean.tsv", "headers.txt", "train-clean-100.tsv"]


def test_options(corpus, capsys):
    options = ("--lowercase", "--max-seconds", "1.5", "--min-seconds", "0.6")
    out = run(corpus, "--splits", "train-clean-100", "dev-clean", *options)
    assert [row.tgt_text for row in read_manifest(out / "train-clean-100.tsv").rows] == ["chapter one"]
    assert [row.src_text for row in read_manifest(out / "dev-clean.tsv").rows] == ["go"]  # short, and kept
    assert "left out 2 of 3: 1 shorter than 0.6 s, 1 longer than 1.5 s" in capsys.readouterr().out


def test_other_audio_formats(corpus):
    for path in (corpus / "LibriSpeech" / "dev-clean").rglob("*.flac"):
        samples, _ = soundfile.read(path)
        soundfile.write(path.with_suffix(".ogg"), samples, RATE)
        path.unlink()
    rows = read_manifest(run(corpus) / "dev-clean.tsv").rows
    assert rows[0].segment.path.endswith("84-121123-0000.ogg") and rows[0].n_samples == round(0.2 * RATE)


def test_errors_name_file_and_line(corpus):
    folder = corpus / "LibriSpeech" / "train-clean-100" / "19" / "198"
    (folder / "19-198-0001.flac").write_bytes(b"none")
    transcripts = folder / "19-198.trans.txt"
    assert f"{transcripts}:2: {folder / '19-198-0001.flac'}: not an audio file" in failure(corpus)
    (folder / "19-198-0001.flac").unlink()
    assert f"{transcripts}:2: no audio for '19-198-0001'" in failure(corpus)
    assert not (corpus / "out" / "train-clean-100.tsv").exists()
    assert "no split test; there are: dev-clean, train-clean-100" in failure(corpus, "--splits", "test")
    assert "no such folder" in failure(corpus, "--data-root", str(corpus / "nowhere"))
    (corpus / "empty").mkdir()
    assert "no split" in failure(corpus, "--data-root", str(corpus / "empty"))


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        lst("prep", "librispeech", "--help")
    assert "lst prep librispeech --data-root" in capsys.readouterr().out
