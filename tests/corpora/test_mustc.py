"""MuST-C preparation on a small corpus in its layout: every segment where the YAML says, none lost, errors named."""

import numpy as np
import pytest
import soundfile
import yaml

from lst_fairseq.corpora.mustc import _PLAIN_LINE
from lst_fairseq.data import manifest
from lst_fairseq.data.audio import read_segment
from lst_fairseq.data.manifest import read_manifest
from tests.support.helpers import load_script, lst

RATE = 16_000
WAV_SECONDS = {"ted_1.wav": 4.0, "ted_2.wav": 2.0}
# (wav, offset, duration in seconds, source, target); two talks, as the YAML orders them
SEGMENTS = [
    ("ted_1.wav", 0.5, 1.0, "One two.", "Eins zwei."),
    ("ted_1.wav", 1.61, 0.5, "Three.", "Drei."),
    ("ted_1.wav", 3.0, 1.0, "Four.", "Vier\u2028oder\x85fünf."),
    ("ted_2.wav", 0.0, 2.0, "Six.", "Sechs."),
]


def write_split(root, split="train", segments=SEGMENTS, lang="de"):
    base = root / f"en-{lang}" / "data" / split
    (base / "wav").mkdir(parents=True, exist_ok=True)
    (base / "txt").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, seconds in WAV_SECONDS.items():
        samples = rng.integers(-(2**15), 2**15, round(seconds * RATE), dtype=np.int16)
        soundfile.write(base / "wav" / name, samples, RATE)
    lines = [
        f"- {{duration: {duration}, offset: {offset}, rW: 2, uW: 0, speaker_id: spk.{wav[4]}, wav: {wav}}}"
        for wav, offset, duration, _, _ in segments
    ]
    for suffix, content in (("yaml", lines), ("en", [s[3] for s in segments]), (lang, [s[4] for s in segments])):
        (base / "txt" / f"{split}.{suffix}").write_bytes(("\n".join(content) + "\n").encode())
    return base / "txt" / f"{split}.yaml"


def run(root, *options, lang="de"):
    lst("prep", "mustc", "--data-root", str(root), "--tgt-lang", lang, "--out", str(root / "out"), *options)
    return root / "out"


def failure(root, *options, lang="de") -> str:
    with pytest.raises(SystemExit) as caught:
        run(root, *options, lang=lang)
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code
    return caught.value.code


def test_manifest(tmp_path, capsys):
    write_split(tmp_path)
    out = run(tmp_path)
    rows = read_manifest(out / "train.tsv").rows  # checks the audio of each
    assert [row.id for row in rows] == ["ted_1_0", "ted_1_1", "ted_1_2", "ted_2_0"]
    assert [(row.src_text, row.tgt_text) for row in rows] == [segment[3:] for segment in SEGMENTS]
    assert {(row.src_lang, row.tgt_lang, row.task) for row in rows} == {("en", "de", "st")}
    assert [row.speaker for row in rows] == ["spk.1"] * 3 + ["spk.2"]
    for row, (wav, offset, duration, *_) in zip(rows, SEGMENTS, strict=True):
        path = tmp_path / "en-de" / "data" / "train" / "wav" / wav
        start, frames = round(offset * RATE), round(duration * RATE)
        assert str(row.segment) == f"{path}:{start}:{frames}" and row.n_samples == frames
        np.testing.assert_array_equal(
            read_segment(row.segment), soundfile.read(path, dtype="float32")[0][start : start + frames]
        )
    header, first = (out / "train.tsv").read_text().split("\n")[:2]
    assert header == "id\taudio\tn_frames\tsrc_text\ttgt_text\tspeaker\tsrc_lang\ttgt_lang\ttask"
    assert first.split("\t")[2] == "16000"
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config == {"use_audio_input": True, "audio_root": "", "target_lang": "de"}
    assert capsys.readouterr().out == "train: 4 segments, 2 talks, 0.00 h\n"


