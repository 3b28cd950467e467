"""Scores against raw references: exact values, newline-safe reading, nothing missing or doubled."""

import importlib.util
import json
from pathlib import Path

import pytest
import sacrebleu

from lst_fairseq.data.manifest import write_manifest
from lst_fairseq.scoring import ScoreError, in_order, read_generated, read_signature, score

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


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).resolve().parents[1] / "scripts" / "score.py"
    spec = importlib.util.spec_from_file_location("score_command", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert (round(result.bleu, 2), round(result.chrf, 2), result.segments) == (
        78.62,
        92.78,
        4,
    )  # 19/21, 14/17, 10/13, 6/9
    assert result.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert result.chrf_signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    expected = f"LST: BLEU = {result.bleu:.2f}, chrF2 = {result.chrf:.1f} (4 segments, signature {result.signature})"
    assert result.line("LST") == expected


def test_perfect_and_empty_hypotheses():
    assert score(REFERENCES, REFERENCES).bleu == pytest.approx(100)
    assert score([""] * 4, REFERENCES).bleu == 0
    assert score(["ja", "etwas"], ["ja", ""]).segments == 2
    assert "3 hypotheses for 4 references" in refused(score, HYPOTHESES[:3], REFERENCES)
    assert "0 hypotheses for 0 references" in refused(score, [], [])


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


def test_command(command, files, tmp_path, capsys):
    manifest, output = files
    report = tmp_path / "new" / "score.json"
    arguments = f"--manifest {manifest} --hypotheses {output} --triples 2 --json {report}".split()
    command.main(
        [*arguments, "--name", "LST two-stage", "--extra", "train_seconds=12.5", "trained_parameters=7", "a=b=c"]
    )
    result = score(HYPOTHESES, REFERENCES)
    printed = capsys.readouterr().out
    triples, last = printed.rstrip("\n").rsplit("\n", 1)
    assert last == result.line("LST two-stage")
    assert triples == (
        "[t_0]\n  source      Source 0.\n  hypothesis  Eins zwei drei vier fünf.\n"
        "  reference   Eins zwei drei vier fünf.\n"
        "[t_2]\n  source      Source 2.\n  hypothesis  null null eins zwei.\n  reference   Null null eins zwei."
    )
    assert json.loads(report.read_text()) == {
        "name": "LST two-stage",
        "bleu": result.bleu,
        "chrf": result.chrf,
        "segments": 4,
        "signature": result.signature,
        "chrf_signature": result.chrf_signature,
        "train_seconds": 12.5,
        "trained_parameters": 7,
        "a": "b=c",
    }


def test_command_errors_are_one_line(command, files, tmp_path, capsys):
    manifest, output = files
    short = generated(tmp_path / "short.txt", {0: "ja"})
    for name, hypotheses, message in (
        (manifest, short, "error: 1 hypotheses for 4 references: no hypothesis for index 1, 2, 3"),
        (manifest.with_name("no.tsv"), output, "no.tsv:1: no such manifest"),
    ):
        with pytest.raises(SystemExit, match=message) as caught:
            command.main(["--manifest", str(name), "--hypotheses", str(hypotheses)])
        assert "\n" not in caught.value.code
    for extra in ("bleu=100", "novalue"):
        with pytest.raises(SystemExit):
            command.main(["--manifest", str(manifest), "--hypotheses", str(output), "--extra", extra])
        assert "--extra" in capsys.readouterr().err


def test_tokeniser_is_in_the_signature(command, files, capsys):
    command.main(["--manifest", str(files[0]), "--hypotheses", str(files[1]), "--tokenize", "char"])
    assert "tok:char" in capsys.readouterr().out


def test_the_models_own_description(tmp_path):
    """From the log, whatever else it says; None where the model is another."""
    log = tmp_path / "generate.log"
    log.write_text('noise\n2026-01-01 | INFO | x | lst signature: {"adapter": "conv", "llm": "l#1"}\nmore\n')
    assert read_signature(log) == {"adapter": "conv", "llm": "l#1"}
    log.write_text("noise only\n")
    assert read_signature(log) is None
