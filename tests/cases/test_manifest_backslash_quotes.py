"""Manifests as fairseq's own preparation writes them, with a backslash before each quote and backslash."""

import csv

import pytest

from lst_fairseq.corpora.filtering import write_lines
from lst_fairseq.data.manifest import COLUMNS, read_columns, read_manifest, unescaped, write_manifest
from tests.support.helpers import lst, read_tsv

TEXTS = ['Er sagte: "Hallo", und ging.', "Ein \\ und noch einer \\.", "Nichts davon.", '"\\""']
QUOTE = r"Er sagte: \"Hallo\"."


@pytest.fixture
def escaped(tmp_path):
    """A manifest that Python's csv module wrote without quoting, as pandas does for fairseq."""
    path = tmp_path / "train.tsv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", lineterminator="\n")
        table.writerow(["id", "audio", "n_frames", "src_text", "tgt_text"])
        table.writerows([f"u{i}", "", 0, text, text] for i, text in enumerate(TEXTS))
    return path


def plain(tmp_path, *texts):
    rows = ({"id": f"u{i}", "audio": "", "n_frames": 0, "src_text": t, "tgt_text": t} for i, t in enumerate(texts))
    write_manifest(tmp_path / "train.tsv", rows)
    return tmp_path / "train.tsv"


def test_the_texts_come_without_them(escaped, caplog):
    caplog.set_level("INFO")
    assert [row.tgt_text for row in read_manifest(escaped).rows] == TEXTS
    assert "a backslash before each quote and backslash, taken off 3 lines" in caplog.text
    assert [row["src_text"] for row in read_columns(escaped)] == TEXTS


def test_what_is_written_from_them_has_none(escaped, tmp_path):
    for fraction in ("1", "0.5"):
        lst("filter", "--manifest", escaped, "--out", tmp_path / "part.tsv", "--fraction", fraction)
        rows = read_tsv(tmp_path / "part.tsv")
        assert list(rows[0]) == list(COLUMNS[:5])
        assert all(row["tgt_text"] == TEXTS[int(row["id"][1:])] for row in rows)
    # A part without a quote would not show what its backslashes are.
    write_lines(escaped, tmp_path / "kept.tsv", {3})
    assert read_tsv(tmp_path / "kept.tsv")[0]["tgt_text"] == TEXTS[1]


@pytest.mark.parametrize(
    "texts",
    [
        (QUOTE, 'Sie sagte: "Ja".'),  # one quote without
        (QUOTE, r"C:\Temp"),  # a backslash that stands for itself
        (r"C:\\Temp",),  # no quote that would tell
        ('"Ja"', "a \\"),
    ],
)
def test_other_files_stay_as_they_are(tmp_path, texts):
    path = plain(tmp_path, *texts)
    assert tuple(row.tgt_text for row in read_manifest(path).rows) == texts
    assert unescaped(path.read_text(encoding="utf-8"))[1] == []


def test_check_manifest_tells(escaped, tmp_path, capsys):
    assert lst("check", escaped) == 0
    printed = capsys.readouterr().out
    assert "note: a backslash before each quote and backslash, taken off when it is read: 3" in printed
    assert f"{escaped}:2: " in printed
    lst("check", plain(tmp_path, QUOTE, 'Sie sagte: "Ja".', r"a \\ b"))
    printed = capsys.readouterr().out
    assert "warning: a backslash before a quote, but not before each in the file: 1" in printed
    assert "warning: a backslash before a backslash: 1" in printed
