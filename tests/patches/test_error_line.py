"""Errors that end fairseq's commands: one line where this package raised them on purpose."""

import sys
from pathlib import Path

import pytest

from lst_fairseq import errors
from lst_fairseq.data.audio import AudioError, Segment
from lst_fairseq.data.manifest import ManifestError, read_manifest
from lst_fairseq.data.prompt import language_name
from lst_fairseq.patches import error_line
from lst_fairseq.utils.files import Lock


def shown(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    error_line._hook(type(error), error, error.__traceback__)
    return capsys.readouterr().err


def raised(function, *arguments) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


@pytest.fixture
def in_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/env/bin/fairseq-generate", "data"])


@pytest.mark.usefixtures("in_generate")
def test_this_packages_errors_are_one_line(tmp_path: Path, capsys) -> None:
    error = raised(read_manifest, tmp_path / "none.tsv")
    assert isinstance(error, ManifestError)
    line = (
        f"fairseq-generate: error: {tmp_path}/none.tsv:1: no such manifest; prepare the data first"
    )
    assert shown(error, capsys).startswith(line)
    (tmp_path / "file").touch()
    no_folder = raised(Lock, tmp_path / "file" / "lock", "a folder", "take another")
    assert isinstance(no_folder, NotADirectoryError) and "Traceback" not in shown(no_folder, capsys)
    plain = raised(language_name, "xx")
    assert (
        type(plain) is ValueError and shown(plain, capsys) == f"fairseq-generate: error: {plain}\n"
    )


@pytest.mark.usefixtures("in_generate")
def test_an_error_of_a_data_loaders_worker_is_its_message(capsys) -> None:
    text = "Caught AudioError in DataLoader worker process 0.\n"
    text += "Original Traceback (most recent call last):\n  File x\n"
    error = AudioError(
        f"{text}lst_fairseq.data.audio.AudioError: a.wav: cut short; copy it again\n"
    )
    assert (
        shown(error, capsys).strip() == "fairseq-generate: error: a.wav: cut short; copy it again"
    )


def test_other_errors_and_other_programs_keep_their_traceback(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    mine, foreign = raised(Segment.parse, ""), raised(int, "x")
    assert "Traceback" in shown(mine, capsys)  # pytest is no command of fairseq
    monkeypatch.setattr(sys, "argv", ["fairseq-train"])
    assert "Traceback" in shown(foreign, capsys) and "Traceback" not in shown(mine, capsys)
    monkeypatch.setenv("LST_TRACEBACK", "1")
    assert "Traceback" in shown(mine, capsys)


#: Of a module of the package: what is raised on purpose, and what only happens to be.
MEANT = {
    "plain": "raise ValueError('a setting')",
    "in place of another": "try:\n    int('x')\nexcept ValueError:\n    raise RuntimeError('a') from None",
    "of the system": "open('/nowhere/at/all')",
}
BUGS = {
    "builtin": "int('x')",
    "unpacking": "a, b = [1]",
    "lengths": "list(zip([1], [], strict=True))",
    "import": "from os import nothing_such",
    "kind": "raise KeyError('x')",
}


@pytest.mark.parametrize("name", [*MEANT, *BUGS])
def test_what_was_raised_on_purpose_is_told_from_a_fault(name: str) -> None:
    text = (MEANT | BUGS)[name]
    code = compile(text, str(Path(errors.__file__).with_name("made_up.py")), "exec")
    error = raised(exec, code)
    assert errors.is_meant(error) == (name in MEANT)
    assert not errors.is_meant(ValueError("never raised"))
