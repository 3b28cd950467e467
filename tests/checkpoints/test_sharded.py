"""Which files and folders sharded checkpoints replace, and when."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from lst_fairseq.checkpoints.sharded import assemble, read_file
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY
from tests.support.helpers import lst


def write_checkpoint(path: Path, value: float) -> None:
    """A small whole checkpoint."""
    torch.save({"model": {"weight": torch.full((2, 3), value)}, "optimizer_history": []}, path)


def weight(path: Path) -> float:
    """Of a checkpoint as :func:`write_checkpoint` and the command write it."""
    return assemble(str(path), read_file(str(path)))["model"]["weight"].unique().item()


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A sharded checkpoint of ones, and a whole one of twos beside it."""
    write_checkpoint(tmp_path / "one.pt", 1.0)
    write_checkpoint(tmp_path / "two.pt", 2.0)
    target = tmp_path / "sharded.pt"
    lst("convert", tmp_path / "one.pt", target)
    return target


def test_replacing_removes_the_old_shards_last(sharded: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    command = [str(sharded.with_name("two.pt")), str(sharded), "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_utils, "torch_persistent_save", fail)
        with pytest.raises(SystemExit, match="the disk is full"):
            lst("convert", *command)
    assert weight(sharded) == 1
    lst("convert", *command)
    assert weight(sharded) == 2
    left = [path.name for path in sharded.parent.glob("sharded.pt*")]
    assert sorted(left) == ["sharded.pt", read_file(str(sharded))[SHARDS_KEY]]
    # A whole one in the place of a sharded one.
    lst("convert", sharded, sharded, "--force")
    assert weight(sharded) == 2
    assert [path.name for path in sharded.parent.glob("sharded.pt*")] == ["sharded.pt"]


def fail(*_: Any) -> None:
    raise OSError("the disk is full")
