"""lst filter --fraction and lst prep asr: parts that lie within each other, and transcription from translation."""

from pathlib import Path

import pytest

from tests.support.helpers import lst, read_tsv, write_tsv

COLUMNS = ["id", "audio", "n_frames", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang", "task"]


def manifest(path: Path, count: int = 40) -> Path:
    texts = [("Source {i}" if i else " ").format(i=i) for i in range(count)]
    values = ((f"id_{i}", f"a.wav:{i}:9", 9, text, f"Ziel {i}", "s", "en", "de", "st") for i, text in enumerate(texts))
    return write_tsv(path, [dict(zip(COLUMNS, row)) for row in values], COLUMNS)


def test_a_smaller_part_lies_within_a_larger_one(tmp_path, capsys):
    source = manifest(tmp_path / "train.tsv")
    parts = {}
    for fraction in (0.1, 0.25, 1):
        lst("filter", "--manifest", source, "--out", tmp_path / f"{fraction}.tsv", "--fraction", fraction)
        parts[fraction] = read_tsv(tmp_path / f"{fraction}.tsv")
    assert [len(part) for part in parts.values()] == [4, 10, 40]
    assert parts[1] == read_tsv(source)
    whole = [row["id"] for row in parts[1]]
    kept = {fraction: [row["id"] for row in part] for fraction, part in parts.items()}
    assert set(kept[0.1]) < set(kept[0.25]) and kept[0.25] == [name for name in whole if name in kept[0.25]]
    assert "4 of 40 segments" in capsys.readouterr().out
    lst("filter", "--manifest", source, "--out", tmp_path / "other.tsv", "--fraction", 0.25, "--seed", 2)
    assert {row["id"] for row in read_tsv(tmp_path / "other.tsv")} != set(kept[0.25])
    # Of equal ids the same: the order of the manifest does not matter.
    write_tsv(tmp_path / "turned.tsv", read_tsv(source)[::-1], COLUMNS)
    lst("filter", "--manifest", tmp_path / "turned.tsv", "--out", tmp_path / "part.tsv", "--fraction", 0.25)
    assert {row["id"] for row in read_tsv(tmp_path / "part.tsv")} == set(kept[0.25])


def test_the_transcript_becomes_the_target(tmp_path, capsys):
    source = manifest(tmp_path / "train.tsv", 3)
    lst("prep", "asr", "--manifest", source, "--out", tmp_path / "train_asr.tsv")
    first, second = read_tsv(tmp_path / "train_asr.tsv")
    before = read_tsv(source)[1]
    assert first == {**before, "tgt_text": "Source 1", "tgt_lang": "en", "task": "asr"} and second["id"] == "id_2"
    assert "2 of 3 segments" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    source = manifest(tmp_path / "train.tsv", 1)
    with pytest.raises(SystemExit, match="no segment has a transcript, which the column src_text has to hold"):
        lst("prep", "asr", "--manifest", source, "--out", tmp_path / "out.tsv")
    with pytest.raises(SystemExit, match="no such manifest"):
        lst("prep", "asr", "--manifest", tmp_path / "gone.tsv", "--out", tmp_path / "out.tsv")
    with pytest.raises(SystemExit):
        lst("filter", "--manifest", source, "--out", tmp_path / "out.tsv", "--fraction", 0)
    assert "--fraction 0.0: give a number above 0, up to 1" in capsys.readouterr().err
    assert not (tmp_path / "out.tsv").exists()


def test_what_is_read_is_never_what_is_written(tmp_path, capsys):
    source = manifest(tmp_path / "train.tsv", 4)
    before = source.read_bytes()
    for words in (
        ("filter", "--manifest", source, "--out", source, "--fraction", 0.5),
        ("prep", "asr", "--manifest", source, "--out", tmp_path / "." / "train.tsv"),
        ("prep", "text", "--manifests", tmp_path, "--out", tmp_path, "--splits", "train"),
    ):
        with pytest.raises(SystemExit) as stopped:
            lst(*words)
        assert stopped.value.code == 2 and "is what is read; give another" in capsys.readouterr().err
    assert source.read_bytes() == before and list(tmp_path.iterdir()) == [source]