def test_again_gives_the_same_files(tmp_path):
    write_split(tmp_path)
    before = {path.name: path.read_bytes() for path in run(tmp_path).iterdir()}
    assert {path.name: path.read_bytes() for path in run(tmp_path).iterdir()} == before
    assert sorted(before) == ["config.yaml", "train.tsv"]


def test_splits(tmp_path, capsys):
    for split in ("tst-HE", "train", "extra", "tst-COMMON", "dev"):
        write_split(tmp_path, split)
    out = run(tmp_path)
    assert [line.split(":")[0] for line in capsys.readouterr().out.split("\n")[:-1]] == [
        *("train", "dev", "tst-COMMON", "tst-HE"),
        "extra",
    ]
    assert len(list(out.glob("*.tsv"))) == 5
    run(tmp_path, "--splits", "dev")
    assert capsys.readouterr().out.startswith("dev: 4 segments")
    assert "no split tst-X; there are: train, dev, tst-COMMON, tst-HE, extra" in failure(
        tmp_path, "--splits", "dev", "tst-X"
    )


def test_unknown_language_lists_those_there_are(tmp_path):
    write_split(tmp_path, lang="de")
    write_split(tmp_path, lang="pt-br")
    assert run(tmp_path, lang="pt-br").is_dir()
    message = failure(tmp_path, lang="xx")
    assert f"{tmp_path}/en-xx/data: no such folder" in message and "de, pt-br" in message


@pytest.mark.parametrize("style", ["quoted", "block", "windows", "other order"])
def test_other_yaml_shapes_give_the_same(tmp_path, style):
    path = write_split(tmp_path)
    expected = (run(tmp_path) / "train.tsv").read_bytes()
    entries = yaml.safe_load(path.read_text())
    if style == "quoted":
        text = path.read_text().replace("wav: ted_1.wav", "wav: 'ted_1.wav'")
    elif style == "block":
        text = "# segments\n" + yaml.safe_dump(entries, default_flow_style=False)
    elif style == "windows":
        text = path.read_text().replace("\n", "\r\n")
    else:
        text = "".join(
            f"- {{wav: {e['wav']}, speaker_id: {e['speaker_id']}, offset: {e['offset']}, duration: {e['duration']}}}\n"
            for e in entries
        )
    path.write_bytes(text.encode())
    assert (run(tmp_path) / "train.tsv").read_bytes() == expected


CLEANING = [
    *SEGMENTS,
    ("ted_1.wav", 0.0, 0.05, "Uh.", "Äh."),
    ("ted_1.wav", 0.0, 0.0, "Oh.", "Oh."),
    ("ted_2.wav", 0.0, 1.0, "Nothing.", "  "),
    ("ted_2.wav", 1.0, 1.0, "Last.", "Letztes."),
]


def test_train_is_cleaned_and_counted(tmp_path, capsys):
    write_split(tmp_path, segments=CLEANING)
    rows = read_manifest(run(tmp_path) / "train.tsv").rows
    assert [row.id for row in rows] == ["ted_1_0", "ted_1_1", "ted_1_2", "ted_2_0", "ted_2_2"]  # ids do not move up
    assert "train: 5 segments, 2 talks, 0.00 h; left out 3 of 8: 2 shorter than 0.1 s, 1 with an empty target" in (
        capsys.readouterr().out
    )
    run(tmp_path, "--min-seconds", "0", "--max-seconds", "1.5")
    printed = capsys.readouterr().out
    assert "1 shorter than 0 s" in printed and "1 longer than 1.5 s" in printed and "left out 3 of 8" in printed


def test_test_segments_are_never_left_out(tmp_path):
    segments = [segment for segment in CLEANING if segment[2] > 0]
    for split in ("dev", "tst-COMMON"):
        write_split(tmp_path, split, segments)
        out = run(tmp_path, "--splits", split, "--min-seconds", "1", "--max-seconds", "1.5")
        assert [row.tgt_text for row in read_manifest(out / f"{split}.tsv").rows] == [s[4].strip() for s in segments]
    path = write_split(tmp_path, "dev", CLEANING)
    assert f"{path}:6: the segment has no samples" in failure(tmp_path, "--splits", "dev")


