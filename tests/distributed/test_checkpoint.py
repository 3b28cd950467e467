"""Folders of shards: their names, and which of them are removed."""

import logging
from pathlib import Path

import pytest
import torch

from lst_fairseq.checkpoints.sharded import assemble
from lst_fairseq.distributed.checkpoint import _start_folder
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY


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
