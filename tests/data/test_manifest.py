"""Manifests: every line checked, errors that name file and line, nothing lost between writing and reading."""

import csv
import logging
import time

import numpy as np
import pytest
import soundfile

from lst_fairseq.data.audio import AudioError, AudioInfo, Segment
from lst_fairseq.data.manifest import COLUMNS, ManifestError, audio_headers, read_manifest, write_manifest
from lst_fairseq.utils.files import atomic_text

HEADER = "id\taudio\tn_frames\ttgt_text"


@pytest.fixture
def corpus(tmp_path):
    """A folder with a.wav (16000 samples at 16 kHz) and b.wav (8000 samples at 8 kHz)."""
    for name, rate in (("a.wav", 16_000), ("b.wav", 8_000)):
        soundfile.write(tmp_path / name, np.zeros(rate, np.int16), rate)
    return tmp_path


def write(folder, *lines, header=HEADER, encoding="utf-8", end="\n"):
    path = folder / "train.tsv"
    path.write_bytes((end.join([header, *lines]) + end).encode(encoding))
    return path


def refused(path, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, path.parent, **options)
    return str(caught.value)


def test_rows(corpus):
    path = write(
        corpus,
        "a_0\ta.wav:0:4000\t4000\tOne.\tEins.\tspk.1\ten\tde\tst\tx",
        f"b_0\t{corpus}/b.wav:100:4000\t4000\tTwo.\tZwei.\tspk.2\ten\tfr\tasr\ty",
        "b_1\tb.wav\t8000\t\t\tspk.2\ten\tfr\tst\tz",
        header="\t".join([*COLUMNS, "unknown column"]),
    )
    manifest = read_manifest(path, corpus)
    assert manifest.path == str(path) and not manifest.skipped
    first, second, third = manifest.rows
    assert (first.line, first.id, first.segment) == (2, "a_0", Segment(f"{corpus}/a.wav", 0, 4000))
    assert (first.src_text, first.tgt_text, first.speaker) == ("One.", "Eins.", "spk.1")
    assert (first.src_lang, first.tgt_lang, first.task) == ("en", "de", "st")
    assert [row.n_samples for row in manifest.rows] == [4000, 8000, 16_000]  # at 16 kHz
    assert second.segment == Segment(f"{corpus}/b.wav", 100, 4000)
    assert third.tgt_text == ""  # kept: the dataset decides


def test_only_required_columns_in_any_order(corpus):
    row = read_manifest(write(corpus, "Eins.\t4000\ta.wav:0:4000\ta_0", header="tgt_text\tn_frames\taudio\tid"), corpus)
    assert (row.rows[0].id, row.rows[0].tgt_text, row.rows[0].src_text, row.rows[0].task) == ("a_0", "Eins.", "", "")


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n\r\n")])
def test_byte_order_mark_windows_line_ends_and_blank_lines(corpus, encoding, end):
    path = write(corpus, "a_0\ta.wav\t16000\tfünf", "a_1\ta.wav\t16000\tsechs", encoding=encoding, end=end)
    assert [row.tgt_text for row in read_manifest(path, corpus).rows] == ["fünf", "sechs"]


def test_text_is_taken_as_it_stands(corpus):
    texts = ['"Ja', "a\\b", "a\u2028b\x85c\x0bd", "x\rz", "l\u2019\u00e9t\u00e9\u00a0: \u202f!", "  two  spaces "]
    path = write(corpus, *(f"a_{i}\ta.wav\t16000\t{text}" for i, text in enumerate(texts)))
    assert [row.tgt_text for row in read_manifest(path, corpus).rows] == texts


def test_without_audio_checks_no_file_is_touched(corpus):
    path = write(corpus, "a_0\tgone.wav:0:5\t5\tEins.")
    assert read_manifest(path, corpus, check_audio=False).rows[0].n_samples == -1


