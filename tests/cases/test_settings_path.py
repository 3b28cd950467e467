"""SETTINGS=my.env is the file of that name where the command is called, and not another one on PATH."""

from pathlib import Path

import pytest

from tests.support.recipe import Sandbox, value


@pytest.mark.parametrize("name", ["my.env", "./my.env", "-my.env"])
def test_a_settings_file_without_a_slash(tmp_path: Path, name: str) -> None:
    sandbox = Sandbox(tmp_path)
    other = tmp_path / "bin"
    other.mkdir()
    (other / name).write_text("touch read_from_path\n")
    (tmp_path / name).write_text("STAGE1_LR=5e-4\n")
    path = f"{other}:{sandbox.settings['PATH']}"
    sandbox.run("prep", SETTINGS=name, PATH=path)
    sandbox.run("stage1", SETTINGS=name, PATH=path)
    (arguments,) = sandbox.calls("fairseq-train")
    assert value(arguments, "--lr") == "5e-4"
    assert not (tmp_path / "read_from_path").exists()
