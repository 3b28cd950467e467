"""Checkpoints of the plugin's own models, read to build the model from."""

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from lst_fairseq.checkpoints.purpose import TASK, Purpose, reading_for


def load_own(path: str | Path) -> dict[str, Any]:
    """The state of a checkpoint or an export of the plugin's own task, to build its model from.

    Raises:
        CheckpointError: it is of another task, damaged, or a setting is not what it should be.
    """
    with reading_for(Purpose(TASK, criterion=True)):
        return checkpoint_utils.load_checkpoint_to_cpu(str(path))