def test_missing_columns_are_named_with_those_found(corpus):
    message = refused(write(corpus, "a_0\ta.wav\tEins.", header="id\taudio\ttext"))
    assert message.startswith(f"{corpus}/train.tsv:1: no column n_frames, tgt_text; found: id, audio, text;")
    assert "twice" in refused(write(corpus, "a\ta.wav\t1\tx\ty", header=HEADER + "\tid"))


def test_empty_missing_and_headless_files(corpus):
    path = corpus / "train.tsv"
    assert "train.tsv:1: no such manifest; prepare" in refused(path)
    path.write_text("")
    assert "train.tsv:1: no column" in refused(path) and "found: nothing" in refused(path)
    assert "train.tsv:1: holds no segment" in refused(write(corpus))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a_1\ta.wav\t16000", "3 fields where the header has 4 (id, audio, n_frames, tgt_text)"),
        ("a_1\ta.wav\t16000\tEins\tzwei", "5 fields where the header has 4"),
        ("half a sentence that a newline cut off", "1 fields where the header has 4"),
        ("\ta.wav\t16000\tEins", "empty id; give every line an id"),
        ("a_0\ta.wav\t16000\tEins", "id 'a_0' was used on line 2 already; give every line its own"),
        ("a_1\ta.wav\t1.5\tEins", "n_frames is '1.5', not a whole number; write"),
        ("a_1\ta.wav\t\tEins", "n_frames is '', not a whole number"),
        ("a_1\ta.wav:0\t16000\tEins", "'a.wav:0': malformed audio segment; write PATH or PATH:OFFSET:FRAMES"),
        ("a_1\t\t16000\tEins", "neither audio nor src_text; give PATH or PATH:OFFSET:FRAMES in the column audio, or,"),
        ("a_1\ta.wav:0:16000:1\t1\tEins", "'a.wav:0:16000:1': malformed audio segment"),
        ("a_1\tno.wav\t16000\tEins", "no.wav: no such audio file; check the path and the audio root"),
        ("a_1\ta.wav:8000:8001\t8001\tEins", "a.wav:8000:8001: the segment (samples 8000 to 16001) lies beyond"),
        ("a_1\ta.wav:0:0\t0\tEins", "a.wav:0:0: the segment is empty"),
        ("a_1\ttrain.tsv\t16000\tEins", "train.tsv: not an audio file that libsndfile can read"),
    ],
)
def test_a_bad_line_is_named(corpus, line, message):
    path = write(corpus, "a_0\ta.wav\t16000\tEins.", line, "b_0\tb.wav\t8000\tZwei.")
    found = refused(path)
    assert found.startswith(f"{path}:3: ") and message in found


TEXT_HEADER = HEADER + "\tsrc_text"


def test_lines_that_are_text_only(corpus):
    lines = ["a_0\ta.wav\t16000\tEins.\tOne.", "a_1\t\t0\tZwei.\tTwo.", "a_2\t \t0\tDrei.\tThree."]
    path = write(corpus, *lines, header=TEXT_HEADER)
    for check_audio in (True, False):
        rows = read_manifest(path, corpus, check_audio).rows
        assert [row.is_text for row in rows] == [False, True, True]
        assert [str(row.segment) for row in rows] == [f"{corpus}/a.wav", "", ""]
        assert [row.n_samples for row in rows] == [16_000 if check_audio else -1, 0, 0]
        assert rows[1].src_text == "Two."
    only_text = read_manifest(write(corpus, lines[1], header=TEXT_HEADER), corpus)
    assert [row.id for row in only_text.rows] == ["a_1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a_1\t\t0\tEins\t", "neither audio nor src_text"),
        ("a_1\t\t0\tEins\t  ", "neither audio nor src_text"),
        ("a_1\t\t16000\tEins\tOne.", "no audio, and n_frames is 16000; a line that is text only has n_frames 0"),
    ],
)
def test_a_bad_line_of_text_is_named(corpus, line, message):
    found = refused(write(corpus, "a_0\ta.wav\t16000\tEins.\tOne.", line, header=TEXT_HEADER))
    assert found.startswith(f"{corpus}/train.tsv:3: ") and message in found


