"""--ddp-backend fully_sharded against plain training on one process: the same losses, norms, parameters, files.

All runs on a number of processes share one group of processes; the tests compare what the runs left.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import SENTENCES
from tests.ranks import run_ranks
from tests.running import read_checkpoint, run_generate

UPDATES = 20
#: An update is four batches of one segment, on however many processes.
BATCHES = 4
COMMON = {"batch_size": 1, "clip_norm": 1.0, "disable_validation": True, "no_epoch_checkpoints": True}
STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"train_modules": "adapter"},
    "stage2": {"train_modules": "adapter,llm"},
    "lora": {"train_modules": "adapter,lora", "lora_dropout": 0.0},
}
SHORT = {**COMMON, "max_update": 3, "no_save": True}


def stages(world_size: int, **settings: Any) -> dict[str, dict[str, Any]]:
    common = {**COMMON, "max_update": UPDATES, "update_freq": [BATCHES // world_size], **settings}
    return {name: {**common, **stage} for name, stage in STAGES.items()}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory, backbones: dict[str, str]) -> dict[str, str]:
    from tests.conftest import save_llama

    path = tmp_path_factory.mktemp("untied") / "llama"
    save_llama(path, tied=False)
    return {**backbones, "llama": str(path)}


@pytest.fixture(scope="module")
def plain(corpus, untied, tmp_path_factory) -> tuple[Path, dict[str, list[list[float]]]]:
    """One process without the engine."""
    folder = tmp_path_factory.mktemp("plain")
    runs = stages(1, ddp_backend="legacy_ddp")
    return folder, run_ranks(1, folder, corpus, untied, runs)


@pytest.fixture(scope="module", params=[1, 2, 4])
def sharded(request, corpus, untied, tmp_path_factory) -> tuple[Path, dict[str, list[list[float]]]]:
    folder = tmp_path_factory.mktemp(f"sharded{request.param}")
    runs = stages(request.param)
    if request.param == 4:
        runs["stage2"]["save_interval_updates"] = 10
    return folder, run_ranks(request.param, folder, corpus, untied, runs)


def assert_equal(got: Any, wanted: Any, name: str = "") -> None:
    """The same structure, and tensors within the tolerance."""
    assert type(got) is type(wanted), name
    if isinstance(wanted, torch.Tensor):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5), f"{name}: {(got - wanted).abs().max()}"
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted), name
        for key in wanted:
            assert_equal(got[key], wanted[key], f"{name}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted), name
        for i, pair in enumerate(zip(got, wanted)):
            assert_equal(*pair, f"{name}.{i}")
    else:
        assert got == wanted, name


@pytest.mark.parametrize("stage", STAGES)
def test_sharded_training_is_plain_training(stage, plain, sharded):
    """Losses and gradient norms of 20 updates, and what the checkpoint holds: parameters, Adam's moments, counters."""
    steps, expected = sharded[1][stage], plain[1][stage]
    assert len(steps) == UPDATES and expected[-1][0] < expected[0][0] - 0.1  # it learns
    for step, wanted in zip(steps, expected):
        assert step == pytest.approx(wanted, rel=1e-5)
    got, wanted = (read_checkpoint(folder / stage / "checkpoint_last.pt") for folder in (sharded[0], plain[0]))
    assert list(got) == list(wanted)
    for part in ("model", "last_optimizer_state", "optimizer_history", "task_state", "args", "criterion"):
        assert_equal(got[part], wanted[part], part)
