"""Processes that disagree, or do not come, are told so before they wait for each other."""

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import FileStore, HashStore, PrefixStore

from lst_fairseq.distributed import startup_check
from lst_fairseq.distributed.startup_check import StartError, code_version, compare, meet, note, open_store
from tests.support.helpers import REPOSITORY
from tests.support.ranks import free_port, read, start_ranks
from tests.support.running import train_configuration


def both(store: Any, notes: list[dict[str, str]], sizes: tuple[int, int] = (2, 2), timeout: float = 5.0) -> list[str]:
    """What two processes that meet at a store end with: nothing, or their errors."""
    ended = ["", ""]

    def process(rank: int) -> None:
        try:
            meet(store, rank, notes[rank], sizes[rank], timeout)
        except StartError as error:
            ended[rank] = str(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return ended


@pytest.fixture
def notes(corpus, backbones, tmp_path) -> list[dict[str, str]]:
    """Of two processes with the same command, each with its rank, its own folders and its own way to show progress."""
    configurations = [
        train_configuration(
            corpus, backbones, tmp_path / str(rank),
            distributed_world_size=2, distributed_rank=rank, log_format=log, log_interval=10 + rank,
        )
        for rank, log in enumerate(("simple", "none"))
    ]  # fmt: skip
    return [note(cfg) for cfg in configurations]


def test_processes_that_agree_meet(notes, tmp_path):
    assert notes[0] == notes[1] and len(notes[0]) > 200
    assert both(HashStore(), notes) == ["", ""]
    assert both(FileStore(str(tmp_path / "store"), 2), notes) == ["", ""]


def test_what_differs_is_named_at_once(notes):
    changed = {
        "--seed": ("8", "--seed is 7 for rank 0 and 8 for rank 1"),
        "--lr": ("[0.1]", "--lr is [0.003] for rank 0 and [0.1] for rank 1"),
        "the code": ("lst_fairseq 0.0.9", f"the code is {code_version()} for rank 0 and lst_fairseq 0.0.9 for rank 1"),
    }
    for name, (value, message) in changed.items():
        for error in both(HashStore(), [notes[0], {**notes[1], name: value}], timeout=60.0):
            assert message in error and error.endswith("Start all of them with the same command and code")


def test_different_numbers_of_processes(notes):
    """One waits for two, the other for four: neither waits long."""
    size = "the number of processes (--distributed-world-size)"
    errors = both(HashStore(), [notes[0], {**notes[1], size: "4"}], sizes=(2, 4), timeout=60.0)
    assert all(f"{size} is 2 for rank 0 and 4 for rank 1" in error for error in errors)


def test_a_process_that_does_not_come(notes):
    with pytest.raises(StartError, match=r"1 of 3 processes have come within 0.5 s \(ranks 0 on .*\); missing: 1, 2"):
        meet(HashStore(), 0, notes[0], 3, 0.5)


def test_meeting_points(tmp_path):
    with pytest.raises(StartError, match=r"rank 1 cannot reach tcp://localhost:\d+ within 1 s .*rank 0 has to run on"):
        open_store(f"tcp://localhost:{free_port()}", 1, 2, 1.0)
    for method in (f"tcp://localhost:{free_port()}", f"file://{tmp_path / 'meeting'}"):
        store = PrefixStore("x", open_store(method, 0, 2, 5.0))
        store.set("a", "b")
        assert store.get("a") == b"b"


def test_the_code_is_all_of_the_package(monkeypatch, tmp_path):
    before = code_version()
    assert f"torch {torch.__version__}" in before
    copy = tmp_path / "lst_fairseq"
    for path in (REPOSITORY / "lst_fairseq").rglob("*.py"):
        target = copy / path.relative_to(REPOSITORY / "lst_fairseq")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(startup_check.lst_fairseq, "__file__", str(copy / "__init__.py"))
    assert code_version() == before
    Path(copy / "models" / "lst.py").write_text("changed", encoding="utf-8")
    assert code_version() != before


def test_notes_are_compared_with_the_first():
    compare({0: {"a": "1"}, 1: {"a": "1"}, 2: {"a": "1"}})
    with pytest.raises(StartError, match="a is 1 for rank 0 and 2 for rank 2"):
        compare({0: {"a": "1"}, 1: {"a": "1"}, 2: {"a": "2"}})


@pytest.mark.slow
def test_other_data_on_one_process(corpus, backbones, tmp_path):
    """Its manifest lacks a line: both end with an error before the first update."""
    shutil.copytree(corpus, tmp_path / "other")
    lines = (corpus / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "other" / "train.tsv").write_text("".join(lines[:-1]), encoding="utf-8")
    folder, settings = tmp_path / "ranks", {"data": [corpus, tmp_path / "other"], "batch_size": 3, "no_save": True}
    processes = start_ranks(2, folder, corpus, backbones, {"run": settings})
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for result in (read(folder / f"run.{rank}.json") for rank in range(2)):
        assert result["steps"] == []
        expected = (
            r"RuntimeError: the processes disagree on the data of \w+ \(rank 0: .* segments .*; rank 1: .*\): every"
        )
        assert re.match(expected, result["error"])