def test_text_does_not_hide_a_wrong_audio_root(corpus):
    path = write(corpus, "a_0\tno.wav\t16000\tEins.\tOne.", "a_1\t\t0\tZwei.\tTwo.", header=TEXT_HEADER)
    assert ":2: " in refused(path, skip_bad_audio=True)


def test_a_colon_in_a_path(corpus):
    """Read alike the first time and when the path is known."""
    (corpus / "x:1:2").write_bytes((corpus / "a.wav").read_bytes())
    path = write(corpus, *(f"{i}\tx:1:2:{i}:100\t100\tEins." for i in range(3)), "d\tx:1:2:5:-1\t15995\tEins.")
    expected = [Segment(f"{corpus}/x:1:2", i, 100) for i in range(3)] + [Segment(f"{corpus}/x:1:2", 5, -1)]
    assert [row.segment for row in read_manifest(path, corpus).rows] == expected


def test_broken_encoding_is_named(corpus):
    path = write(corpus, "a_0\ta.wav\t16000\tEins.", "a_1\ta.wav\t16000\tf\xfcnf", encoding="latin-1")
    assert refused(path).startswith(f"{path}:3: not UTF-8 text") and "save the manifest as UTF-8" in refused(path)


def test_the_number_of_bad_segments_and_the_flag_are_named(corpus):
    path = write(corpus, "x\tx.wav\t1\tx", "a\ta.wav\t16000\ta", "y\ty.wav\t1\ty")
    assert refused(path).endswith("--skip-bad-audio leaves such segments out (2 of 3)")


def test_bad_audio_is_skipped_and_counted(corpus, caplog):
    (corpus / "empty.wav").write_bytes(b"")
    lines = ["a_0\ta.wav\t16000\tx", "g_0\tgone.wav\t1\tx", "a_1\ta.wav:9:99999\t99999\tx", "g_1\tgone.wav:1:1\t1\tx"]
    path = write(corpus, *lines, "e_0\tempty.wav\t1\tx", "b_0\tb.wav\t8000\tx")
    with caplog.at_level(logging.WARNING):
        manifest = read_manifest(path, corpus, skip_bad_audio=True)
    assert [row.id for row in manifest.rows] == ["a_0", "b_0"]
    assert manifest.skipped == {"missing file": 2, "beyond the end": 1, "empty file": 1}
    (warning,) = caplog.messages
    assert f"{path}: skipped 4 of 6 segments: 2 missing file (line 3, {corpus}/gone.wav)" in warning
    assert "1 beyond the end (line 4," in warning and "1 empty file (line 6," in warning


def test_skipping_forgives_neither_bad_lines_nor_a_wrong_audio_root(corpus):
    assert ":2: 2 fields" in refused(write(corpus, "a_0\ta.wav"), skip_bad_audio=True)
    assert ":2: " in refused(write(corpus, "x\tx.wav\t1\tx", "y\ty.wav\t1\ty"), skip_bad_audio=True)


def test_wrong_n_frames_is_said_once(corpus, caplog):
    path = write(corpus, "a\ta.wav\t15900\tx", "b\tb.wav\t16000\tx", "c\tb.wav:0:400\t401\tx", "d\tb.wav:0:400\t405\tx")
    with caplog.at_level(logging.WARNING):
        rows = read_manifest(path, corpus).rows
    assert [row.n_samples for row in rows] == [16_000, 16_000, 800, 800]
    (warning,) = caplog.messages
    assert f"{path}: n_frames of 2 segments" in warning and "(line 3: 16000 instead of 8000)" in warning


def test_headers_are_read_once_a_file(corpus, monkeypatch):
    calls = []

    def counted(path):
        calls.append(path)
        if path == "broken":
            raise AudioError("broken: is broken")
        return AudioInfo(16_000, 16_000, 1)

    monkeypatch.setattr("lst_fairseq.data.manifest.audio_info", counted)
    headers = audio_headers(["a", "b", "a", "broken", "broken"])
    assert sorted(calls) == ["a", "b", "broken"]
    assert headers["a"] == AudioInfo(16_000, 16_000, 1) and isinstance(headers["broken"], AudioError)


