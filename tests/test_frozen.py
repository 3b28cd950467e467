"""Training changes what --train-modules names, and not one bit of anything else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from tests.helpers import batch_of, build

ADAPTER = ("encoder.adapter.", "encoder.markers.")
LLM = ("decoder.llm.",)


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those that checkpoints leave out too."""
    return {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("modules,trained", [("adapter", ADAPTER), ("adapter,llm", ADAPTER + LLM)])
def test_two_updates_change_the_trained_modules_only(
    modules: str, trained: tuple[str, ...], corpus: Path, backbones: dict[str, str]
) -> None:
    """With the real trainer, and with a weight decay that would show in any parameter the optimiser holds."""
    cfg, task, model = build(corpus, backbones, train_modules=modules, weight_decay=0.1, clip_norm=1.0)
    task.load_dataset("train")
    before = tensors_of(model)
    expected = {name for name, _ in model.named_parameters() if name.startswith(trained)}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    with metrics.aggregate():
        for indices in ([0, 1, 2], [3, 4, 5]):
            trainer.train_step([batch_of(task, "train", indices)])
    assert trainer.get_num_updates() == 2
    after = tensors_of(model)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == expected
    assert any(name.startswith("encoder.frontend.") for name in before.keys() - changed)
