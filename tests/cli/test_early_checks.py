"""What a look at paths and numbers tells is told before fairseq and PyTorch are imported, in the words of later."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from lst_fairseq.checkpoints.failures import readable_checkpoint
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import check_checkpoint
from tests.support.running import first_stage, read_checkpoint

#: Runs commands one after the other in one process; for each: status, what was said, and what was imported.
RUN_ALL = """
import contextlib, io, json, runpy, sys
from lst_fairseq.cli.main import lst_translate, main
for command in json.load(sys.stdin):
    sys.argv = list(command)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if command[0] in ("lst", "lst-translate"):
                status = {"lst": main, "lst-translate": lst_translate}[command[0]]()
            else:
                runpy.run_module(command[0], run_name="__main__")
                status = 0
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            said.write(status)
            status = 1
    print(json.dumps([status, said.getvalue(), sorted({"torch", "fairseq", "transformers"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus, backbones) -> Path:
    """Files that are what a command asks for, and others that are nearly so."""
    folder = tmp_path_factory.mktemp("early")
    good = first_stage(corpus, backbones).path().read_bytes()
    (folder / "good.pt").write_bytes(good)
    (folder / "cut.pt").write_bytes(good[:-100])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("no checkpoint")
    (folder / "plain").mkdir()
    soundfile.write(folder / "a.wav", [0.0, 0.1] * 400, 16_000)
    (folder / "text.wav").write_text("no audio")
    (folder / "data").mkdir()
    (folder / "data" / "train.tsv").write_text((corpus / "train.tsv").read_text())
    return folder


REFUSED = "refused, since it is no checkpoint"
INCOMPLETE = "not a complete fairseq checkpoint, perhaps truncated"
TRANSLATE = "lst-translate --checkpoint"
CASES = [
    (f"{TRANSLATE} nope.pt x.wav", 1, "lst-translate: nope.pt: no such checkpoint"),
    (f"{TRANSLATE} empty.pt a.wav", 1, f"lst-translate: empty.pt: {INCOMPLETE}"),
    (f"{TRANSLATE} cut.pt a.wav", 1, f"lst-translate: cut.pt: {INCOMPLETE}"),
    (f"{TRANSLATE} text.pt a.wav", 1, f"lst-translate: text.pt: {REFUSED}"),
    (
        f"{TRANSLATE} plain a.wav",
        1,
        "lst-translate: plain: not a directory that lst export wrote",
    ),
    (f"{TRANSLATE} good.pt --llm gone a.wav", 1, "lst-translate: --llm gone: no such directory"),
    (
        f"{TRANSLATE} good.pt --llm plain a.wav",
        1,
        "lst-translate: --llm plain: no config.json there",
    ),
    (
        f"{TRANSLATE} good.pt --speech-encoder w.pt a.wav",
        1,
        "lst-translate: --speech-encoder w.pt: no such file",
    ),
    (f"{TRANSLATE} good.pt gone.wav", 1, "lst-translate: gone.wav: no such audio file"),
    (f"{TRANSLATE} good.pt a.wav text.wav", 1, "lst-translate: text.wav: not an audio file"),
    (f"{TRANSLATE} good.pt a.wav:0", 1, "lst-translate: 'a.wav:0': malformed audio segment"),
    (f"{TRANSLATE} good.pt a.wav:0:999999", 1, "lies beyond the file"),
    (f"{TRANSLATE} good.pt a.wav --lenpen nan", 2, "argument --lenpen: nan is not a number"),
    (
        f"{TRANSLATE} good.pt a.wav --device gpu:x",
        2,
        "'gpu:x' is not the name of a device, such as cpu, cuda or cuda:1",
    ),
    ("lst export nope.pt out", 1, "error: nope.pt: no such checkpoint"),
    (
        "lst export good.pt plain",
        1,
        "error: plain exists already: give another directory, or remove it first",
    ),
    ("lst export good.pt out --llm gone", 1, "error: --llm gone: no such directory"),
    ("lst average nope.pt good.pt --out o.pt", 1, "error: nope.pt: no such checkpoint"),
    ("lst average good.pt cut.pt --out o.pt", 1, f"error: cut.pt: {INCOMPLETE}"),
    (
        "lst convert nope.pt new.pt",
        1,
        "error: nope.pt: no such checkpoint",
    ),
    ("lst convert cut.pt good.pt", 1, "error: good.pt is there already"),
    ("lst convert text.pt new.pt", 1, f"error: text.pt: {REFUSED}"),
    ("lst align nope.pt --data data --out out", 1, "error: nope.pt: no such checkpoint"),
    ("lst align good.pt --data data --out out", 1, "error: data/dev.tsv:1: no such manifest"),
    (
        "lst align good.pt --data data --out out --llm gone",
        1,
        "error: --llm gone: no such directory",
    ),
    (
        "lst transcribe --manifest no.tsv --speech-encoder gone --out o",
        1,
        "error: --speech-encoder gone: no such",
    ),
    (
        "lst transcribe --manifest no.tsv --speech-encoder good.pt --out o",
        1,
        "error: dict.ltr.txt: no such file; --dict",
    ),
    (
        "lst transcribe --manifest no.tsv --speech-encoder w.pt --out o",
        1,
        "error: --speech-encoder w.pt: no such file",
    ),
    (
        "lst transcribe --manifest no.tsv --speech-encoder good.pt --dict text.wav --out o",
        1,
        "error: no.tsv:1: no such manifest",
    ),
    (
        "lst transcribe --manifest m --speech-encoder e --out o --workers 0",
        2,
        "argument --workers: 0 is not a whole",
    ),
    (
        "lst filter --manifest train.tsv --speech-encoder gone --out o --max-wer 1",
        1,
        "error: --speech-encoder gone: no such directory",
    ),
    (
        "lst filter --manifest train.tsv --speech-encoder e --out o --batch-seconds 0",
        2,
        "argument --batch-seconds: 0 is not a number above 0",
    ),
    ("lst prep fbank --manifests data --out fbank", 1, "error: data/dev.tsv:1: no such manifest"),
    (
        "lst prep fbank --manifests data --out fbank --speech-encoder gone",
        1,
        "error: --speech-encoder gone: no such",
    ),
    ("lst_fairseq.distributed.launch data", 1, "lst_fairseq.distributed.launch: neither torchrun's variables"),
]


def test_paths_and_numbers_are_checked_before_anything_heavy_is_imported(folder):
    commands = [line.split() for line, _, _ in CASES]
    result = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(CASES)
    for (line, status, message), (ended, said, imported) in zip(CASES, answers, strict=True):
        assert (ended, imported) == (status, []) and message in said, (line, said)
        assert "Traceback" not in said and (status == 2 or said.strip().count("\n") == 0), (
            line,
            said,
        )


@pytest.mark.parametrize("name", ["empty.pt", "cut.pt", "text.pt"])
def test_the_words_are_those_of_reading_the_file(name, folder):
    """But for the reason in brackets, which is PyTorch's where PyTorch has read it."""
    path = str(folder / name)
    with pytest.raises(CheckpointError) as early:
        check_checkpoint(path)
    with pytest.raises(CheckpointError) as late:
        read_checkpoint(path)
    without = [str(error.value).split(" (")[0] for error in (early, late)]
    assert without[0] == without[1] and str(early.value).endswith(
        str(late.value).rpartition("); ")[2]
    )


def test_what_pytorch_could_read_is_let_through(folder, tmp_path):
    check_checkpoint(folder / "good.pt")
    for zipped in (True, False):
        torch.save({"model": {}}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        check_checkpoint(tmp_path / "model.pt")
        with readable_checkpoint(str(tmp_path / "model.pt")):
            torch.load(tmp_path / "model.pt", weights_only=True)
