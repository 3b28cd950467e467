"""Which files and folders sharded checkpoints replace, and when."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from lst_fairseq.checkpoints import conversion
from lst_fairseq.checkpoints.sharded import assemble, read_file
from lst_fairseq.distributed.checkpoint import _start_folder
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY


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
    assert conversion.main([str(tmp_path / "one.pt"), str(target)]) == 0
    return target


def test_replacing_removes_the_old_shards_last(sharded: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    command = [str(sharded.with_name("two.pt")), str(sharded), "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_utils, "torch_persistent_save", fail)
        assert conversion.main(command) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert weight(sharded) == 1
    assert conversion.main(command) == 0
    assert weight(sharded) == 2
    left = [path.name for path in sharded.parent.glob("sharded.pt*")]
    assert sorted(left) == ["sharded.pt", read_file(str(sharded))[SHARDS_KEY]]
    # A whole one in the place of a sharded one.
    assert conversion.main([str(sharded), str(sharded), "--force"]) == 0
    assert weight(sharded) == 2
    assert [path.name for path in sharded.parent.glob("sharded.pt*")] == ["sharded.pt"]


def fail(*_: Any) -> None:
    raise OSError("the disk is full")


@pytest.mark.parametrize("harm", ["damaged", "unreadable"])
def test_no_shards_are_removed_beside_a_file_that_cannot_be_read(harm: str, tmp_path: Path, caplog) -> None:
    """The file may be the one that names them."""
    file, folder = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_shards_5.0"
    folder.mkdir()
    torch.save({SHARDS_KEY: folder.name, "optimizer_history": []}, file)
    content = file.read_bytes()
    if harm == "damaged":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
        file.symlink_to(tmp_path / "away.pt")
    with caplog.at_level(logging.WARNING):
        assert _start_folder(tmp_path, 5) == "checkpoint_shards_5.1"
    assert folder.is_dir()
    assert str(file) in caplog.text and "no folder of shards beside it is removed" in caplog.text
    file.unlink()
    file.write_bytes(content)
    (tmp_path / "checkpoint_shards_4.0").mkdir()
    assert _start_folder(tmp_path, 5) == "checkpoint_shards_5.1"
    assert sorted(path.name for path in tmp_path.glob("checkpoint_shards_*")) == [folder.name]


def test_folder_names(tmp_path: Path) -> None:
    assert _start_folder(tmp_path, 7) == "checkpoint_shards_7.0"
    with pytest.raises(CheckpointError, match="without its folder"):
        assemble(str(tmp_path / "x.pt"), {SHARDS_KEY: "checkpoint_shards_7.0"})
