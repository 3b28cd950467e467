"""Scores against raw references: exact values, newline-safe reading, nothing missing or doubled."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import soundfile

from lst_fairseq.cli.main import main
from lst_fairseq.data.manifest import read_manifest, write_manifest
from lst_fairseq.evaluation.metrics import (
    ScoreError,
    after_marker,
    by_duration,
    comet_score,
    full_signature,
    in_order,
    plain_words,
    read_generated,
    read_signature,
    read_speed,
    score,
    segment_seconds,
    word_error_rates,
)

REFERENCES = [
    "Eins zwei drei vier fünf.",
    "Sechs sieben acht neun.",
    "Null null eins zwei.",
    "Drei\u2028vier\x85fünf sechs.",
]
HYPOTHESES = [
    "Eins zwei drei vier fünf.",
    "Sechs sieben acht null.",
    "null null eins zwei.",
    "Drei\u2028vier\x85fünf sechs.",
]
NOISE = "2026-01-01 00:00:00 | INFO | fairseq_cli.generate | D-1 is no hypothesis"


def generated(path: Path, hypotheses: dict[int, str], nbest: int = 1) -> Path:
    """A file as fairseq-generate writes it, in an order of its own."""
    lines = [NOISE]
    for index, text in hypotheses.items():
        lines.append(f"T-{index}\twhatever the dictionary made of it")
        for _ in range(nbest):
            lines += [f"H-{index}\t-0.25\t{text}", f"D-{index}\t-0.25\t{text}", f"P-{index}\t-0.1 -0.4"]
    lines.append("Generate tst with beam=5: BLEU4 = 12.34")
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


@pytest.fixture
def files(tmp_path):
    """A manifest of four segments and the output for it, sentences in reverse order."""
    rows = [
        {"id": f"t_{i}", "audio": "gone.wav", "n_frames": 1, "src_text": f"Source {i}.", "tgt_text": text}
        for i, text in enumerate(REFERENCES)
    ]
    write_manifest(tmp_path / "tst.tsv", rows)
    backwards = {i: HYPOTHESES[i] for i in reversed(range(4))}
    return tmp_path / "tst.tsv", generated(tmp_path / "generate-tst.txt", backwards)


def refused(function, *args) -> str:
    with pytest.raises(ScoreError) as caught:
        function(*args)
    return str(caught.value)


def test_hypotheses_come_back_in_the_manifests_order(files):
    hypotheses = read_generated(files[1])
    assert list(hypotheses) == [3, 2, 1, 0]
    assert in_order(hypotheses, 4) == HYPOTHESES


def test_odd_hypotheses(tmp_path):
    texts = {0: "", 1: "with\ta tab", 2: "  spaces  ", 3: "D-4\tno", 4: "a\x0bb\x1cc\u2029d"}
    assert read_generated(generated(tmp_path / "g.txt", texts)) == texts
    windows = tmp_path / "w.txt"
    windows.write_bytes(b"D-0\t-0.1\tja\r\nD-1\t-0.1\tnein\r\n")
    assert read_generated(windows) == {0: "ja", 1: "nein"}


def test_scores_are_sacrebleus(files):
    result = score(HYPOTHESES, REFERENCES)
    assert result.bleu == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert result.chrf == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert result.ter == sacrebleu.corpus_ter(HYPOTHESES, [REFERENCES]).score
    # BLEU of 19/21, 14/17, 10/13, 6/9; one of 17 words wrong, since TER takes no account of case.
    assert (round(result.bleu, 2), round(result.chrf, 2), result.segments) == (78.62, 92.78, 4)
    assert result.ter == pytest.approx(100 / 17)
    assert result.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert result.chrf_signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert result.ter_signature.startswith("nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:")
    scores = f"BLEU = {result.bleu:.2f}, chrF2 = {result.chrf:.1f}, TER = 5.9"
    assert result.line("LST") == f"LST: {scores} (4 segments, signature {result.signature})"


def test_perfect_and_empty_hypotheses():
    assert score(REFERENCES, REFERENCES).bleu == pytest.approx(100)
    assert score([""] * 4, REFERENCES).bleu == 0
    assert score(["ja", "etwas"], ["ja", ""]).segments == 2
    assert "3 hypotheses for 4 references" in refused(score, HYPOTHESES[:3], REFERENCES)
    assert "0 hypotheses for 0 references" in refused(score, [], [])


def test_ter_counts_characters_where_no_spaces_are_written():
    """One of four characters is wrong; between spaces it would be the one and only word."""
    assert score(["我爱你们"], ["我爱他们"], "zh").ter == 25
    assert score(["我爱你们"], ["我爱他们"], "13a").ter == 100


def test_word_error_rates_by_hand():
    assert plain_words("Don’t say “thirty-three”, s'il vous plaît!") == "dont say thirty three sil vous plaît"
    assert plain_words("Plai\u0302t") == "pla\u00eet"  # however the accent is encoded
    # Plain: "a b" for "a b c", one deletion. Raw: "A," -> "a" and "c." lost. The second is right in both.
    assert word_error_rates(["a b", "d"], ["A, b c.", "d"]) == pytest.approx({"wer": 100 / 4, "wer_raw": 200 / 4})
    # Where nothing is to be said, every word is one too many.
    assert word_error_rates(["x y", "a"], ["", "a"]) == pytest.approx({"wer": 200, "wer_raw": 200})
    assert "no reference holds a word" in refused(word_error_rates, ["a"], ["..."])


def test_duration_bins():
    """Bounds belong to the longer bin; what has no audio to no bin; empty bins are left out."""
    hypotheses, references = [*HYPOTHESES, *HYPOTHESES], [*REFERENCES, *reversed(REFERENCES)]
    bins = by_duration(hypotheses, references, [0, 4.99, 5, 9, 20, 50, None, 49.9])
    assert list(bins) == ["0-5", "5-10", "20-50", "50+"]
    for name, at in (("0-5", [0, 1]), ("5-10", [2, 3]), ("20-50", [4, 7]), ("50+", [5])):
        bleu = sacrebleu.corpus_bleu([hypotheses[i] for i in at], [[references[i] for i in at]]).score
        assert bins[name] == {"segments": len(at), "bleu": bleu}
    with_words = by_duration(["a b", "c"], ["a d", "..."], [1, 7], word_errors=True)
    assert with_words["0-5"]["wer"] == 50 and "wer" not in with_words["5-10"]


def test_seconds_are_frames_of_the_files_own_rate(tmp_path):
    soundfile.write(tmp_path / "telephone.wav", np.zeros(16000, dtype=np.float32), 8000)
    rows = [
        {"id": "a", "audio": f"{tmp_path}/telephone.wav:4000:12000", "n_frames": 12000, "tgt_text": "ja"},
        {"id": "b", "audio": "gone.wav", "n_frames": 12000, "tgt_text": "ja"},
        {"id": "c", "audio": "", "n_frames": 0, "src_text": "yes", "tgt_text": "ja"},
    ]
    write_manifest(tmp_path / "tst.tsv", rows)
    read = read_manifest(tmp_path / "tst.tsv", check_audio=False).rows
    assert segment_seconds(tmp_path / "tst.tsv", read) == ([1.5, 0.75, None], 1)
    assert segment_seconds(tmp_path / "tst.tsv", read, rate=48000) == ([0.25, 0.25, None], 0)


def test_what_follows_the_last_marker():
    texts = ["one two => eins zwei", "a => b =>c", "nothing", "one =>", "=> ja "]
    assert after_marker(texts, " => ") == (["eins zwei", "c", "", "", "ja"], 1)


def test_full_signature():
    model = {
        "frontend": "w2v#1a",
        "adapter": "conv",
        "llm": "llama#2b",
        "trained": ["adapter", "llm"],
        "prompt": {"t": "x"},
    }
    settings = {"corpus": "mustc en|de", "split": "tst-HE", "beam": 4, "lenpen": 1.0, "system": "LST", "other": 1}
    prompt = hashlib.sha256(b'{"t": "x"}').hexdigest()[:8]
    assert full_signature("nrefs:1|tok:13a", 7, settings, model) == (
        "corpus:mustc_en_de|split:tst-HE|n:7|frontend:w2v#1a|adapter:conv|llm:llama#2b|stage:adapter,llm|beam:4|lenpen:1.0|"
        f"prompt:{prompt}|nrefs:1|tok:13a"
    )
    of_another = full_signature(
        "tok:13a", 7, {"split": "dev", "system": "s2t from scratch", "after": " => ", "beam": 5}
    )
    assert of_another == "split:dev|n:7|system:s2t_from_scratch|beam:5|after:_=>_|tok:13a"


def fake_comet(folder: Path, body: str) -> str:
    """A Python in whose environment there is a COMET with this ``predict``."""
    (folder / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    (folder / "comet.py").write_text(
        "from types import SimpleNamespace\n"
        f"def predict(data, batch_size, gpus):\n    {body}\n"
        "def load_from_checkpoint(path):\n"
        "    assert open(path).read() == 'weights'\n"
        "    return SimpleNamespace(predict=predict)\n"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "model" / "checkpoints").mkdir(parents=True)
    (folder / "model" / "checkpoints" / "model.ckpt").write_text("weights")
    return str(python)


def test_comet_runs_in_an_environment_of_its_own(tmp_path):
    body = "return SimpleNamespace(system_score=sum(d['mt'] == d['ref'] + d['src'] for d in data) / len(data) + gpus)"
    python = fake_comet(tmp_path, body)
    sources, references = ["ä", "b", "c", "d"], ["\u2028", "x", "y", "z"]
    assert comet_score(tmp_path / "model", python, sources, ["\u2028ä", "xb", "yc", "?"], references) == 0.75


def test_comet_that_is_not_there(tmp_path):
    python = fake_comet(tmp_path, "raise SystemExit(3)")
    texts = [["a"], ["b"], ["c"]]
    assert "COMET failed (exit status 3)" in refused(comet_score, tmp_path / "model", python, *texts)
    assert "no .ckpt file there" in refused(comet_score, tmp_path / "none", python, *texts)
    assert "gone/python: cannot be run" in refused(comet_score, tmp_path / "model", "/gone/python", *texts)
    (tmp_path / "comet.py").write_text("raise ImportError('numpy')")
    message = refused(comet_score, tmp_path / "model", python, *texts)
    assert (
        "no COMET in the environment of" in message and "pip install unbabel-comet" in message and "\n" not in message
    )


def test_nbest_output_is_refused(tmp_path):
    message = refused(read_generated, generated(tmp_path / "g.txt", {0: "ja", 1: "nein"}, nbest=2))
    assert message.startswith(f"{tmp_path}/g.txt:") and "index 0" in message and "--nbest 1" in message


def test_doubled_indices_are_named(tmp_path):
    path = generated(tmp_path / "g.txt", {0: "ja", 1: "nein", 2: "doch"})
    path.write_bytes(path.read_bytes() * 2)
    message = refused(read_generated, path)
    assert f"{path}: index 0, 1, 2 more than once" in message and "translate again" in message


def test_missing_and_surplus_indices_are_named():
    message = refused(in_order, {0: "a", 2: "b", 5: "c", 4: "d"}, 4)
    assert message.startswith("4 hypotheses for 4 references: no hypothesis for index 1, 3; ")
    assert "hypotheses without a reference for index 4, 5; translate the whole" in message
    assert "index 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 90 more" in refused(in_order, {}, 100)


def test_files_that_are_no_output_are_refused(tmp_path):
    path = tmp_path / "g.txt"
    assert f"{path}: no such file; translate first" in refused(read_generated, path)
    path.write_text("Eins zwei.\nDrei.\n")
    assert f"{path}: holds no hypothesis" in refused(read_generated, path)
    path.write_text("D-0\t-0.1\tEins\nD-1\t-0.")
    assert f"{path}:2: 'D-1\\t-0.' is not D-INDEX" in refused(read_generated, path)
    path.write_bytes(b"D-0\t-0.1\tf\xfcnf\n")
    assert f"{path}: not UTF-8" in refused(read_generated, path)


def test_command(files, tmp_path, capsys, caplog):
    manifest, output = files
    report, log = tmp_path / "new" / "score.json", tmp_path / "generate.log"
    log.write_text(
        'x | lst signature: {"adapter": "conv", "llm": "l#1", "trained": ["adapter"]}\n'
        "Translated 4 sentences (37 tokens) in 1.4s (2.85 sentences/s, 262.75 tokens/s)\n"
    )
    arguments = f"--manifest {manifest} --hypotheses {output} --triples 2 --json {report} --log {log}".split()
    main(
        [
            "score",
            *arguments,
            "--name",
            "LST two-stage",
            "--extra",
            "train_seconds=12.5",
            "trained_parameters=7",
            "a=b=c",
            "beam=4",
        ]
    )
    result = score(HYPOTHESES, REFERENCES)
    full = f"split:tst|n:4|adapter:conv|llm:l#1|stage:adapter|beam:4|{result.signature}"
    captured = capsys.readouterr()
    assert captured.out.splitlines()[8:] == [
        result.line("LST two-stage"),
        f"  BLEU by duration: 0-5 s {result.bleu:.2f} (4 segments)",
        f"  signature: {full}",
    ]
    assert captured.out.startswith(
        "[t_0]\n  source      Source 0.\n  hypothesis  Eins zwei drei vier fünf.\n"
        "  reference   Eins zwei drei vier fünf.\n"
        "[t_2]\n  source      Source 2.\n  hypothesis  null null eins zwei.\n  reference   Null null eins zwei.\n"
    )
    assert caplog.messages == ["durations of 4 segments taken at 16 kHz: their audio is not here (see --rate)"]
    assert captured.err == ""
    assert json.loads(report.read_text()) == {
        "name": "LST two-stage",
        "bleu": result.bleu,
        "chrf": result.chrf,
        "ter": result.ter,
        "segments": 4,
        "signature": result.signature,
        "chrf_signature": result.chrf_signature,
        "ter_signature": result.ter_signature,
        "tokenize": "13a",
        "durations": {"0-5": {"segments": 4, "bleu": result.bleu}},
        "full_signature": full,
        "model": {"adapter": "conv", "llm": "l#1", "trained": ["adapter"]},
        "segments_per_second": 2.85,
        "split": "tst",
        "train_seconds": 12.5,
        "trained_parameters": 7,
        "a": "b=c",
        "beam": 4,
        "sentences": {
            "ids": ["t_0", "t_1", "t_2", "t_3"],
            "sources": [f"Source {i}." for i in range(4)],
            "references": REFERENCES,
            "hypotheses": HYPOTHESES,
        },
    }


def test_command_on_transcripts(tmp_path, capsys, caplog):
    """Word error rates where every row is of the task asr, and only there."""
    for name, task in (("asr", "asr"), ("mixed", "st")):
        rows = [
            {"id": str(i), "audio": "gone.wav", "n_frames": 16000 * 6, "tgt_text": text, "task": t}
            for i, (text, t) in enumerate((("One, two.", "asr"), ("Three!", task)))
        ]
        write_manifest(tmp_path / f"{name}.tsv", rows)
        output = generated(tmp_path / "g.txt", {0: "one two", 1: "tree"})
        report = tmp_path / f"{name}.json"
        arguments = ["--manifest", str(tmp_path / f"{name}.tsv"), "--hypotheses", str(output), "--json", str(report)]
        main(["score", *arguments, "--rate", "16000"])
    scores = json.loads((tmp_path / "asr.json").read_text())
    assert (scores["wer"], scores["wer_raw"]) == pytest.approx((100 / 3, 100))
    assert scores["durations"]["5-10"]["wer"] == pytest.approx(100 / 3)
    assert "wer" not in json.loads((tmp_path / "mixed.json").read_text())
    captured = capsys.readouterr()
    assert captured.out.count("WER = 33.33 lower case without punctuation, 100.00 as it is") == 1
    assert captured.err == "" and caplog.messages == []  # the rate was given


def test_command_on_chains_of_thought(files, tmp_path, caplog):
    manifest, _ = files
    thoughts = {
        0: f"One => {HYPOTHESES[0]}",
        1: f"a => b => {HYPOTHESES[1]}",
        2: HYPOTHESES[2],
        3: f"=>{HYPOTHESES[3]}",
    }
    output, report = generated(tmp_path / "cot.txt", thoughts), tmp_path / "cot.json"
    main(["score", "--manifest", str(manifest), "--hypotheses", str(output), "--after", " => ", "--json", str(report)])
    scores = json.loads(report.read_text())
    left = [*HYPOTHESES[:2], "", HYPOTHESES[3]]
    assert scores["bleu"] == sacrebleu.corpus_bleu(left, [REFERENCES]).score
    assert scores["sentences"]["hypotheses"] == left and "|after:_=>_|" in scores["full_signature"]
    assert "1 of 4 hypotheses lack ' => ': scored as empty" in caplog.messages
    # A manifest of chains of thought has its references after the same marker.
    rows = [
        {"id": f"{i}", "audio": "gone.wav", "n_frames": 1, "tgt_text": f"Source => {text}", "task": "cot"}
        for i, text in enumerate(REFERENCES)
    ]
    write_manifest(tmp_path / "cot.tsv", rows)
    arguments = ["--manifest", str(tmp_path / "cot.tsv"), "--hypotheses", str(output), "--json", str(report)]
    main(["score", *arguments, "--after", "=>"])
    assert json.loads(report.read_text())["bleu"] == scores["bleu"]


def test_command_asks_for_comet(files, tmp_path, capsys):
    manifest, output = files
    report, folder = tmp_path / "score.json", tmp_path / "comet"
    folder.mkdir()
    python = fake_comet(folder, "return SimpleNamespace(system_score=0.5)")
    arguments = ["--manifest", str(manifest), "--hypotheses", str(output), "--json", str(report)]
    main(["score", *arguments, "--comet", str(folder / "model"), "--comet-python", python])
    assert json.loads(report.read_text())["comet"] == 0.5 and "COMET = 0.5000 (model)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: --comet"):
        main(["score", *arguments, "--comet", str(folder / "none"), "--comet-python", python])


def test_command_errors_are_one_line(files, tmp_path, capsys):
    manifest, output = files
    short = generated(tmp_path / "short.txt", {0: "ja"})
    for name, hypotheses, message in (
        (manifest, short, "error: .*short.txt for .*tst.tsv: 1 hypotheses for 4 .*: no hypothesis for index 1, 2, 3"),
        (manifest.with_name("no.tsv"), output, "no.tsv:1: no such manifest"),
    ):
        with pytest.raises(SystemExit, match=message) as caught:
            main(["score", "--manifest", str(name), "--hypotheses", str(hypotheses)])
        assert "\n" not in caught.value.code
    for flag, value in (("extra", "bleu=100"), ("extra", "novalue"), ("rate", "0"), ("after", " ")):
        with pytest.raises(SystemExit):
            main(["score", "--manifest", str(manifest), "--hypotheses", str(output), f"--{flag}", value])
        assert f"--{flag}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: --log .*no.log: no such file"):
        main(["score", "--manifest", str(manifest), "--hypotheses", str(output), "--log", str(tmp_path / "no.log")])


def test_tokeniser_is_in_the_signature(files, capsys):
    main(["score", "--manifest", str(files[0]), "--hypotheses", str(files[1]), "--tokenize", "char"])
    assert "tok:char" in capsys.readouterr().out


def test_the_models_own_description(tmp_path):
    """From the log, whatever else it says; None where the model is another."""
    log = tmp_path / "generate.log"
    log.write_text('noise\n2026-01-01 | INFO | x | lst signature: {"adapter": "conv", "llm": "l#1"}\nmore\n')
    assert read_signature(log) == {"adapter": "conv", "llm": "l#1"}
    log.write_text("noise only\n")
    assert read_signature(log) is None


@pytest.mark.parametrize("text", ['{"adapter": "co', "5", '{"trained": [1]}', '{"trained": "adapter"}', "[" * 100_000])
def test_a_description_that_was_cut_short_or_changed(tmp_path, text):
    log = tmp_path / "generate.log"
    log.write_text(f"noise\nbar\r50 %\nlst signature: {text}\n")
    message = refused(read_signature, log)
    assert message.startswith(f"--log {log}:4: what the model says of itself was changed (")
    assert message.endswith("; give the log as it was written")


def test_hypotheses_that_are_too_few_are_named(files):
    files[1].write_text("D-0\t0\tja\n")
    with pytest.raises(SystemExit, match=f"^error: {files[1]} for {files[0]}: 1 hypotheses for 4 references"):
        main(["score", "--manifest", str(files[0]), "--hypotheses", str(files[1])])


def test_decoding_speed(tmp_path):
    log = tmp_path / "generate.log"
    log.write_text(
        "noise\nINFO:x:Translated 2,641 sentences (3,787 tokens) in 14.4s (20.81 sentences/s, 262.75 tokens/s)\n"
    )
    assert read_speed(log) == 20.81
    log.write_text("noise\n")
    assert read_speed(log) is None
