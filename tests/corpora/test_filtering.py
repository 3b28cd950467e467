"""lst filter: its transcripts are transformers' and fairseq's own, and the rates those of the texts."""

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from lst_fairseq.corpora.filtering import normalise
from lst_fairseq.generation import ctc_recognition
from lst_fairseq.generation.ctc_recognition import Transcriber
from tests.models.frontends.test_frontend_fairseq import save_ctc, save_hubert, save_wav2vec2
from tests.support.helpers import lst, read_tsv, write_tsv
from tests.support.speech_models import save_raw

RATE = 16_000
SECONDS = (0.6, 1.3, 0.6, 2.0, 0.9, 1.7)
LETTERS = ("|", "A", "B", "C", "D", "E", "F", "G")


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    times = [np.arange(round(s * RATE)) / RATE for s in SECONDS]
    sweeps = [np.sin(2 * np.pi * (200 + 900 * i * t) * t) * (1 + np.sin(9 * t)) for i, t in enumerate(times)]
    return [(0.2 * s + 0.05 * rng.standard_normal(len(s))).astype(np.float32) for s in sweeps]


@pytest.fixture(scope="module")
def model(tmp_path_factory, waveforms) -> Path:
    """A CTC model with its tokenizer, as save_pretrained writes them, that says many different things."""
    path = tmp_path_factory.mktemp("ctc") / "model"
    save_raw(path, "wav2vec2_large")
    ctc = Wav2Vec2ForCTC.from_pretrained(path).eval()
    with torch.no_grad():
        # About the mean feature vector each label is as likely as any other.
        inputs = [torch.from_numpy((w - w.mean()) / w.std())[None] for w in waveforms]
        features = torch.cat([ctc.wav2vec2(i).last_hidden_state[0] for i in inputs])
        ctc.lm_head.bias.copy_(-ctc.lm_head.weight @ features.mean(0))
    ctc.save_pretrained(path)
    vocabulary = path.parent / "vocab.json"
    tokens = ("<pad>", "<s>", "</s>", "<unk>", *LETTERS)
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def transcripts(model, waveforms) -> list[str]:
    """What transformers makes of each waveform alone."""
    reference = Wav2Vec2ForCTC.from_pretrained(model).eval()
    extractor, tokenizer = Wav2Vec2FeatureExtractor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    texts = []
    for waveform in waveforms:
        inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            ids = reference(**inputs).logits.argmax(-1)[0]
        # Its skip_special_tokens drops the blanks before it merges repetitions, and letters said twice with them.
        texts.append(re.sub("<s>|</s>|<unk>", "", tokenizer.decode(ids)))
    assert len(set(texts)) == len(texts) and all(texts) and any(" " in text for text in texts)
    return texts


@pytest.fixture
def folder(tmp_path, waveforms):
    for i, waveform in enumerate(waveforms):
        soundfile.write(tmp_path / f"{i}.wav", waveform, RATE, subtype="FLOAT")
    return tmp_path


def write_train(folder, sources, name="train.tsv", **columns):
    rows = []
    for i, source in enumerate(sources):
        frames = round(SECONDS[i] * RATE)
        row = {"id": f"u{i}", "audio": f"{folder / str(i)}.wav", "n_frames": frames, "tgt_text": f"Satz {i}"}
        rows.append({**row, "src_text": source, "extra": f"kept {i}", **columns})
    return write_tsv(folder / name, rows)


def run(folder, model, *options, name="train.tsv", out="clean.tsv"):
    paths = ["--manifest", str(folder / name), "--out", str(folder / out), "--speech-encoder", str(model)]
    lst("filter", *paths, "--device", "cpu", *options)
    return [row["id"] for row in read_tsv(folder / out)]


def failure(*arguments, **settings) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments, **settings)
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code
    return caught.value.code


def test_transcripts_are_those_of_transformers(folder, model, transcripts):
    write_train(folder, ["something"] * len(SECONDS))
    # 2.5 s at a time: rows of several lengths in one padded batch.
    kept = run(folder, model, "--batch-seconds", "2.5")
    assert kept == [f"u{i}" for i in range(len(SECONDS))]
    found = {row["id"]: row["transcript"] for row in read_tsv(folder / "clean.wer.tsv")}
    assert [found[name] for name in kept] == [" ".join(text.split()) for text in transcripts]


def test_transcribe_writes_these_transcripts(folder, model, transcripts):
    """lst transcribe, in the manifest's order; rows without audio have no transcript."""
    rows = read_tsv(write_train(folder, [""] * len(SECONDS), name="tst.tsv"))
    text = {**rows[0], "id": "text", "audio": "", "n_frames": 0, "src_text": "Said nowhere.", "task": "mt"}
    write_tsv(folder / "tst.tsv", [{"task": "st", **row} for row in rows[::-1]] + [text])
    arguments = ["--manifest", folder / "tst.tsv", "--speech-encoder", model, "--device", "cpu"]
    lst("transcribe", *arguments, "--batch-seconds", "2.5", "--out", folder / "new" / "tst.tsv")
    found = [(row["id"], row["transcript"]) for row in read_tsv(folder / "new" / "tst.tsv")]
    assert found == [(f"u{i}", " ".join(transcripts[i].split())) for i in range(len(SECONDS))][::-1]


