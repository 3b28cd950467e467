"""lst check: every kind of fault is found on its line, and nothing in a sound manifest."""

import json

import numpy as np
import pytest
import soundfile

from lst_fairseq.corpora.checking import OPPOSITE_PHASE, check_manifests
from tests.support.helpers import lst, write_tsv

RATE = 16_000
COLUMNS = ("id", "audio", "n_frames", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang", "task")


@pytest.fixture
def folder(tmp_path):
    for name, rate in (("talk", RATE), ("other", RATE), ("slow", 8_000)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(4 * rate, dtype=np.int16), rate)
    (tmp_path / "broken.wav").write_bytes(b"no audio at all")
    return tmp_path


def row(i, audio="talk.wav", frames=1000, source=None, target=None, **columns):
    """A sound row; audio without a position gets its own 1,000 samples of the file."""
    audio = f"{audio}:{1000 * i}:{frames}" if audio and ":" not in audio else audio
    texts = {"src_text": f"Sentence {i} is here." if source is None else source}
    texts["tgt_text"] = f"Satz {i} steht hier." if target is None else target
    languages = {"speaker": "s", "src_lang": "en", "tgt_lang": "de", "task": "st"}
    return {"id": f"r{i}", "audio": audio, "n_frames": frames, **texts, **languages, **columns}


def run(folder, *names, options=()):
    """Exit status, and for each manifest a dict from (level, kind) to the lines named."""
    arguments = [*(str(folder / name) for name in names), "--audio-root", str(folder), *options]
    status = lst("check", *arguments, "--json", str(folder / "report.json"))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    findings = []
    for manifest in report["manifests"]:
        found = {}
        for entry in manifest["findings"]:
            assert len(entry["lines"]) == min(entry["count"], 5)
            assert all(line.startswith(f"{manifest['manifest']}:") for line in entry["lines"])
            numbers = [int(line.removeprefix(manifest["manifest"]).split(":")[1]) for line in entry["lines"]]
            found[entry["level"], entry["kind"]] = numbers
        findings.append(found)
    for level in ("error", "warning", "note"):
        total = sum(e["count"] for m in report["manifests"] for e in m["findings"] if e["level"] == level)
        assert report[f"{level}s"] == total
    return status, findings


def test_relative_paths_mean_what_the_configuration_says(folder, tmp_path_factory):
    """As in training; --audio-root wins."""
    manifests = tmp_path_factory.mktemp("manifests")
    config = manifests / "config.yaml"
    write_tsv(manifests / "dev.tsv", [row(i) for i in range(1, 3)])
    assert lst("check", manifests) == 1
    config.write_text(f"audio_root: {folder}\n", encoding="utf-8")
    assert lst("check", manifests) == 0
    assert lst("check", manifests, "--audio-root", "/nowhere") == 1
    for text, problem in (("[1, 2]", r"holds \[1, 2\]"), ("audio_root: [1]", "`audio_root` is"), ("a: {", "not YAML")):
        config.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match=rf"error: {config}:.*{problem}"):
            lst("check", manifests)


def test_sound_manifests(folder, capsys):
    write_tsv(folder / "train.tsv", [row(i) for i in range(1, 5)])
    write_tsv(folder / "dev.tsv", [row(i, "other.wav") for i in range(5, 9)])
    status, findings = run(folder, "train.tsv", "dev.tsv")
    assert status == 0 and findings == [{}, {}]
    printed = capsys.readouterr().out
    assert f"{folder / 'train.tsv'}: 4 segments, 0.00 h in 1 audio files" in printed
    assert printed.endswith("2 manifests: 0 errors, 0 warnings, 0 notes\n")
    assert run(folder, ".")[1] == [{}, {}]  # the folder