TALK = [
    ("ted_1.wav", 0.5, 1.0, "Chris Anderson: Thank you. (Applause)", "Chris Anderson: Danke. (Beifall)"),
    ("ted_1.wav", 1.5, 1.0, "(Laughter)", "(Gelächter)"),
    ("ted_2.wav", 0.0, 1.0, "Yes, that is so indeed.", "Ja."),
    ("ted_2.wav", 1.0, 1.0, "Yes, that is so indeed.", "Ja, das ist wirklich so."),
]
CLEAN = ("--clean-speaker-labels", "--clean-stage-directions", "--min-length-ratio", "0.5")


def test_texts_are_cleaned_on_request(tmp_path, capsys):
    for split in ("train", "dev"):
        write_split(tmp_path, split, TALK)
    before = (run(tmp_path) / "train.tsv").read_text()
    assert "Chris Anderson: Thank you. (Applause)\tChris Anderson: Danke. (Beifall)" in before
    capsys.readouterr()
    out = run(tmp_path, *CLEAN)
    rows = read_manifest(out / "train.tsv").rows
    assert [(row.id, row.src_text, row.tgt_text) for row in rows] == [
        ("ted_1_0", "Thank you.", "Danke."),
        ("ted_2_1", "Yes, that is so indeed.", "Ja, das ist wirklich so."),
    ]
    printed = capsys.readouterr().out
    assert "taken off: stage directions in 2, speaker labels in 1" in printed
    assert "left out 2 of 4: 1 with an empty target, 1 with a target under 0.5 times the source's length" in printed
    # Development data are never touched.
    assert [(r.src_text, r.tgt_text) for r in read_manifest(out / "dev.tsv").rows] == [s[3:] for s in TALK]
    rows = read_manifest(run(tmp_path, *CLEAN, "--no-drop-empty") / "train.tsv").rows
    assert [row.tgt_text for row in rows] == ["Danke.", "", "Ja, das ist wirklich so."]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_other_sampling_rates(tmp_path, rate):
    write_split(tmp_path)
    wavs = tmp_path / "en-de" / "data" / "train" / "wav"
    for name, seconds in WAV_SECONDS.items():
        soundfile.write(wavs / name, np.zeros(round(seconds * rate), dtype=np.int16), rate)
    rows = read_manifest(run(tmp_path) / "train.tsv").rows
    for row, (_, offset, duration, *_) in zip(rows, SEGMENTS, strict=True):
        assert (row.segment.offset, row.segment.frames) == (round(offset * rate), round(duration * rate))
        assert abs(row.n_samples - duration * RATE) <= 1  # what is read is resampled to 16 kHz


def test_each_header_is_read_once(tmp_path, monkeypatch):
    write_split(tmp_path)
    opened = []
    audio_info = manifest.audio_info
    monkeypatch.setattr(manifest, "audio_info", lambda path: opened.append(path) or audio_info(path))
    run(tmp_path)
    wavs = tmp_path / "en-de" / "data" / "train" / "wav"
    assert sorted(opened) == [str(wavs / "ted_1.wav"), str(wavs / "ted_2.wav")]


def test_the_benchmark_makes_a_corpus_that_is_prepared(tmp_path):
    benchmark = load_script("mustc_manifest", "benchmarks")
    benchmark.make_corpus(tmp_path, segments=50, talks=3, seed=1)
    rows = read_manifest(run(tmp_path, "--min-seconds", "0", "--max-seconds", "100") / "train.tsv").rows
    assert len(rows) == 50 and [row.id for row in rows[:16]] == [f"ted_0_{i}" for i in range(16)]
    text = (tmp_path / "en-de" / "data" / "train" / "txt" / "train.yaml").read_text()
    assert all(_PLAIN_LINE.fullmatch(line) for line in text.split("\n")[:-1])  # the quick way is measured


