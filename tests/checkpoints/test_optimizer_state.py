"""An optimiser's state that an update could not go on from is refused when it is read."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from lst_fairseq.errors import CheckpointError
from lst_fairseq.patches import repairs

repairs.apply()


def optimizer() -> FairseqAdam:
    """Adam after an update of two parameters of different shapes."""
    torch.manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4, 2))]
    made = FairseqAdam(OmegaConf.structured(FairseqAdamConfig(lr=[0.1], tpu=False)), parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    made.step()
    return made


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return optimizer().state_dict()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "one moment": (lambda s: s["state"][1].pop("exp_avg"), "of parameter 1 lacks exp_avg;"),
    "all moments": (
        lambda s: [entry.pop("exp_avg_sq") for entry in s["state"].values()],
        "of parameter 0 lacks exp_avg_sq;",
    ),
    "step": (lambda s: s["state"][0].pop("step"), "of parameter 0 lacks step;"),
    "a step that is a text": (lambda s: s["state"][0].update(step="9"), "a step of the type str"),
    "one more": (lambda s: s["state"][1].update(x=1), "has x, which others lack"),
    "another shape": (
        lambda s: s["state"][1].update(exp_avg=torch.zeros(3, 2)),
        r"has the shape \[3, 2\], and the parameter \[4, 2\], as exp_avg",
    ),
    "no tensor": (lambda s: s["state"][0].update(exp_avg=3), "has no numbers as exp_avg"),
    "no betas": (lambda s: s["param_groups"][0].pop("betas"), "setting betas is missing"),
    "odd betas": (lambda s: s["param_groups"][0].update(betas=0.9), "setting betas is missing, or"),
    "odd eps": (lambda s: s["param_groups"][0].update(eps="x"), "setting eps is missing, or not"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_states(kind, state):
    change, message = CHANGES[kind]
    changed = copy.deepcopy(state)
    change(changed)
    with pytest.raises(CheckpointError, match=f"{message}.*give --reset-optimizer$"):
        optimizer().load_state_dict(changed)


def test_whole_states(state):
    loaded = optimizer()
    loaded.load_state_dict(copy.deepcopy(state))
    loaded.step()
    untouched = copy.deepcopy(state)
    del untouched["state"][1]  # a parameter that had no gradient yet
    optimizer().load_state_dict(untouched)
