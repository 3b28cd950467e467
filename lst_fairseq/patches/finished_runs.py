"""Runs that have ended: a second start of one does nothing.

Line numbers are those of fairseq-fixed 0.12.3.1. ``repairs.py`` lists them with the others.
"""

import functools
import logging
import math
import sys
from types import SimpleNamespace
from typing import Any

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)

#: In a checkpoint's extra state: what fairseq_cli/train.py:242 keeps for --patience.
EARLY_STOP_KEY = "lst_early_stop"
#: Names under which fairseq_cli/train.py is in memory: run as a program, or imported.
_TRAIN_MODULES = ("__main__", "fairseq_cli.train")


class _NothingToDo(Exception):
    """Raised and caught here: the checkpoint that was read is the end of the run."""


class _NoEpochs:
    """Stands for the training data of a run that is over, which are not even read."""

    #: `while epoch_itr.next_epoch_idx <= max_epoch` (train.py:195) is false for every --max-epoch.
    next_epoch_idx = math.nan

    def __init__(self, epoch: int):
        self.epoch = epoch


def leave_finished_runs_alone() -> None:
    """Do nothing where nothing is left to do: a run that had ended made one more update.

    fairseq looks at --max-update, --stop-time-hours and --patience only after an update
    (train.py:389), saves what it finds after it, and has forgotten by then how long --patience has
    waited (train.py:242).
    """
    load_checkpoint, save_checkpoint = checkpoint_utils.load_checkpoint, Trainer.save_checkpoint

    @functools.wraps(load_checkpoint)
    def load_unless_finished(cfg: Any, trainer: Trainer, **passed_on: Any) -> tuple[Any, Any]:
        load, found = trainer.load_checkpoint, []

        def load_and_look(
            filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any
        ) -> Any:
            state = load(filename, reset_optimizer, *args, **kwargs)
            # Where anything starts anew, the checkpoint is not the end of this run.
            if state is not None and not reset_optimizer:
                if not (cfg.reset_meters or kwargs.get("reset_meters")):
                    _restore_early_stop(state)
                if reason := _why_finished(trainer, state, cfg):
                    found.append(state)
                    raise _NothingToDo(f"{filename}: nothing is left to train, {reason}")
            return state

        # Only here is its result seen before the data are read.
        trainer.load_checkpoint = load_and_look
        try:
            return load_checkpoint(cfg, trainer, **passed_on)
        except _NothingToDo as finished:
            logger.info(finished)
            trainer.cfg.dataset.disable_validation = True  # train.py:181 would read all of it once
            return found[0], _NoEpochs(found[0]["train_iterator"]["epoch"])
        finally:
            del trainer.load_checkpoint

    @functools.wraps(save_checkpoint)
    def save_with_early_stop(self: Trainer, filename: str, extra_state: dict[str, Any]) -> Any:
        waited = vars(_early_stop())
        if "best" in waited:
            kept = {name: waited[name] for name in ("best", "num_runs")}
            extra_state = {**extra_state, EARLY_STOP_KEY: kept}
        return save_checkpoint(self, filename, extra_state)

    checkpoint_utils.load_checkpoint = load_unless_finished
    Trainer.save_checkpoint = save_with_early_stop


def _early_stop() -> Any:
    """fairseq's function behind --patience, whose own attributes remember what it has seen."""
    modules = (sys.modules.get(name) for name in _TRAIN_MODULES)
    functions = (getattr(module, "should_stop_early", None) for module in modules)
    return next((function for function in functions if function is not None), SimpleNamespace())


def _kept_early_stop(state: dict[str, Any]) -> dict[str, float]:
    """What a checkpoint says of --patience, as far as it is numbers of the right names."""
    kept = state.get(EARLY_STOP_KEY)
    kept = kept if isinstance(kept, dict) else {}
    names = ("best", "num_runs")
    return {name: kept[name] for name in names if isinstance(kept.get(name), int | float)}


def _restore_early_stop(state: dict[str, Any]) -> None:
    for name, value in _kept_early_stop(state).items():
        setattr(_early_stop(), name, value)


def _why_finished(trainer: Trainer, state: dict[str, Any], checkpoint: Any) -> str:
    """Why a run is over at the checkpoint that it has just read; empty where it is not."""
    limits = trainer.cfg.optimization
    history = trainer._optim_history
    updates = history[-1].get("num_updates", 0) if history else trainer.get_num_updates()
    epoch = state["train_iterator"]["epoch"]  # the next one, where the last has ended
    hours = trainer._previous_training_time / 3600
    waited = _kept_early_stop(state).get("num_runs", 0)
    if limits.max_update and updates >= limits.max_update:
        return f"its {updates} updates are all of --max-update {limits.max_update}"
    if limits.max_epoch and epoch > limits.max_epoch and not checkpoint.reset_dataloader:
        return f"its {epoch - 1} epochs are all of --max-epoch {limits.max_epoch}"
    if 0 < limits.stop_time_hours < hours and not checkpoint.reset_meters:
        return f"its {hours:.3f} hours are all of --stop-time-hours {limits.stop_time_hours:g}"
    if 0 < checkpoint.patience <= waited and not checkpoint.reset_meters:
        patience = checkpoint.patience
        return f"its loss on the dev set is no better for {waited} times, --patience {patience}"
    return ""
