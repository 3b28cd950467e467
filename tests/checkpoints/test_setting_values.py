"""Settings in a checkpoint that make no sense are refused by name, on one line."""

import pytest
import torch

from lst_fairseq.checkpoints.settings import check_task_state
from lst_fairseq.checkpoints.values import check_section
from lst_fairseq.errors import CheckpointError
from lst_fairseq.tasks.config import LstTaskConfig
from lst_fairseq.utils.messages import shown


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), 1e308, True, "30"])
def test_a_longest_source_of_nothing(value):
    match = r"^x\.pt: refused, its setting 'task_state.lst.max_source_seconds' is .*from 0.01 to"
    with pytest.raises(CheckpointError, match=match):
        check_task_state("x.pt", {"lst": {"max_source_seconds": value}})
    with pytest.raises(CheckpointError, match=r"'task.max_source_seconds'"):
        check_section("x.pt", "task", {"max_source_seconds": value}, LstTaskConfig)


def test_no_tokens_at_all():
    with pytest.raises(CheckpointError, match=r"'task.max_target_positions' is 0"):
        check_section("x.pt", "task", {"max_target_positions": 0}, LstTaskConfig)


def test_values_in_messages_stand_on_one_line():
    for value in (torch.ones(9, 9), [torch.ones(3, 3)], 10**5000, "a\nb", {"a": 1}):
        text = shown(value)
        assert text and "\n" not in text and len(text) <= 80
