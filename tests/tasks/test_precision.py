"""Updates of 2e-5 survive --bf16, whose master weights are fp32, and not weights that are bf16 alone."""

from pathlib import Path

import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from tests.support.helpers import batch_of, build
from tests.support.running import Run, recorded

UPDATES = 60


def loss_curve(corpus: Path, backbones: dict[str, str], *flags: str) -> torch.Tensor:
    """Loss of each of many updates on one batch [UPDATES], at LST's learning rate of the second stage."""
    settings = {"train_modules": "adapter,llm", "lr": 2e-5, "adam_betas": "(0.9, 0.98)"}
    cfg, task, model = build(corpus, backbones, *flags, **settings)
    task.load_dataset("train")
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    sample, run = batch_of(task, "train", [0, 4, 5, 7, 11]), Run(corpus)
    with metrics.aggregate(), recorded(run):
        for _ in range(UPDATES):
            trainer.train_step([sample])
    return torch.tensor(run.losses)


def test_the_loss_curve_of_bf16_is_that_of_fp32(corpus: Path, backbones: dict[str, str]) -> None:
    exact = loss_curve(corpus, backbones)
    learned = exact[0] - exact[-1]
    masters = loss_curve(corpus, backbones, "--bf16")
    rounded = loss_curve(corpus, backbones, "--bf16", "--memory-efficient-bf16")
    # A weight in bf16 moves when its master has come half way to the next value: late, and then by as much.
    assert (masters - exact).abs().max() < 0.2 * learned
    assert abs(masters[-1] - exact[-1]) < 0.05 * learned
    assert rounded[0] - rounded[-1] < 0.2 * learned
