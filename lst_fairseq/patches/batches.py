"""Batches and their place in an epoch, of runs on several processes."""

import functools
import logging
from typing import Any

from fairseq.data import iterators
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)


def count_real_batches() -> None:
    """Let a process that has fewer batches in an update than others count those that it has.

    A process without a batch computes on an old one and multiplies the loss by 0, but trainer.py:897 then asks of the
    last batch alone whether the process's targets count, so that an update of a real and a missing batch was divided by
    the wrong number. Missing ones come first now, and the task counts nothing of them.
    """
    train_step = Trainer.train_step

    @functools.wraps(train_step)
    def ordered_train_step(self: Trainer, samples: list[Any], *args: Any, **kwargs: Any) -> Any:
        return train_step(self, sorted(samples, key=bool), *args, **kwargs)

    Trainer.train_step = ordered_train_step


def resume_on_other_processes() -> None:
    """Find the place in an epoch again when a run goes on with more or fewer processes.

    iterators.py:459 counts the batches of one process, and takes the number for that of the new one's.
    """
    iterator = iterators.EpochBatchIterator
    state_dict, load_state_dict = iterator.state_dict, iterator.load_state_dict

    @functools.wraps(state_dict)
    def state_dict_with_processes(self) -> dict[str, Any]:
        return {**state_dict(self), "num_shards": self.num_shards}

    @functools.wraps(load_state_dict)
    def load_state_dict_of_others(self, state: dict[str, Any]) -> None:
        passed = state.get("iterations_in_epoch", 0) * state.get("num_shards", self.num_shards)
        if passed % self.num_shards:
            logger.warning(f"the number of processes has changed: {passed % self.num_shards} batches are taken again")
        load_state_dict(self, {**state, "iterations_in_epoch": passed // self.num_shards})

    iterator.state_dict, iterator.load_state_dict = state_dict_with_processes, load_state_dict_of_others
