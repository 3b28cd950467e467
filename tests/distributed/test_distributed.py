"""Training on two processes over gloo equals training on one with twice the batch."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_cli import train

from tests.support.helpers import train_arguments
from tests.support.ranks import CONTEXT, free_port, join_all
from tests.support.running import Run, command_line, differences, first_stage, recorded, run_train


def rank_main(arguments: list[str], folder: str, rank: int) -> None:
    """One rank: fairseq-train with these arguments; its losses or its error go into FOLDER/rankN.json."""
    torch.set_num_threads(1)
    run, error = Run(Path(folder)), ""
    Path(folder).mkdir(exist_ok=True)
    with (
        open(Path(folder) / f"rank{rank}.log", "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            with command_line(*arguments), recorded(run):
                train.cli_main()
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
    result = {"losses": run.losses, "valid_losses": run.valid_losses, "error": error}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    os._exit(0)  # a rank that failed must not wait for the other at exit


def run_two(
    data: Path, backbones: dict[str, str], folder: Path, seeds: tuple[int, int] = (7, 7), **settings: Any
) -> list[dict[str, Any]]:
    """One command a rank; returns what each wrote."""
    distributed = {
        "distributed_backend": "gloo",
        "distributed_world_size": 2,
        "distributed_init_method": f"tcp://localhost:{free_port()}",
        "ddp_backend": "legacy_ddp",
    }
    processes = []
    for rank in range(2):
        common = {"max_tokens": None, "batch_size": 3, "save_dir": folder, "seed": seeds[rank]}
        own = ("--distributed-no-spawn", "--distributed-rank", str(rank), "--device-id", str(rank))
        arguments = train_arguments(data, backbones, *own, **{**common, **distributed, **settings})
        processes.append(CONTEXT.Process(target=rank_main, args=(arguments, str(folder), rank)))
    for process in processes:
        process.start()
    join_all(processes, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two models' states are equal within the tolerance of Adam's first steps."""
    return first.keys() == second.keys() and all(torch.allclose(first[k], second[k], atol=1e-4) for k in first)


@pytest.mark.parametrize(
    ("stage", "batch_size"),
    [(1, 3), (1, 5), (2, 3)],  # of 12 utterances: 5 leaves a rank without a batch in an epoch's last update
)
def test_two_processes_are_one_with_twice_the_batch(stage, batch_size, corpus, backbones, tmp_path):
    settings: dict[str, Any] = {"batch_size": batch_size}
    if stage == 2:
        start = str(first_stage(corpus, backbones).path())
        settings.update(train_modules="adapter,llm", finetune_from_model=start)
    one = run_train(corpus, backbones, tmp_path / "one", update_freq=[2], **settings)
    two = run_two(corpus, backbones, tmp_path / "two", **settings)
    assert [rank["error"] for rank in two] == ["", ""]
    for rank in two:
        assert rank["losses"] == pytest.approx(one.losses, rel=1e-5) and len(one.losses) == 4
    by_hand = Run(tmp_path / "two").checkpoint()
    assert by_hand["extra_state"]["val_loss"] == pytest.approx(one.checkpoint()["extra_state"]["val_loss"], abs=2e-3)
    assert close(by_hand["model"], one.checkpoint()["model"])


def test_two_processes_resume_where_they_stopped(corpus, backbones, tmp_path):
    """The first process reads the checkpoint and hands it to the other."""
    straight = run_two(corpus, backbones, tmp_path / "straight", save_interval_updates=3)
    (tmp_path / "resumed").mkdir()
    shutil.copy(Run(tmp_path / "straight").path("2_3"), Run(tmp_path / "resumed").path())
    resumed = run_two(corpus, backbones, tmp_path / "resumed", save_interval_updates=3)
    assert [rank["error"] for rank in resumed] == ["", ""]
    assert resumed[0]["losses"] == straight[0]["losses"][3:] and len(resumed[0]["losses"]) == 1
    states = [Run(tmp_path / name).checkpoint() for name in ("straight", "resumed")]
    for part in ("model", "last_optimizer_state"):
        assert differences(states[0][part], states[1][part], part) == []


def test_different_parameters_are_refused(corpus, backbones, tmp_path):
    """Trap 7: legacy_ddp broadcasts no initial parameters, so that another seed would train another model."""
    two = run_two(corpus, backbones, tmp_path / "two", seeds=(7, 8))
    for rank in two:
        assert rank["losses"] == []
        assert "RuntimeError: the processes hold different parameters at the start of the epoch" in rank["error"]
        assert "give every rank the same --seed, code and checkpoint" in rank["error"]
