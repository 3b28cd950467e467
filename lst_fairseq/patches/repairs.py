"""All repairs of fairseq, each with the lines that make it necessary."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from lst_fairseq.patches import (
    batches,
    checkpoint_reading,
    checkpoint_writing,
    clock,
    finished_runs,
    models,
    optimizer_state,
    save_dir,
)


@dataclass(frozen=True)
class Repair:
    """One repair.

    Attributes:
        apply: puts it in its place; the first line of its docstring says what for.
        lines: the lines of fairseq-fixed 0.12.3.1 that make it necessary, from its folder ``fairseq``.
    """

    apply: Callable[[], None]
    lines: str

    @property
    def why(self) -> str:
        return (self.apply.__doc__ or "").splitlines()[0]


#: In the order in which they are applied: the readers of checkpoints stand one upon the other.
REPAIRS = (
    Repair(checkpoint_reading.allow_checkpoint_types, "checkpoint_utils.py:340"),
    Repair(checkpoint_reading.look_at_settings_first, "checkpoint_utils.py:306, checkpoint_utils.py:419"),
    Repair(checkpoint_reading.name_unreadable_checkpoints, "checkpoint_utils.py:306"),
    Repair(checkpoint_reading.name_misfitting_checkpoints, "trainer.py:596, checkpoint_utils.py:511"),
    Repair(checkpoint_reading.read_directories_and_shards, "checkpoint_utils.py:340"),
    Repair(checkpoint_writing.explain_failed_saves, "checkpoint_utils.py:578"),
    Repair(checkpoint_writing.copy_checkpoints_atomically, "checkpoint_utils.py:139, file_io.py:76"),
    Repair(optimizer_state.keep_master_weights, "optim/fp16_optimizer.py:80"),
    Repair(optimizer_state.check_optimizer_state, "optim/fairseq_optimizer.py:87"),
    Repair(batches.count_real_batches, "trainer.py:897"),
    Repair(batches.resume_on_other_processes, "data/iterators.py:459"),
    Repair(models.import_no_more_files, "utils.py:497, utils.py:503"),
    Repair(models.share_no_missing_parameters, "trainer.py:1591"),
    Repair(finished_runs.leave_finished_runs_alone, "fairseq_cli/train.py:389, fairseq_cli/train.py:242"),
    Repair(save_dir.keep_others_out, "checkpoint_utils.py:872"),
    Repair(clock.measure_by_a_steady_clock, "trainer.py:171"),
    Repair(clock.start_the_wall_clock_again, "trainer.py:652"),
)


@functools.cache
def apply() -> None:
    """Apply every repair, once in a process."""
    for repair in REPAIRS:
        repair.apply()