def test_transcribe_names_what_is_wrong(folder, model):
    write_train(folder, [""] * len(SECONDS))
    arguments = ["--manifest", str(folder / "train.tsv"), "--out", str(folder / "out.tsv"), "--speech-encoder"]
    with pytest.raises(SystemExit, match=f"^error: .*{folder}/nowhere"):
        lst("transcribe", *arguments, folder / "nowhere")
    (folder / "3.wav").unlink()
    with pytest.raises(SystemExit, match=r"^error: .*3\.wav"):
        lst("transcribe", *arguments, model)
    assert not (folder / "out.tsv").exists()


def test_transcripts_are_those_of_fairseq(folder, waveforms):
    save_wav2vec2(folder)
    save_hubert(folder)
    encoder = save_ctc(folder)["wav2vec_ctc_dict"]
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")
    symbols = ("", "", "", "", *LETTERS)  # <s>, which is the blank, <pad>, </s>, <unk>
    expected = []
    for waveform in waveforms:
        source = torch.from_numpy(waveform)
        source = torch.nn.functional.layer_norm(source, source.shape)[None]
        with torch.no_grad():
            logits = encoder(source, torch.zeros(source.shape, dtype=torch.bool))["encoder_out"][:, 0]
        ids = [label for label, _ in groupby(logits.argmax(-1).tolist()) if label != 0]
        expected.append(" ".join("".join(symbols[i] for i in ids).replace("|", " ").split()))
    assert len(set(expected)) > 3 and any(expected)
    write_train(folder, ["something"] * len(SECONDS))
    checkpoint = folder / "wav2vec_ctc_dict.pt"
    run(folder, checkpoint, "--batch-seconds", "2.5")
    found = {row["id"]: row["transcript"] for row in read_tsv(folder / "clean.wer.tsv")}
    assert [found[f"u{i}"] for i in range(len(SECONDS))] == expected
    (folder / "other.txt").write_text("A 1\n" * 1 + "B 1\n" + "".join(f"x{i} 1\n" for i in range(9)), encoding="utf-8")
    options = ("--dict", str(folder / "other.txt"))
    assert "12 outputs, and its tokenizer or dictionary 15" in failure(folder, checkpoint, *options)
    (folder / "dict.ltr.txt").unlink()
    assert "dict.ltr.txt: no such file; --dict names" in failure(folder, checkpoint)


def sources_of(transcripts) -> tuple[list[str], list[float]]:
    """References, and the word error rates that they make: right, punctuated, one word more, twice as many, wrong."""
    words = [len(text.split()) for text in transcripts]
    sources = [
        transcripts[0],
        f"«{transcripts[1].capitalize()}!»",
        f"{transcripts[2]} more",
        f"{transcripts[3]}, " + " ".join(["xx"] * words[3]),
        "wholly otherwise",
        "...",  # no word at all
    ]
    wrong = max(2, words[4]) / 2
    return sources, [0.0, 0.0, 1 / (words[2] + 1), 0.5, wrong]


def test_rates_and_thresholds(folder, model, transcripts, capsys):
    sources, expected = sources_of(transcripts)
    path = write_train(folder, sources)
    lines = path.read_text().split("\n")
    everything = run(folder, model)
    assert everything == [f"u{i}" for i in range(6)]
    rates = {row["id"]: float(row["wer"]) for row in read_tsv(folder / "clean.wer.tsv")}
    assert sorted(rates) == everything[:5]
    np.testing.assert_allclose([rates[name] for name in sorted(rates)], expected, atol=5e-5)
    words = [len(re.findall("[A-Za-z]+", source)) for source in sources[:5]]
    overall = sum(rate * count for rate, count in zip(expected, words)) / sum(words)
    assert f"word error rate {overall:.2%} of 5 segments" in capsys.readouterr().out

    threshold = max(0.5, expected[2])
    kept = [f"u{i}" for i in range(5) if expected[i] <= threshold]
    assert len(kept) < 5 and run(folder, model, "--max-wer", str(threshold)) == kept
    # Every column of the lines that are kept is as it was.
    assert (folder / "clean.tsv").read_text().split("\n") == [lines[0], *(lines[int(k[1]) + 1] for k in kept), ""]
    printed = capsys.readouterr().out
    assert f"{len(kept)} of 6 lines; left out: {5 - len(kept)} by word error rate, 1 without a transcript" in printed
    assert run(folder, model, "--max-examples", "2") == ["u0", "u1"]  # lowest, in the manifest's order
    assert run(folder, model, "--max-wer", "0", "--max-examples", "9") == ["u0", "u1"]


