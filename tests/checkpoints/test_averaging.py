"""The mean of checkpoints: numbers against a plain mean, which checkpoints a folder's last ones are, and bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lst_fairseq.checkpoints.averaging import average, last_checkpoints
from lst_fairseq.errors import CheckpointError
from lst_fairseq.generation.translator import Translator
from lst_fairseq.models.trained_parts import RECORD_KEY
from tests.support.helpers import lst
from tests.support.running import edited, read_checkpoint, run_generate, run_train, second_stage


def save(path: Path, updates: int = 1, **parameters: Any) -> Path:
    history = [{"num_updates": updates, "lr_scheduler_state": {}}]
    extra = {"train_iterator": {"epoch": 1}}
    torch.save({"cfg": {}, "model": parameters, "optimizer_history": history, "extra_state": extra}, path)
    return path


def average_checkpoints(*arguments: Path | str | int) -> None:
    lst("average", *arguments)


def test_mean_of_a_run(corpus: Path, backbones: dict[str, str], tmp_path: Path) -> None:
    """Of the last three of four checkpoints, as float64's mean; it translates, and holds no optimiser."""
    settings = {"save_interval_updates": 1, "keep_interval_updates": 3, "train_modules": "adapter,llm"}
    run = run_train(corpus, backbones, tmp_path / "run", **settings)
    paths = last_checkpoints(run.folder, 3)
    out = tmp_path / "average.pt"
    average_checkpoints(run.folder, "--last", 3, "--out", out)
    averaged, states = read_checkpoint(out), [read_checkpoint(path) for path in paths]
    assert averaged["last_optimizer_state"] is None and averaged["model"].keys() == states[0]["model"].keys()
    moved = 0
    for name, mean in averaged["model"].items():
        values = [state["model"][name] for state in states]
        if name == RECORD_KEY:
            assert torch.equal(mean, values[0])
            continue
        expected = torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-7)
        moved += not torch.equal(values[0], values[-1]) and not torch.equal(mean, values[-1])
    assert moved > 10
    assert run_generate(corpus, out, tmp_path / "out")
    assert Translator(out)


def test_types_are_kept(tmp_path: Path) -> None:
    """bf16 is added up in float64: 256 + 1 of itself is 256."""
    values = (256.0, 1.0, 1.0, 1.0, 1.0)
    paths = [
        save(tmp_path / f"{i}.pt", weight=torch.tensor([value], dtype=torch.bfloat16), count=torch.tensor([7]))
        for i, value in enumerate(values)
    ]
    model = average(paths)["model"]
    assert model["weight"].dtype == torch.bfloat16 and model["weight"].item() == 52.0
    assert model["count"].dtype == torch.int64 and model["count"].item() == 7


def test_batch_normalisation_keeps_the_newest_count(tmp_path: Path) -> None:
    paths = []
    for updates in (3, 5):
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean += updates
        norm.num_batches_tracked += updates
        paths.append(save(tmp_path / f"{updates}.pt", **norm.state_dict(prefix="norm.")))
    model = average(paths)["model"]
    assert model["norm.num_batches_tracked"].item() == 5 and model["norm.running_mean"].tolist() == [4.0, 4.0]


def test_the_last_ones(tmp_path: Path) -> None:
    for epoch, updates in ((1, 500), (2, 1000), (9, 4500), (10, 5000)):
        save(tmp_path / f"checkpoint_{epoch}_{updates}.pt", updates)
    save(tmp_path / "checkpoint2.pt", 1200)
    save(tmp_path / "checkpoint_best.pt", 1000)
    last = save(tmp_path / "checkpoint_last.pt", 5100)
    names = [path.name for path in last_checkpoints(tmp_path, 5)]
    # In order of time, not of the alphabet; an epoch's end follows what lies within it.
    assert names == [
        "checkpoint_2_1000.pt", "checkpoint2.pt", "checkpoint_9_4500.pt", "checkpoint_10_5000.pt", "checkpoint_last.pt",
    ]  # fmt: skip
    save(last, 5000)  # the same as the newest
    assert [path.name for path in last_checkpoints(tmp_path, 2)] == ["checkpoint_9_4500.pt", "checkpoint_10_5000.pt"]
    with pytest.raises(
        CheckpointError, match=r"9 checkpoints are to be averaged and it has 5 \(checkpoint_1_500\.pt, "
    ):
        last_checkpoints(tmp_path, 9)
    assert len(last_checkpoints(tmp_path, 9, or_fewer=True)) == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"it has 0 \(none\)"):
        last_checkpoints(tmp_path / "empty", 9, or_fewer=True)


def test_at_most_so_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for updates in (1, 3):
        save(run / f"checkpoint_1_{updates}.pt", updates, weight=torch.tensor([float(updates)]))
    average_checkpoints(run, "--at-most", 5, "--out", tmp_path / "mean.pt")
    assert read_checkpoint(tmp_path / "mean.pt")["model"]["weight"].item() == 2.0
    for wrong, message in (
        (["--last", 0], "0 checkpoints: give 1 or more"),
        ([], "give one folder and --last N or --at-most N"),
        (["--last", 1, "--at-most", 2], "not allowed with argument --last"),
    ):
        with pytest.raises(SystemExit):
            average_checkpoints(run, *wrong, "--out", tmp_path / "none.pt")
        assert message in capsys.readouterr().err


def test_different_models(tmp_path: Path) -> None:
    first = save(tmp_path / "a.pt", weight=torch.zeros(2), bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"b\.pt: not of the same model as .*a\.pt; .*: bias, gain"):
        average([first, save(tmp_path / "b.pt", weight=torch.zeros(2), gain=torch.zeros(2))])
    with pytest.raises(CheckpointError, match=r"b\.pt: weight is \[3\], in .*a\.pt \[2\]; give checkpoints of one"):
        average([first, save(tmp_path / "b.pt", weight=torch.zeros(3), bias=torch.zeros(2))])


def test_different_backbones(corpus: Path, backbones: dict[str, str], tmp_path: Path) -> None:
    """The record, which names them, has to be the same."""
    path = second_stage(corpus, backbones).path()

    def renamed(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**model, RECORD_KEY: model[RECORD_KEY].flip(0)}

    other = edited(path, tmp_path / "other.pt", model=renamed)
    with pytest.raises(CheckpointError, match=rf"other\.pt: {RECORD_KEY} differs"):
        average([path, other])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (save(tmp_path / f"{i}.pt", weight=torch.full((2,), float(i))) for i in (1, 2))
    average_checkpoints(first, second, "--out", tmp_path / "mean.pt")
    assert read_checkpoint(tmp_path / "mean.pt")["model"]["weight"].tolist() == [1.5, 1.5]
    assert capsys.readouterr().out.endswith("the mean of 1.pt, 2.pt\n")
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}: 2 checkpoints are to be averaged and it has 0 .none"):
        average_checkpoints(tmp_path, "--last", 2, "--out", tmp_path / "mean.pt")
    for wrong in ((first, "--last", 1), (tmp_path,), (tmp_path, "--last", 0)):
        with pytest.raises(SystemExit) as caught:
            average_checkpoints(*wrong, "--out", tmp_path / "mean.pt")
        assert caught.value.code == 2