def test_audio(folder):
    rows = [
        row(1),
        row(2, "missing.wav"),
        row(3, "broken.wav"),
        row(4, f"talk.wav:{4 * RATE - 10}:11", 11),
        row(5, f"talk.wav:{5 * RATE}:10", 10),
        row(6, "talk.wav:10:0", 0),
        row(7, "talk.wav:ten:20", 20),
        row(8, "slow.wav"),
        row(9, "other.wav:0:-1", 4 * RATE),
        row(10, "talk.wav", 100, n_frames=101),
        row(11, n_frames="many"),
        row(12, "", n_frames=0),  # text alone
        row(13, "", n_frames=7),
    ]
    write_tsv(folder / "train.tsv", rows)
    status, (found,) = run(folder, "train.tsv")
    assert status == 1
    assert found == {
        ("error", "missing file"): [3],
        ("error", "not audio"): [4],
        ("error", "beyond the end"): [5, 6],
        ("error", "empty segment"): [7],
        ("error", "malformed segment"): [8],
        ("note", "8000 Hz, resampled to 16000 Hz when it is read"): [9],
        ("warning", "n_frames disagrees with the audio"): [11],
        ("error", "n_frames is no whole number"): [12],
        ("error", "n_frames of text alone is not 0"): [14],
    }
    status, (found,) = run(folder, "train.tsv", options=["--no-audio"])
    kinds = {"malformed segment", "n_frames is no whole number", "n_frames of text alone is not 0"}
    assert status == 1 and {kind for _, kind in found} == kinds


def test_texts(folder):
    rows = [
        row(1),
        row(2, target=""),
        row(3, source=""),
        row(4, target="Ein \x07 Ton."),
        row(5, source="A \u200b gap."),
        row(6, target="Gr\ufffdße."),
        row(7, target="... !?"),
        row(8, source="Berlin.", target="Berlin."),
        row(9, source="Berlin.", target="Berlin.", task="asr", tgt_lang="en"),
        row(10, target="Salz &amp; Pfeffer"),
        row(11, target="<i>Nein</i>"),
        row(12, source="AT&T and 3 < 4 & 5 > 2", target="AT&T und 3 < 4 & 5 > 2"),
        row(
            13,
            source="A short one.",
            target="Ein Satz, der um vieles länger ist als er hier sein dürfte, und noch mehr.",
        ),
        row(14, source="", target="Nichts zu übersetzen.", audio="", frames=0),
        row(15, target="Vier\u2028oder fünf."),
    ]
    write_tsv(folder / "train.tsv", rows)
    status, (found,) = run(folder, "train.tsv")
    assert status == 1
    assert found == {
        ("error", "neither audio nor src_text"): [15],
        ("warning", "empty tgt_text"): [3],
        ("warning", "empty src_text"): [4],
        ("warning", "tgt_text with control characters"): [5, 16],
        ("warning", "src_text with control characters"): [6],
        ("warning", "tgt_text with replacement characters (decoded wrongly once)"): [7],
        ("warning", "tgt_text without a word"): [8],
        ("warning", "tgt_text equal to src_text"): [9],
        ("warning", "tgt_text with HTML"): [11, 12],
        ("warning", "length ratio more than 3 times off the median"): [14],
    }
    rows = [r for r in rows if r["audio"]]
    write_tsv(folder / "train.tsv", rows)
    assert run(folder, "train.tsv")[0] == 0  # warnings alone are no failure
    found = run(folder, "train.tsv", options=["--max-length-ratio", "20"])[1][0]
    assert not any("length ratio" in kind for _, kind in found)


def test_duplicates(folder):
    again = {"task": "asr", "tgt_lang": "en", "id": "r1-asr"}
    rows = [
        row(1),
        row(2, id="r1"),
        row(3, "talk.wav:1000:1000"),
        row(4, "talk.wav:1000:1000", **again),
        row(5, id=" "),
    ]
    write_tsv(folder / "train.tsv", rows)
    status, (found,) = run(folder, "train.tsv")
    assert status == 1
    assert found == {
        ("error", "duplicate id"): [3],
        ("warning", "duplicate segment"): [4],  # not line 5: the same audio for another task is meant
        ("error", "empty id"): [6],
    }


def test_training_data_in_the_test_data(folder, capsys):
    train = [row(1, "talk.wav:1000:3000", 3000), row(2, "talk.wav:1500:100", 100), row(3, "slow.wav:0:-1", 32000)]
    write_tsv(folder / "train.tsv", [*train, row(4, "talk.wav:9000:1000")])
    test = [
        row(11, "talk.wav:0:1000", 1000),  # ends where line 2 begins
        row(12, "talk.wav:3999:10", 10),  # its last sample, though line 3 began later and ended before
        row(13, "talk.wav:4000:5000", 5000),  # between line 2 and line 5
        row(14, "other.wav:1000:3000", 3000),
        row(15, "./slow.wav:31000:10", 10),
        row(16, "talk.wav:8000:2000", 2000),
        row(17, "other.wav:5000:10", 10, source="Sentence 1 is here.", target="Satz 1 steht hier."),
        row(18, "other.wav:5010:10", 10, source="Sentence 1 is here.", target="Ein anderer Satz."),
    ]
    write_tsv(folder / "tst.tsv", test)
    status, (in_train, found) = run(folder, "train.tsv", "tst.tsv")
    found = {key: lines for key, lines in found.items() if key[0] != "note"}
    assert status == 1 and all(level == "note" for level, _ in in_train)
    assert found == {
        ("error", "audio that is also in the training data"): [3, 6, 7],
        ("warning", "pair of texts that is also in the training data"): [8],
    }
    printed = capsys.readouterr().out
    assert f"tst.tsv:3: {folder / 'talk.wav'}:3999:10, as in {folder / 'train.tsv'}:2" in printed
    assert f"tst.tsv:8: 'Satz 1 steht hier.', as in {folder / 'train.tsv'}:2" in printed


