"""CoVoST 2 preparation on a few mp3 clips: fields where they belong, missing clips named, interrupted runs go on."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from lst_fairseq.corpora import preparation
from lst_fairseq.data.audio import read_segment
from lst_fairseq.data.manifest import read_manifest
from tests.support.helpers import lst

RATE = 48_000
# (clip, seconds, sentence, translation, client)
CLIPS = [
    ("common_voice_en_1.mp3", 1.0, "Good morning.", "Guten Morgen.", "c1"),
    ("common_voice_en_2.mp3", 0.5, 'She said "no".', 'Sie sagte "nein".', "c2"),
    ("common_voice_en_3.mp3", 2.0, "Nothing.", "", "c1"),
]


def escaped(text):
    return text.replace('"', '\\"')  # as CoVoST's script writes it


def write_table(path, columns, rows):
    path.write_text("".join("\t".join(map(escaped, row)) + "\n" for row in (columns, *rows)), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    """Folders ``covost`` with train and test, and ``cv/clips``."""
    (tmp_path / "covost").mkdir()
    (tmp_path / "cv" / "clips").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, seconds, *_ in CLIPS:
        samples = 0.1 * rng.standard_normal(round(seconds * RATE))
        soundfile.write(tmp_path / "cv" / "clips" / name, samples, RATE, format="MP3")
    columns = ("path", "sentence", "translation", "client_id")
    rows = [(clip, sentence, translation, client) for clip, _, sentence, translation, client in CLIPS]
    write_table(tmp_path / "covost" / "covost_v2.en_de.train.tsv", columns, rows)
    write_table(tmp_path / "covost" / "covost_v2.en_de.test.tsv", columns, rows[::-1])
    return tmp_path


def run(corpus, *options, src="en", tgt="de"):
    arguments = ["--covost", str(corpus / "covost"), "--common-voice", str(corpus / "cv")]
    lst("prep", "covost", *arguments, "--src-lang", src, "--tgt-lang", tgt, "--out", str(corpus / "out"), *options)
    return corpus / "out"


def failure(corpus, *options, **languages) -> str:
    with pytest.raises(SystemExit) as caught:
        run(corpus, *options, **languages)
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code
    return caught.value.code


def test_manifest(corpus, capsys):
    out = run(corpus)
    rows = read_manifest(out / "train.tsv").rows  # checks the audio of each
    assert [row.id for row in rows] == ["common_voice_en_1", "common_voice_en_2", "common_voice_en_3"]
    assert [(row.src_text, row.tgt_text, row.speaker) for row in rows] == [clip[2:] for clip in CLIPS]
    assert {(row.src_lang, row.tgt_lang, row.task) for row in rows} == {("en", "de", "st")}
    for row, (name, seconds, *_) in zip(rows, CLIPS):
        assert str(row.segment) == str(corpus / "cv" / "clips" / name)
        info = soundfile.info(row.segment.path)
        assert info.samplerate == RATE and abs(info.frames - seconds * RATE) < 2500  # an encoder pads
        assert row.n_samples == len(read_segment(row.segment)) == (info.frames + 1) // 3
    lines = (out / "train.tsv").read_text().split("\n")
    assert [int(line.split("\t")[2]) for line in lines[1:-1]] == [
        soundfile.info(row.segment.path).frames for row in rows
    ]
    assert [row.id for row in read_manifest(out / "test.tsv").rows] == [row.id for row in rows[::-1]]
    assert yaml.safe_load((out / "config.yaml").read_text())["target_lang"] == "de"
    assert capsys.readouterr().out.startswith("train: 3 segments, 2 speakers, 0.00 h\ntest: 3 segments")


def test_the_download_joined_with_common_voice(corpus, capsys):
    expected = (run(corpus) / "test.tsv").read_text()
    for path in (corpus / "covost").iterdir():
        path.unlink()
    splits = ("test", "train_covost", "train")
    rows = [(clip, translation, split) for (clip, _, _, translation, _), split in zip(CLIPS, splits)]
    rows += [(CLIPS[0][0].replace("1", "9"), "Weg.", "train")]
    write_table(corpus / "covost" / "covost_v2.en_de.tsv", ("path", "translation", "split"), rows)
    rows = [(client, clip, sentence, "2") for clip, _, sentence, _, client in CLIPS[::-1]]
    write_table(corpus / "cv" / "validated.tsv", ("client_id", "path", "sentence", "up_votes"), rows)
    capsys.readouterr()
    out = run(corpus, "--splits", "train", "test")
    assert [row.id[-1] for row in read_manifest(out / "train.tsv").rows] == ["2", "3"]
    assert (out / "test.tsv").read_text().split("\n")[1] == expected.split("\n")[3]
    assert f"train: 1 of 3 clips are not in {corpus / 'cv' / 'validated.tsv'}" in capsys.readouterr().err
    assert "dev has no clip" in failure(corpus)
    (corpus / "cv" / "validated.tsv").unlink()
    assert f"{corpus / 'cv' / 'validated.tsv'}: no such file" in failure(corpus)


def test_cleaning_is_of_train_alone(corpus, capsys):
    out = run(corpus, "--drop-empty", "--min-seconds", "0.8")
    assert [row.id[-1] for row in read_manifest(out / "train.tsv").rows] == ["1"]
    assert len(read_manifest(out / "test.tsv").rows) == 3
    printed = capsys.readouterr().out
    assert "left out 2 of 3: 1 shorter than 0.8 s, 1 with an empty target" in printed


def test_missing_clips(corpus, capsys):
    (corpus / "cv" / "clips" / CLIPS[1][0]).unlink()
    (corpus / "cv" / "clips" / CLIPS[2][0]).write_bytes(b"")
    table = corpus / "covost" / "covost_v2.en_de.train.tsv"
    message = failure(corpus)
    assert f"{table}:3: {corpus / 'cv' / 'clips' / CLIPS[1][0]}: no such audio file" in message
    assert "2 of 3 clips of train: 1 missing file, 1 empty file; --skip-missing leaves them out" in message
    assert not (corpus / "out" / "train.tsv").exists()
    out = run(corpus, "--skip-missing")
    assert [row.id[-1] for row in read_manifest(out / "train.tsv").rows] == ["1"]
    printed = capsys.readouterr()
    assert "clips left out: 1 missing file, 1 empty file" in printed.out
    assert f"train: missing file: {CLIPS[1][0]} ({table}:3)" in printed.err
    assert "warning: test is not complete" in printed.err and "warning: train" not in printed.err
    (corpus / "cv" / "clips" / CLIPS[0][0]).unlink()
    assert "3 of 3 clips" in failure(corpus, "--skip-missing")


def test_an_interrupted_run_goes_on(corpus, monkeypatch):
    opened = []
    audio_info = preparation.audio_info
    monkeypatch.setattr(preparation, "audio_info", lambda path: opened.append(Path(path).name) or audio_info(path))
    before = {path.name: path.read_bytes() for path in run(corpus).iterdir()}
    assert sorted(opened) == sorted(clip[0] for clip in CLIPS)  # each once, though train and test have all three
    opened.clear()
    store = corpus / "out" / "headers.txt"
    lines = store.read_bytes().split(b"\n")
    store.write_bytes(b"\n".join(lines[:2])[:-5])  # one header, and half of another
    assert {path.name: path.read_bytes() for path in run(corpus).iterdir()} == before
    assert len(opened) == 2
    opened.clear()
    clip = corpus / "cv" / "clips" / CLIPS[0][0]
    soundfile.write(clip, np.zeros(3 * RATE), RATE, format="MP3")  # another file of the same name is read anew
    run(corpus)
    assert opened == [CLIPS[0][0]]
    assert read_manifest(corpus / "out" / "train.tsv").rows[0].n_samples > 2.9 * 16_000


def test_headers_that_were_stored_by_weaker_checks_are_read_again(corpus, monkeypatch):
    run(corpus)
    store = corpus / "out" / "headers.txt"
    fields = [line.split("\t") for line in store.read_text().splitlines()]
    older = ["\t".join([key.rpartition(":")[0], *rest]) for key, *rest in fields]
    store.write_text("\n".join([*older, "no header at all", ""]))
    opened = []
    audio_info = preparation.audio_info
    monkeypatch.setattr(preparation, "audio_info", lambda path: opened.append(path) or audio_info(path))
    run(corpus)
    assert len(opened) == len(CLIPS)
    run(corpus)
    assert len(opened) == len(CLIPS)


def test_an_mp3_that_does_not_tell_its_length(corpus):
    clip = corpus / "cv" / "clips" / CLIPS[0][0]
    data = clip.read_bytes()
    assert b"Info" in data or b"Xing" in data
    # Neither a tag that tells it, nor whole frames to count.
    clip.write_bytes(data.replace(b"Info", b"\0\0\0\0").replace(b"Xing", b"\0\0\0\0")[:-10])
    message = failure(corpus)
    assert str(clip) in message and "ffmpeg" in message and "1 unknown length" in message


def test_tables_that_cannot_be_read_are_named(corpus):
    assert "language pairs in" in failure(corpus, src="fr") and "en_de" in failure(corpus, src="fr")
    assert "covost_v2.en_de: no split dev; there are: train, test" in failure(corpus, "--splits", "dev")
    assert "--clips names the folder" in failure(corpus, "--clips", str(corpus / "nowhere"))
    table = corpus / "covost" / "covost_v2.en_de.train.tsv"
    table.write_text(table.read_text() + "one\ttwo\n", encoding="utf-8")
    assert f"{table}:5: 2 fields where the header has 4" in failure(corpus)
    table.write_text("path\tsentence\n", encoding="utf-8")
    assert f"{table}:1: no column translation, client_id" in failure(corpus)


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        lst("prep", "covost", "--help")
    assert "lst prep covost --covost" in capsys.readouterr().out
