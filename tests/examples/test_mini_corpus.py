"""make_corpus.py writes MuST-C's layout, goes on where it was interrupted, and refuses what it cannot do."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

MINI = Path(__file__).resolve().parents[2] / "examples" / "mini"
sys.path.insert(0, str(MINI))
import make_corpus  # noqa: E402
import must_c  # noqa: E402
import synth  # noqa: E402
from grammar import is_heldout  # noqa: E402

SETTINGS = {"langs": ["de", "es"], "seed": 1, "voices": 2, "word_pauses": 0.0, "segments": 4}
TEXTS = {
    "en": ["The book is new.", "Where is my key?", "There are two hats here.", "She sings today."],
    "de": ["Das Buch ist neu.", "Wo ist mein Schlüssel?", "Es gibt hier zwei Hüte.", "Sie singt heute."],
    "es": ["El libro es nuevo.", "¿Dónde está mi llave?", "Hay dos sombreros aquí.", "Ella canta hoy."],
}
VOICES = [make_corpus.Voice("en-us+f2", 50, 50, 150), make_corpus.Voice("en+m3", 40, 60, 160)]


@pytest.fixture
def two_talks(monkeypatch):
    """Two segments a talk, spoken in this process."""

    class HerePool:
        def __init__(self, *_, initializer, **__):
            initializer()

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731
        map = staticmethod(map)

    monkeypatch.setattr(make_corpus, "SEGMENTS_PER_TRAINING_TALK", 2)
    monkeypatch.setattr(make_corpus, "ProcessPoolExecutor", HerePool)


def make(out: Path, **changes) -> None:
    make_corpus.make_split(out, "train", TEXTS, VOICES, SETTINGS | changes, 1)


def test_layout(tmp_path, two_talks):
    make(tmp_path)
    for language in ("de", "es"):
        data = tmp_path / f"en-{language}" / "data" / "train"
        assert {p.name for p in (data / "txt").iterdir()} == {"train.yaml", "train.en", f"train.{language}"}
        for suffix in ("en", language):
            assert (data / "txt" / f"train.{suffix}").read_text(encoding="utf-8").splitlines() == TEXTS[suffix]
        entries = yaml.safe_load((data / "txt" / "train.yaml").read_text())
        assert [e["wav"] for e in entries] == ["talk_train_0000.wav"] * 2 + ["talk_train_0001.wav"] * 2
        assert all(set(e) == {"duration", "offset", "rW", "uW", "speaker_id", "wav"} for e in entries)
        assert [e["speaker_id"] for e in entries[1:3]] == ["spk.en-us+f2", "spk.en+m3"]
        for entry in entries:
            audio, rate = soundfile.read(data / "wav" / entry["wav"])
            assert rate == 16_000 and audio.ndim == 1
            segment = audio[round(entry["offset"] * rate) : round((entry["offset"] + entry["duration"]) * rate)]
            before = audio[round((entry["offset"] - 0.15) * rate) : round(entry["offset"] * rate)]
            assert len(segment) / rate > 0.5 and np.square(segment).mean() > 10 * np.square(before).mean()
    first, second = (tmp_path / f"en-{x}" / "data/train/wav/talk_train_0000.wav" for x in ("de", "es"))
    assert os.path.samefile(first, second)
    segments = must_c.read_split(tmp_path / "en-es", "train")
    assert [s.english for s in segments] == TEXTS["en"] and segments[0].wav.name == "talk_train_0000.wav"


def test_goes_on_and_keeps(tmp_path, two_talks, monkeypatch):
    said = []
    say = make_corpus._say

    def interrupted(talk, sentence, rng):
        if len(said) == 3:
            raise KeyboardInterrupt
        said.append(sentence)
        return say(talk, sentence, rng)

    monkeypatch.setattr(make_corpus, "_say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    first = tmp_path / ".mini_corpus/train/talks/talk_train_0000.wav"
    audio = first.read_bytes()
    assert not (tmp_path / "en-de").exists()

    monkeypatch.setattr(make_corpus, "_say", lambda talk, text, rng: said.append(text) or say(talk, text, rng))
    del said[:]
    make(tmp_path)
    assert said == TEXTS["en"][2:], "the finished talk is spoken again"
    wav = tmp_path / "en-de/data/train/wav/talk_train_0000.wav"
    assert wav.read_bytes() == audio

    make(tmp_path)
    assert len(said) == 2 and wav.read_bytes() == audio
    with pytest.raises(SystemExit, match="seed: 1 there, 2 asked for"):
        make(tmp_path, seed=2)


def test_leaves_foreign_corpora_alone(tmp_path, two_talks):
    (tmp_path / "en-de/data/train/txt").mkdir(parents=True)
    with pytest.raises(SystemExit, match="was not made by this script"):
        make(tmp_path)


def test_reads_parallel_text_across_languages(tmp_path):
    for language in ("de", "es"):
        txt = tmp_path / f"en-{language}/data/train/txt"
        txt.mkdir(parents=True)
        for suffix in ("en", language):
            (txt / f"train.{suffix}").write_text("\n".join(TEXTS[suffix]) + "\n", encoding="utf-8")
    folder = tmp_path / "en-de/data/train/txt"
    assert make_corpus.read_parallel(folder, ["de", "es"]) == TEXTS
    with pytest.raises(SystemExit, match=r"no train\.fr"):
        make_corpus.read_parallel(folder, ["fr"])


def test_refuses_voices_that_are_not_there():
    synth.check_voice("en-us+f2")
    with pytest.raises(ValueError, match=r"no accent 'en-gb'.*en-gb-scotland"):
        synth.check_voice("en-gb")
    with pytest.raises(ValueError, match=r"no variant 'f99'.*f1, f2"):
        synth.check_voice("en-us+f99")


def test_voices_and_sentences_of_the_tests_are_unseen():
    training = make_corpus.training_variants()
    assert len(training) > 60 and not set(training) & set(make_corpus.TEST_VARIANTS)
    assert not set(make_corpus.TRAIN_ACCENTS) & set(make_corpus.TEST_ACCENTS)
    for name in (*make_corpus.TRAIN_ACCENTS, *make_corpus.TEST_ACCENTS):
        synth.check_voice(name)
    assert set(make_corpus.TEST_VARIANTS) <= set(synth.list_variants())
    assert not any(is_heldout(s.en) for s in make_corpus.sample(200, 1, "train"))


def test_help_has_examples():
    for script in ("make_corpus.py", "grammar.py"):
        run = subprocess.run([sys.executable, MINI / script, "--help"], capture_output=True, text=True, check=True)
        assert f"python examples/mini/{script}" in run.stdout


def test_a_sentence_that_came_out_silent_is_spoken_again(monkeypatch):
    synthesiser = synth.Synthesiser()
    speak = synth.Synthesiser._speak
    silent = iter([True, True, False, True, True, True])
    monkeypatch.setattr(synth.Synthesiser, "_speak", lambda self, text: speak(self, text) * (0 if next(silent) else 1))
    assert np.abs(synthesiser.say("The train is late.", "en-us")).max() > 0.1
    with pytest.raises(RuntimeError, match=r"silent 3 times in the voice 'en-us': 'The train is late\.'"):
        synthesiser.say("The train is late.", "en-us")
