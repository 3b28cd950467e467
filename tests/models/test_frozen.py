"""Training changes what --train-modules names, and not one bit of anything else."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from lst_fairseq.models.config import TRAINABLE
from lst_fairseq.models.trained_parts import module_of
from tests.support.helpers import batch_of, build

COMBINATIONS = [",".join(c) for n in range(1, len(TRAINABLE) + 1) for c in combinations(TRAINABLE, n)]


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those that checkpoints leave out too."""
    return {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("modules", COMBINATIONS)
def test_two_updates_change_the_trained_modules_only(modules: str, corpus: Path, backbones: dict[str, str]) -> None:
    """With the real trainer, and with a weight decay that would show in any parameter the optimiser holds."""
    cfg, task, model = build(corpus, backbones, train_modules=modules, weight_decay=0.1, clip_norm=1.0)
    changed, before = changed_by_two_updates(cfg, task, model)
    expected = {name for name, _ in model.named_parameters() if module_of(name) in modules.split(",")}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    assert changed == expected
    assert {module_of(name) for name in changed} == set(modules.split(","))
    assert ("lora" in modules) == any("lora_" in name for name in before)


def test_top_layers_of_the_frontend(corpus: Path, backbones: dict[str, str]) -> None:
    settings = {"train_modules": "frontend,adapter", "weight_decay": 0.1}
    cfg, task, model = build(corpus, backbones, frontend_top_layers=1, **settings)
    changed, before = changed_by_two_updates(cfg, task, model)
    of_the_frontend = {name for name in changed if module_of(name) == "frontend"}
    top = model.encoder.frontend.layers()[-1]
    expected = {name for name, p in model.named_parameters() if any(p is q for q in top.parameters())}
    assert of_the_frontend == expected
    assert len(expected) < sum(name.startswith("encoder.frontend.") for name in before)
    with pytest.raises(ValueError, match="--frontend-top-layers 3: the speech encoder has 2 layers"):
        build(corpus, backbones, frontend_top_layers=3, **settings)


def changed_by_two_updates(cfg: Any, task: Any, model: Any) -> tuple[set[str], dict[str, torch.Tensor]]:
    """Names of parameters and buffers that two updates change, and all of them as they were."""
    task.load_dataset("train")
    before = tensors_of(model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    with metrics.aggregate():
        for indices in ([0, 1, 2], [3, 4, 5]):
            trainer.train_step([batch_of(task, "train", indices)])
    assert trainer.get_num_updates() == 2
    after = tensors_of(model)
    return {name for name in before if not torch.equal(after[name], before[name])}, before
