"""The same fairseq-train command again after its last update: nothing to do, nothing done."""

import hashlib
import logging
from pathlib import Path

import pytest

from tests.support.running import run_train


def stamps(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of a run's checkpoints."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.glob("checkpoint*")
    }


@pytest.mark.parametrize("every", [0, 1])
def test_no_update_is_added_and_no_checkpoint_written(every, corpus, backbones, tmp_path, caplog):
    settings = {"max_update": 8, "no_epoch_checkpoints": True, "save_interval_updates": every}
    first = run_train(corpus, backbones, tmp_path, **settings)
    assert len(first.losses) == 8
    before = stamps(tmp_path)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            again = run_train(corpus, backbones, tmp_path, **settings)
        assert again.losses == [] and again.valid_losses == []
        assert stamps(tmp_path) == before
        said = [
            record.getMessage()
            for record in caplog.records
            if "nothing is left to train" in record.getMessage()
        ]
        last = tmp_path / "checkpoint_last.pt"
        assert said == [
            f"{last}: nothing is left to train, its 8 updates are all of --max-update 8"
        ]


def test_with_more_updates_it_goes_on(corpus, backbones, tmp_path):
    straight = run_train(corpus, backbones, tmp_path / "straight", max_update=6)
    run_train(corpus, backbones, tmp_path / "run", max_update=4)
    more = run_train(corpus, backbones, tmp_path / "run", max_update=6)
    assert more.losses == straight.losses[4:]
