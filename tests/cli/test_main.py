"""``lst``: its verbs, and what they have in common: help, errors in one line, exit status."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lst_fairseq
from lst_fairseq.cli import main as command
from lst_fairseq.cli import user_dir
from lst_fairseq.corpora import corpora
from lst_fairseq.errors import CheckpointError
from tests.support.helpers import REPOSITORY, lst

#: What has a help of its own.
COMMANDS = [
    [],
    *([verb] for verb in command.VERBS),
    *(["prep", what] for what in (*corpora(), "fbank", "text", "asr")),
]

#: Prints what of the libraries that take seconds a process has imported once it has shown each help.
HELP = """
import json, runpy, sys
from lst_fairseq.cli.main import main
for words in json.load(sys.stdin):
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert not stop.code
    heavy = sorted({"torch", "fairseq", "transformers"} & set(sys.modules))
    print("shown", *words, *heavy, file=sys.stderr)
sys.argv = ["launch", "--help"]
try:
    runpy.run_module("lst_fairseq.distributed.launch", run_name="__main__")
except SystemExit as stop:
    assert not stop.code
print("shown launch", *{"torch", "fairseq", "transformers"} & set(sys.modules), file=sys.stderr)
"""


def test_no_help_waits_for_fairseq_or_pytorch(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", HELP],
        input=repr(COMMANDS).replace("'", '"'),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    shown = [line for line in result.stderr.splitlines() if line.startswith("shown")]
    assert shown == [" ".join(["shown", *words]) for words in COMMANDS] + ["shown launch"]


def test_a_verb_is_a_module_and_shows_how_it_is_called(capsys):
    files = {path.stem for path in Path(command.__file__).parent.glob("*.py")}
    modules = {verb.replace("-", "_") for verb in command.VERBS}
    assert files - {"__init__", "__main__", "main"} == modules
    for verb in command.VERBS:
        about = importlib.import_module(f"lst_fairseq.cli.{verb.replace('-', '_')}").__doc__
        assert f"lst {verb}" in about or verb == "prep"
    for corpus in corpora():
        with pytest.raises(SystemExit):
            lst("prep", corpus, "--help")
        assert f"  lst prep {corpus} --" in capsys.readouterr().out


def test_what_is_no_verb_is_answered_with_those_that_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        lst("translte", "a.wav")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(repr(verb) in said for verb in command.VERBS)
    with pytest.raises(SystemExit) as stopped:
        lst()
    assert not stopped.value.code and capsys.readouterr().out.startswith("usage: lst VERB")
    with pytest.raises(SystemExit) as stopped:
        lst("user-dir", "--more")
    assert stopped.value.code == 2
    assert "lst user-dir: error: unrecognized arguments: --more" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        lst("--version")
    assert not stopped.value.code
    assert capsys.readouterr().out == f"lst-fairseq {lst_fairseq.__version__}\n"


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> None:
        raise error

    monkeypatch.setattr(user_dir, "run", run)
    lst("user-dir")


def test_an_error_that_is_meant_is_one_line(monkeypatch, tmp_path):
    for error, line in (
        (CheckpointError("x.pt: not one"), "error: x.pt: not one"),
        (FileNotFoundError(2, "No such file or directory", "x"), "error: x: No such file or "),
    ):
        with pytest.raises(SystemExit) as stopped:
            ends_with(error, monkeypatch)
        assert str(stopped.value).startswith(line)


INTERRUPTED = """
from lst_fairseq.cli import main, user_dir
def run(args):
    raise KeyboardInterrupt
user_dir.run = run
main.main(["user-dir"])
"""


def test_an_interrupted_one_ends_by_the_signal_so_that_a_shell_stops_too():
    result = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "interrupted\n")


def test_a_reader_that_has_enough_is_no_error():
    for words in ("user-dir", "prep mustc --help"):
        line = f"{sys.executable} -m lst_fairseq.cli {words} | true; exit ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert result.returncode in (0, 128 + signal.SIGPIPE) and result.stderr == ""


def test_an_error_that_is_not_keeps_its_traceback(monkeypatch):
    with pytest.raises(KeyError):
        ends_with(KeyError("a bug"), monkeypatch)
    with pytest.raises(ValueError):
        ends_with(ValueError("of a library"), monkeypatch)
    monkeypatch.setattr(user_dir, "ERRORS", (ValueError,), raising=False)
    with pytest.raises(SystemExit, match=r"^error: of a library$"):
        ends_with(ValueError("of a library"), monkeypatch)
    monkeypatch.setenv("LST_TRACEBACK", "1")
    for error in (ValueError("of a library"), CheckpointError("x.pt"), OSError(2, "gone", "x")):
        with pytest.raises(type(error)):
            ends_with(error, monkeypatch)


def test_without_fairseq_it_says_what_to_run(tmp_path):
    (tmp_path / "fairseq.py").write_text("raise ImportError('none here')", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "lst_fairseq.cli", "plan", "--arch", "lst_7b"],
        env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: lst_fairseq needs a fairseq that can be imported")
