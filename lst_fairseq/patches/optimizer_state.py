"""What fairseq's checkpoints keep of an optimiser, and take back."""

import functools
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, fp16_optimizer

from lst_fairseq.checkpoints.optimizer_state import MASTER_KEY, check_moments
from lst_fairseq.errors import CheckpointError


def keep_master_weights() -> None:
    """Save the fp32 master weights of --fp16 and --bf16 training with the optimiser, and restore them.

    fp16_optimizer.py:80 leaves them out, so that a resumed run goes on from rounded weights.
    """
    mixin = fp16_optimizer._FP16OptimizerMixin
    state_dict, load_state_dict = mixin.state_dict, mixin.load_state_dict

    def tensors(optimizer: Any) -> list[torch.Tensor]:
        masters = optimizer.fp32_params
        return list(masters.values()) if isinstance(masters, dict) else list(masters)

    @functools.wraps(state_dict)
    def state_dict_with_masters(self) -> dict[str, Any]:
        return {**state_dict(self), MASTER_KEY: [master.detach().clone() for master in tensors(self)]}

    @functools.wraps(load_state_dict)
    def load_state_dict_with_masters(self, state: dict[str, Any], optimizer_overrides: dict | None = None) -> None:
        saved = state.get(MASTER_KEY)
        load_state_dict(self, {k: v for k, v in state.items() if k != MASTER_KEY}, optimizer_overrides)
        if saved is None:
            return
        own = tensors(self)
        if [master.shape for master in own] != [master.shape for master in saved]:
            raise CheckpointError(
                "the fp32 master weights of the checkpoint have other shapes than this run's: a different "
                "--train-modules or --fp16-no-flatten-grads; start with --finetune-from-model or --reset-optimizer"
            )
        with torch.no_grad():
            for master, value in zip(own, saved, strict=True):
                master.copy_(value)

    mixin.state_dict, mixin.load_state_dict = state_dict_with_masters, load_state_dict_with_masters


def check_optimizer_state() -> None:
    """Look at an optimiser's state when it is read; what it lacks would otherwise end the first update."""
    load_state_dict = FairseqOptimizer.load_state_dict

    @functools.wraps(load_state_dict)
    def load_checked_state_dict(self: FairseqOptimizer, *args: Any, **kwargs: Any) -> None:
        settings = {name: value for name, value in self.param_groups[0].items() if name != "params"}
        load_state_dict(self, *args, **kwargs)
        check_moments(self.optimizer, settings)

    FairseqOptimizer.load_state_dict = load_checked_state_dict