def test_files_that_are_no_manifests(folder, capsys):
    (folder / "train.tsv").write_text(
        "id\taudio\tn_frames\ttgt_text\nr1\ttalk.wav\t64000\n\nr2\ttalk.wav\t64000\tJa.\n"
    )
    (folder / "a.tsv").write_text("id\taudio\n")
    (folder / "b.tsv").write_bytes(b"id\xff")
    (folder / "c.tsv").write_text("id\taudio\tn_frames\ttgt_text\tid\n")
    (folder / "d.tsv").write_text("id\taudio\tn_frames\ttgt_text\n")
    status, found = run(folder, "train.tsv", "a.tsv", "b.tsv", "c.tsv", "d.tsv", "e.tsv")
    assert status == 1
    assert found == [
        {("error", "wrong number of fields"): [2]},
        {("error", "bad header"): [1]},
        {("error", "cannot be read"): [1]},
        {("error", "bad header"): [1]},
        {("error", "no segment"): [1]},
        {("error", "cannot be read"): [1]},
    ]
    assert "no column n_frames, tgt_text; found: id, audio" in capsys.readouterr().out
    (folder / "none").mkdir()
    with pytest.raises(SystemExit, match="holds no manifest"):
        lst("check", str(folder / "none"))


def test_only_the_first_lines_are_named(folder, capsys):
    write_tsv(folder / "dev.tsv", [row(i, target="") for i in range(8)])
    run(folder, "dev.tsv", options=["--show", "5"])
    printed = capsys.readouterr().out
    assert "warning: empty tgt_text: 8" in printed and "and 3 more" in printed
    assert f"{folder / 'dev.tsv'}:6" in printed and f"{folder / 'dev.tsv'}:7" not in printed


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        lst("check", "--help")
    assert "lst check data/mustc-de/train.tsv" in capsys.readouterr().out


def test_audio_that_would_be_lost(folder):
    samples = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    files = {"joined.flac": "FLAC", "joined.ogg": "OGG", "joined.mp3": "MP3", "cut.aiff": "AIFF"}
    for name, container in files.items():
        soundfile.write(folder / name, samples, RATE, format=container)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(2 * data if "joined" in name else data[:-1000])
    soundfile.write(folder / "opposite.wav", np.stack([samples, -samples], axis=1), RATE)
    names = ["joined.flac", "joined.ogg", "joined.mp3", "cut.aiff", "opposite.wav:0:16000", "talk.wav"]
    write_tsv(folder / "train.tsv", [row(i, name) for i, name in enumerate(names)])
    status, (found,) = run(folder, "train.tsv")
    assert status == 1
    assert found["error", "audio beyond the header"] == [2, 3, 4]
    assert found["error", "truncated file"] == [5]
    assert found["warning", OPPOSITE_PHASE] == [6]
    _, (found,) = run(folder, "train.tsv", options=["--headers-only"])
    assert found["error", "truncated file"] == [5]
    assert ("warning", OPPOSITE_PHASE) not in found


def test_error_rates_beside_manifests_are_none_of_them(folder, capsys):
    write_tsv(folder / "train.tsv", [row(i) for i in range(1, 5)])
    (folder / "train_clean.wer.tsv").write_text("id\twer\n")
    assert lst("check", folder, "--no-audio") == 0
    assert "1 manifests: 0 errors" in capsys.readouterr().out
    (report,) = check_manifests(str(folder), audio="none")
    assert str(report).startswith(f"{folder}/train.tsv: 4 segments")
    for wrong in ({"audio": "headers-only"}, {"max_length_ratio": 0.5}):
        with pytest.raises(ValueError, match=r"choose one of|at least 1"):
            check_manifests([folder], **wrong)