def test_a_fraction_of_what_is_left(folder, model, transcripts, capsys):
    """In one call as in two."""
    write_train(folder, sources_of(transcripts)[0])
    together = run(folder, model, "--max-wer", "0.5", "--fraction", "0.5", out="both.tsv")
    left = run(folder, model, "--max-wer", "0.5", "--wers", str(folder / "both.wer.tsv"), out="left.tsv")
    assert f"; 0.5 of the {len(left)} that are left" in capsys.readouterr().out
    lst("filter", "--manifest", folder / "left.tsv", "--out", folder / "two.tsv", "--fraction", "0.5")
    assert [row["id"] for row in read_tsv(folder / "two.tsv")] == together
    assert len(together) == round(len(left) / 2) < len(left)


def test_flags_of_word_error_rates_need_an_encoder(folder, capsys):
    path = write_train(folder, ["one"])
    files = ["--manifest", path, "--out", folder / "out.tsv"]
    for more in ([], ["--fraction", "0.5", "--max-wer", "1"], ["--fraction", "0.5", "--fp16"]):
        with pytest.raises(SystemExit) as caught:
            lst("filter", *files, *more)
        assert caught.value.code == 2
        assert "give --speech-encoder, whose word error rates decide" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        lst("filter", *files, "--speech-encoder", "nowhere", "--fraction", "1.5")
    assert "--fraction 1.5: give a number above 0, up to 1" in capsys.readouterr().err
    assert not (folder / "out.tsv").exists()


def test_another_threshold_needs_no_decoding(folder, model, transcripts, monkeypatch):
    sources = sources_of(transcripts)[0]
    write_train(folder, sources)
    run(folder, model, "--max-wer", "0")
    before = (folder / "clean.wer.tsv").read_bytes()

    def fail(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Transcriber, "transcribe", fail)
    monkeypatch.setattr(ctc_recognition, "build_frontend", fail)
    assert run(folder, model, "--max-wer", "100") == [f"u{i}" for i in range(5)]
    wers = ("--wers", str(folder / "clean.wer.tsv"))
    assert run(folder, model, *wers, "--max-examples", "1", out="one.tsv") == ["u0"]
    assert (folder / "clean.wer.tsv").read_bytes() == before
    # A corrected transcript changes the rate, not what was heard.
    write_train(folder, ["no such words here", *sources[1:]])
    assert run(folder, model, "--max-wer", "0") == ["u1"]


def test_an_interrupted_run_goes_on(folder, model, monkeypatch):
    write_train(folder, ["something"] * len(SECONDS))
    run(folder, model)
    wers = folder / "clean.wer.tsv"
    before = {row["id"]: row for row in read_tsv(wers)}
    assert len(before) == 6
    lines = wers.read_text(encoding="utf-8").split("\n")
    wers.write_text("\n".join(lines[:4])[:-3], encoding="utf-8")  # header, two rows and a part of the third
    decoded = []
    transcribe = Transcriber.transcribe

    def counted(self, waveforms):
        decoded.extend(waveforms)
        return transcribe(self, waveforms)

    monkeypatch.setattr(Transcriber, "transcribe", counted)
    run(folder, model)
    assert len(decoded) == 4 and {row["id"]: row for row in read_tsv(wers)} == before
    # Another segment under the same id is decoded anew.
    path = folder / "train.tsv"
    path.write_text(path.read_text().replace("1.wav", "1.wav:0:8000"), encoding="utf-8")
    run(folder, model)
    assert len(decoded) == 5 and len(decoded[4]) == 8000


def test_lines_without_audio_are_kept(folder, model):
    path = write_train(folder, ["something else"] * 2)
    rows = [*read_tsv(path), {**read_tsv(path)[0], "id": "text", "audio": "", "n_frames": "0"}]
    write_tsv(path, rows)
    assert run(folder, model, "--max-wer", "0") == ["text"]


def test_errors(folder, model, backbones, capsys):
    write_train(folder, ["something"] * 2)
    assert "no tokenizer there" in failure(folder, backbones["wav2vec2"])
    assert "--dict" in failure(folder, model, "--dict", str(folder / "dict.ltr.txt"))
    (folder / "wers").write_text("id\tother\n", encoding="utf-8")
    assert f"{folder / 'wers'}:1: not a file of" in failure(
        folder, model, "--wers", str(folder / "wers")
    )
    write_train(folder, [""] * 2, "train_x.tsv")
    assert "no segment has a transcript" in failure(folder, model, name="train_x.tsv")
    write_train(folder, ["something"] * 2, "dev.tsv")
    for options, name, message in (
        (("--max-wer", "1"), "dev.tsv", "only training data is filtered"),
        (("--max-examples", "0"), "train.tsv", "--max-examples: 0 is not a whole number from 1 on"),
        (("--out", str(folder / "train.tsv")), "train.tsv", "is what is read; give another place"),
    ):
        with pytest.raises(SystemExit) as caught:
            run(folder, model, *options, name=name)
        assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Don’t -- stop!", "don't stop"),
        ("'Twas \"well-known\" rock 'n' roll", "twas well known rock n roll"),
        ("ÜBER Straße_2", "über straße 2"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया"),
        ("cafe\u0301", "caf\u00e9"),
        ("... ♪", ""),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        lst("filter", "--help")
    assert "lst filter --manifest" in capsys.readouterr().out
