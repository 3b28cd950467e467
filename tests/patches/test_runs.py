"""Runs as a whole: what ends them, starting them again, and the folder that they have to
themselves.
"""

import logging
import os
import time

import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from lst_fairseq.patches.finished_runs import EARLY_STOP_KEY
from lst_fairseq.patches.save_dir import LOCK_FILE
from tests.cases.test_finished_run_again import stamps
from tests.support.forks import outcome
from tests.support.ranks import run_ranks
from tests.support.running import read_checkpoint, run_train

#: Of the runs below: settings that end them, after how many updates, and what is said when they are
#: started again.
ENDS = {
    "epochs": ({"max_epoch": 2, "max_update": 0}, 8, "its 2 epochs are all of --max-epoch 2"),
    "time": ({"stop_time_hours": 1e-9}, 1, "hours are all of --stop-time-hours 1e-09"),
    "the loss on dev": (
        {
            "patience": 2,
            "validate_interval_updates": 1,
            "save_interval_updates": 1,
            "lr": [0.0],
            "max_update": 9,
        },
        3,
        "its loss on the dev set is no better for 2 times, --patience 2",
    ),
    "no optimiser's state": (
        {"no_save_optimizer_state": True},
        4,
        "its 4 updates are all of --max-update 4",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_has_ended_stays_as_it_is(end, corpus, backbones, tmp_path, caplog):
    settings, updates, reason = ENDS[end]
    assert len(run_train(corpus, backbones, tmp_path, **settings).losses) == updates
    before = stamps(tmp_path)
    with caplog.at_level(logging.INFO):
        assert run_train(corpus, backbones, tmp_path, **settings).losses == []
    assert stamps(tmp_path) == before
    assert (
        f"{tmp_path / 'checkpoint_last.pt'}: nothing is left to train, " in caplog.text
        and reason in caplog.text
    )


def test_the_least_learning_rate_ends_it_for_good(corpus, backbones, tmp_path, caplog):
    """fairseq sees this itself: before an epoch, and so when the run is started again."""
    settings = {
        "max_update": 0,
        "max_epoch": 9,
        "force_anneal": 1,
        "lr_shrink": 0.1,
        "stop_min_lr": 1e-5,
    }
    updates = len(run_train(corpus, backbones, tmp_path, **settings).losses)
    assert 0 < updates < 9 * 4
    before = stamps(tmp_path)
    assert (
        run_train(corpus, backbones, tmp_path, **settings).losses == []
        and stamps(tmp_path) == before
    )


def test_patience_is_remembered_over_an_interruption(corpus, backbones, tmp_path):
    settings = {**ENDS["the loss on dev"][0], "patience": 3}
    straight = run_train(corpus, backbones, tmp_path / "straight", **settings)
    run_train(corpus, backbones, tmp_path / "run", **{**settings, "max_update": 2})
    rest = run_train(corpus, backbones, tmp_path / "run", **settings)
    assert len(straight.losses) == 4 and rest.losses == straight.losses[2:]
    more = run_train(corpus, backbones, tmp_path / "run", **{**settings, "patience": 5})
    assert len(more.losses) == 2


@pytest.mark.parametrize("kept", [3, {"__code__": 1, "best": "low", "num_runs": None}], ids=str)
def test_what_a_file_says_of_patience_is_numbers(kept, corpus, backbones, tmp_path):
    """It becomes attributes of a function, and nothing else of it may."""
    settings = {**ENDS["the loss on dev"][0], "patience": 3}
    run_train(corpus, backbones, tmp_path, **{**settings, "max_update": 2})
    state = read_checkpoint(tmp_path / "checkpoint_last.pt")
    state["extra_state"][EARLY_STOP_KEY] = kept
    torch.save(state, tmp_path / "checkpoint_last.pt")
    assert len(run_train(corpus, backbones, tmp_path, **settings).losses) == 4


@pytest.mark.parametrize("reset", ["reset_optimizer", "reset_meters", "reset_dataloader"])
def test_what_is_to_begin_anew_is_not_over(reset, corpus, backbones, tmp_path):
    """A fresh optimiser counts from 0; the others keep the number of updates."""
    run_train(corpus, backbones, tmp_path, max_update=2)
    again = run_train(corpus, backbones, tmp_path, max_update=2, **{reset: True})
    assert len(again.losses) == (2 if reset == "reset_optimizer" else 0)


def test_a_finished_run_does_not_read_its_data(corpus, backbones, tmp_path, monkeypatch):
    run_train(corpus, backbones, tmp_path)
    monkeypatch.setattr(Trainer, "get_train_iterator", None)
    monkeypatch.setattr(Trainer, "get_valid_iterator", None)
    assert run_train(corpus, backbones, tmp_path).losses == []


@pytest.mark.slow
def test_several_processes_leave_a_finished_run_alone(corpus, backbones, tmp_path):
    kinds = {
        "sharded": {"use_sharded_state": True},
        "whole": {},
        "copies": {"ddp_backend": "legacy_ddp"},
    }
    shared = {"batch_size": 3, "max_update": 2, "no_epoch_checkpoints": True}
    runs = {name: {**shared, **kind} for name, kind in kinds.items()}
    first = run_ranks(2, tmp_path, corpus, backbones, runs)
    before = {name: stamps_below(tmp_path / name) for name in runs}
    assert {len(steps) for steps in first.values()} == {2}
    again = run_ranks(2, tmp_path, corpus, backbones, runs)
    assert again == {name: [] for name in runs}
    assert {name: stamps_below(tmp_path / name) for name in runs} == before


def stamps_below(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_FILE
    }


def test_what_a_killed_run_left_half_written_goes(corpus, backbones, tmp_path):
    (tmp_path / "checkpoint_last.pt.tmp").write_bytes(b"half")
    (tmp_path / "checkpoint_shards_4.0.tmp").mkdir()
    (tmp_path / "checkpoint_shards_4.0.tmp" / "__0_0.distcp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"somebody's own")
    run_train(corpus, backbones, tmp_path, max_update=1)
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["notes.tmp"]


def test_a_folder_that_cannot_be_written_is_named(corpus, backbones, tmp_path):
    def train_as_nobody(folder):
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        run_train(corpus, backbones, folder, user_dir=None)  # which nobody may read

    file = tmp_path / "file"
    file.touch()
    cases = [(run_train, (corpus, backbones, file), "File exists")]
    if os.geteuid() == 0:  # root may write anywhere
        cases.append((train_as_nobody, (tmp_path / "none",), "Permission denied"))
    for function, arguments, reason in cases:
        status, said = outcome(function, *arguments, log=tmp_path / "log")
        wanted = f"error: --save-dir {arguments[-1]}: cannot be written ({reason}); "
        wanted += "name a folder that can be"
        assert status == 1 and said.splitlines()[-1] == wanted, said
        assert "Traceback" not in said


def test_the_time_of_a_run_does_not_depend_on_the_time_of_day(
    corpus, backbones, tmp_path, monkeypatch
):
    now = time.time()
    clock = iter(range(10**9))
    monkeypatch.setattr(
        time, "time", lambda: now + 86400 * next(clock)
    )  # a day later whenever it is asked
    run = run_train(corpus, backbones, tmp_path, stop_time_hours=2, max_update=3)
    assert len(run.losses) == 3
    assert 0 < run.checkpoint()["extra_state"]["previous_training_time"] < 3600


def test_the_seconds_of_a_run_that_goes_on_are_logged(corpus, backbones, tmp_path):
    """Within an epoch, whose meters are those of the checkpoint."""
    run_train(corpus, backbones, tmp_path, max_update=3)
    run_train(corpus, backbones, tmp_path, max_update=7)
    assert 0 < metrics.get_meter("default", "wall").elapsed_time < 60


def test_a_run_without_patience_keeps_no_state_of_it(corpus, backbones, tmp_path):
    run_train(corpus, backbones, tmp_path, max_update=1)
    state = read_checkpoint(tmp_path / "checkpoint_last.pt")
    assert not [key for key in state["extra_state"] if key.startswith("lst_")]
