"""lst-translate: one line a file, text or JSON, from files of any kind; errors on one line, with exit status 1."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import lst_fairseq
from lst_fairseq.cli.main import lst_translate
from lst_fairseq.generation.translator import DecodingOptions, Translator
from tests.support.helpers import lst_refuses
from tests.support.running import edited, first_stage, run_generate, spoil

RATE = 16_000


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.wav 1.3 s, b.flac 0.6 s at 8 kHz, c.ogg 0.8 s stereo at 44.1 kHz, d.mp3 0.5 s, long.wav 31 s."""
    folder, rng = tmp_path_factory.mktemp("audio"), np.random.default_rng(0)
    for name, seconds, rate, shape in (
        ("a.wav", 1.3, RATE, ()),
        ("b.flac", 0.6, 8_000, ()),
        ("c.ogg", 0.8, 44_100, (2,)),
        ("d.mp3", 0.5, RATE, ()),
        ("long.wav", 31, RATE, ()),
    ):
        soundfile.write(folder / name, 0.1 * rng.standard_normal((int(seconds * rate), *shape)), rate)
    return folder


@pytest.fixture(scope="module")
def checkpoint(corpus: Path, backbones: dict[str, str]) -> str:
    return str(first_stage(corpus, backbones).path())


def translated(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Lines on standard output of a run that succeeds."""
    status = lst_translate([*map(str, arguments), "--max-len-b", "8"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out.split("\n")[:-1]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line on standard error of a run that fails."""
    given = [*map(str, arguments), "--max-len-b", "8"]
    with pytest.raises(SystemExit) as stopped:
        lst_translate(given)
    captured = capsys.readouterr()
    line = stopped.value.code
    assert captured.out == "" and "Traceback" not in captured.err
    assert line.startswith("lst-translate: ") and "\n" not in line
    refusal = line.removeprefix("lst-translate: ")
    assert lst_refuses("translate", *given) == f"error: {refusal}"
    return refusal


def test_one_line_a_file_whatever_its_kind(audio, checkpoint, capsys):
    files = [audio / name for name in ("a.wav", "b.flac", "c.ogg", "d.mp3", "a.wav")]
    together = translated(capsys, "--checkpoint", checkpoint, *files)
    assert len(together) == 5 and together[0] == together[4]
    alone = [line for file in files[:4] for line in translated(capsys, "--checkpoint", checkpoint, file)]
    assert together[:4] == alone
    assert translated(capsys, "--checkpoint", checkpoint, "--batch-size", 2, *files) == together


def test_json(audio, checkpoint, capsys):
    files = [f"{audio}/a.wav", f"{audio}/b.flac", f"{audio}/a.wav:4000:8000"]
    texts = translated(capsys, "--checkpoint", checkpoint, *files)
    results = [json.loads(line) for line in translated(capsys, "--checkpoint", checkpoint, "--json", *files)]
    assert [result["audio"] for result in results] == files
    assert [result["text"] for result in results] == texts
    assert [result["seconds"] for result in results] == pytest.approx([1.3, 0.6, 0.5])
    assert all(result["score"] < 0 and isinstance(result["tokens"], list) for result in results)
    assert set(results[0]) == {"audio", "text", "score", "seconds", "tokens"}


def test_it_translates_as_fairseq_generate_does(corpus, checkpoint, tmp_path, capsys):
    generated = run_generate(corpus, checkpoint, tmp_path, beam=3, lenpen=0.5, max_len_b=8)
    rows = (corpus / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    segments = [row.split("\t")[1] for row in rows]
    lines = translated(capsys, "--checkpoint", checkpoint, "--beam", 3, "--lenpen", 0.5, *segments)
    assert lines == [generated[i] for i in range(5)]


def test_a_file_that_is_too_long_is_refused_with_the_remedy(audio, checkpoint, capsys):
    line = refused(capsys, "--checkpoint", checkpoint, audio / "a.wav", audio / "long.wav")
    assert line.startswith(f"{audio}/long.wav: 31.0 s long, and this model takes 30 s at most: cut it into sentences")
    assert "name a part of it as FILE:OFFSET:FRAMES" in line
    part = translated(capsys, "--checkpoint", checkpoint, f"{audio}/long.wav:16000:16000")
    assert len(part) == 1


def test_files_that_cannot_be_translated(audio, checkpoint, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio", encoding="utf-8")
    soundfile.write(tmp_path / "nan.wav", np.zeros(8000), RATE)
    spoil(tmp_path / "nan.wav")
    for name, message in (
        (tmp_path / "none.wav", "none.wav: no such audio file"),
        (tmp_path / "text.wav", "text.wav: not an audio file that libsndfile can read"),
        (tmp_path / "nan.wav", "nan.wav: holds NaN or infinite samples"),
        (f"{audio}/a.wav:0:99999", "lies beyond the file"),
        (f"{audio}/a.wav:0", "malformed audio segment"),
    ):
        assert message in refused(capsys, "--checkpoint", checkpoint, name)


def test_checkpoints_that_cannot_be_used(audio, checkpoint, backbones, tmp_path, capsys):
    (tmp_path / "empty.pt").write_bytes(b"")
    stray = edited(checkpoint, tmp_path / "stray.pt", model=lambda model: {**model, "stray": model["lst_record"]})
    file = audio / "a.wav"
    assert "none.pt: no such checkpoint" in refused(capsys, "--checkpoint", tmp_path / "none.pt", file)
    assert "empty.pt: not a complete fairseq checkpoint" in refused(capsys, "--checkpoint", tmp_path / "empty.pt", file)
    assert "stray.pt: the checkpoint does not fit this model" in refused(capsys, "--checkpoint", stray, file)
    moved = refused(capsys, "--checkpoint", checkpoint, "--llm", tmp_path / "gone", file)
    assert "--llm" in moved and "gone: no such directory" in moved
    other = refused(capsys, "--checkpoint", checkpoint, "--llm", backbones["llama_other"], file)
    assert "has other weights (fingerprint " in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav"], "give --checkpoint and at least one FILE (--help shows examples)"),
        (["--checkpoint", "x.pt"], "give --checkpoint and at least one FILE (--help shows examples)"),
        (["--checkpoint", "x.pt", "a.wav", "--beam", "0"], "argument --beam: 0 is not a whole number from 1 on"),
        (["--checkpoint", "x.pt", "a.wav", "--batch-size", "-2"], "argument --batch-size: -2 is not a whole number"),
        (["--checkpoint", "x.pt", "a.wav", "--max-len-b", "x"], "argument --max-len-b: x is not a whole number"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        lst_translate(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_help_and_user_dir(capsys):
    with pytest.raises(SystemExit):
        lst_translate(["--help"])
    usage = capsys.readouterr().out
    assert usage.startswith("usage: lst-translate [-h]")
    assert "examples:\n  lst translate --checkpoint checkpoint_last.pt talk.wav\n" in usage
    for flag in ("--checkpoint", "--speech-encoder", "--llm", "--beam", "--json", "--device", "--user-dir"):
        assert flag in usage
    assert lst_translate(["--user-dir"]) == 0
    assert capsys.readouterr().out == f"{Path(lst_fairseq.__file__).parent}\n"


def test_as_a_library(audio, checkpoint):
    translator = Translator(checkpoint, options=DecodingOptions(beam=2, max_len_b=5))
    files = [f"{audio}/a.wav", f"{audio}/b.flac"]
    one, other = translator.translate(iter(files), batch_size=1)
    assert (one.audio, other.audio) == tuple(files) and len(one.tokens) <= 6
    assert one.text == translator.task.target_dictionary.string(one.tokens)
    assert list(translator.translate([])) == [] and translator.max_seconds == 30