def test_a_rounding_error_at_the_end_of_the_wav(tmp_path, capsys):
    write_split(tmp_path, segments=[("ted_2.wav", 1.0, 1.005, "End.", "Ende."), *SEGMENTS])
    row = read_manifest(run(tmp_path) / "train.tsv").rows[0]
    assert (row.segment.offset, row.segment.frames) == (16_000, 16_000)
    assert "1 ends moved to the end of the wav" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("offset", "duration", "message"),
    [
        (1.0, 1.05, "the segment ends at 2.050 s, 0.050 s after the end of"),
        (2.0, 0.005, "after the end of"),
        (-1.0, 1.0, "must not be negative"),
        ("soon", 1.0, "offset 'soon' and duration '1.0' have to be seconds"),
        (1.0, ".nan", "have to be seconds"),
        (".inf", 1.0, "have to be seconds"),
        ("", 1.0, "the segment has no offset"),
    ],
)
def test_a_bad_position_is_named(tmp_path, offset, duration, message):
    path = write_split(tmp_path, segments=[*SEGMENTS, ("ted_2.wav", offset, duration, "Bad.", "Schlecht.")])
    found = failure(tmp_path)
    assert f"{path}:5: " in found and message in found
    assert not (tmp_path / "out" / "train.tsv").exists()


def test_more_clipping_on_request(tmp_path):
    write_split(tmp_path, "dev", [("ted_2.wav", 1.0, 1.05, "End.", "Ende.")])
    assert "--max-clip-seconds" in failure(tmp_path)
    assert len(read_manifest(run(tmp_path, "--max-clip-seconds", "0.1") / "dev.tsv").rows) == 1


@pytest.mark.parametrize("suffix", ["yaml", "en", "de"])
def test_counts_have_to_agree(tmp_path, suffix):
    path = write_split(tmp_path).with_suffix(f".{suffix}")
    path.write_bytes(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")
    message = failure(tmp_path)
    assert all(name in message for name in ("train.yaml", "train.en", "train.de", "have to agree"))
    assert " 3" in message and " 4" in message


def test_missing_and_broken_wavs_are_named(tmp_path):
    path = write_split(tmp_path)
    wav = path.parents[1] / "wav" / "ted_2.wav"
    wav.write_bytes(wav.read_bytes()[:-1000])
    assert f"{path}:4: {wav}: cut short" in failure(tmp_path)
    wav.unlink()
    assert f"{path}:4: {wav}: no such audio file" in failure(tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- {duration: 1.0, offset: 0.5, wav: [a, b]}\n", 1),
        ("- {duration: 1.0, offset: 0.5, wav: ted_1.wav}\n- just text\n", 2),
        ("duration: 1.0\n", 1),
        ("- {duration: 1.0, offset: 0.5, wav: ted_1.wav}\n- {duration: 1.0, offset\n", 3),
        ("- {duration: 1.0, offset: 0.5, wav: 'ted_1.wav}\n", 2),
    ],
)
def test_broken_yaml_is_named(tmp_path, text, line):
    path = write_split(tmp_path)
    path.write_text(text)
    message = failure(tmp_path)
    assert f"{path}:{line}: " in message and "list of mappings" in message


def test_missing_and_empty_files(tmp_path):
    path = write_split(tmp_path)
    path.with_suffix(".de").write_bytes(b"\xff\xfe")
    assert f"{path.with_suffix('.de')}: not UTF-8" in failure(tmp_path)
    path.with_suffix(".de").unlink()
    assert f"{path.with_suffix('.de')}: no such file" in failure(tmp_path)
    for suffix in ("yaml", "en", "de"):
        path.with_suffix(f".{suffix}").write_bytes(b"")
    assert f"{path}: holds no segment" in failure(tmp_path)
    (tmp_path / "en-fr" / "data").mkdir(parents=True)
    assert "no split" in failure(tmp_path, lang="fr")


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        lst("prep", "mustc", "--help")
    assert "lst prep mustc --data-root" in capsys.readouterr().out