def test_what_is_written_is_read_again_by_us_and_by_fairseq(corpus):
    path = corpus / "dev.tsv"
    rows = [
        {"id": "a_0", "audio": "a.wav:0:4000", "n_frames": 4000, "tgt_text": 'Er sagte: "Ja', "src_text": "He said:"},
        {"id": "a_1", "audio": "a.wav:5:4000", "n_frames": 4000, "tgt_text": "eins \r\n zwei\tdrei", "task": "st"},
        {"id": "a_2", "audio": "a.wav", "n_frames": 16_000, "tgt_text": "l\u2019an\u00a02000\u2028fin"},
    ]
    assert write_manifest(path, iter(rows)) == 3
    read = read_manifest(path, corpus).rows
    assert [row.tgt_text for row in read] == ['Er sagte: "Ja', "eins zwei drei", "l\u2019an\u00a02000\u2028fin"]
    assert (read[0].src_text, read[1].task, read[1].segment.offset) == ("He said:", "st", 5)
    with open(path, encoding="utf-8") as file:  # as fairseq's SpeechToTextDatasetCreator does
        table = csv.DictReader(
            file, delimiter="\t", quotechar=None, doublequote=False, lineterminator="\n", quoting=csv.QUOTE_NONE
        )
        assert [row["tgt_text"] for row in table] == [row.tgt_text for row in read]


def test_writing_is_all_or_nothing(corpus):
    path = corpus / "dev.tsv"
    row = {"id": "a_0", "audio": "a.wav", "n_frames": 16_000, "tgt_text": "x"}
    write_manifest(path, [row])
    before = path.read_bytes()
    with pytest.raises(ManifestError, match=r"dev\.tsv:3: cannot write a row without tgt_text"):
        write_manifest(path, [row, {"id": "a_1", "audio": "a.wav", "n_frames": 1}])
    with pytest.raises(KeyboardInterrupt), atomic_text(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert sorted(p.name for p in corpus.iterdir()) == ["a.wav", "b.wav", "dev.tsv"]


def test_a_large_manifest_is_read_in_time(corpus):
    """23,000 lines in well under what 230,000 may take; only gross slowness fails."""
    path = corpus / "big.tsv"
    row = {"n_frames": 100, "tgt_text": "Und so weiter mit ein paar Worten.", "speaker": "spk.1", "task": "st"}
    write_manifest(path, ({"id": i, "audio": f"a.wav:{i % 15_900}:100", **row} for i in range(23_000)))
    start = time.perf_counter()
    assert len(read_manifest(path, corpus).rows) == 23_000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("column", ["id", "audio"])
@pytest.mark.parametrize("name", ["a\nb.wav", "a\tb.wav", "a\rb.wav", "a.wav\n", "a\udcff.wav"])
def test_a_name_that_would_be_another_one_is_refused(tmp_path, column, name):
    row = {"id": "u", "audio": "a.wav", "n_frames": 1, "tgt_text": "a\tb", column: name}
    with pytest.raises(ManifestError) as caught:
        write_manifest(tmp_path / "train.tsv", [{**row, "id": "first", "audio": "a.wav"}, row])
    assert str(caught.value).startswith(f"{tmp_path}/train.tsv:3: {column}: {name!r} ")
    assert str(caught.value).endswith("; rename the file or folder") and not list(tmp_path.iterdir())


def test_names_that_look_odd_are_kept(corpus):
    for number, name in enumerate((" a.wav ", "talk:1:2", "ä\u2028.wav", "a'b\"c.wav", "a\\b.wav")):
        soundfile.write(corpus / name, np.zeros(100), 16_000, format="WAV")
        row = {"id": name, "audio": str(Segment(str(corpus / name))), "n_frames": 100, "tgt_text": "Eins."}
        write_manifest(corpus / f"{number}.tsv", [row])
        (read,) = read_manifest(corpus / f"{number}.tsv").rows
        assert (read.id, read.segment.path, read.n_samples) == (name, str(corpus / name), 100)
