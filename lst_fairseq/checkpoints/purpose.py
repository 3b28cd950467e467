"""What a checkpoint is read for, which decides what may stand in its settings.

``checkpoint_utils.load_checkpoint_to_cpu`` (line 306) reads a file and at once resolves and converts the settings in
it; ``load_model_ensemble_and_task`` (line 419) builds what they name. ``patches/checkpoint_reading.py`` does the first
anew, with a look at the settings before anything is made of them, and lets the second say what the file is read for.

The task's class is fairseq's to tell, by name: the plugin has to be registered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fairseq.tasks import TASK_REGISTRY

#: The plugin's task, and that of fairseq's models which are built from files, too.
TASK = "lst_st"
S2T_TASK = "speech_to_text"


@dataclass(frozen=True)
class Purpose:
    """What files are read for: to build their model for a task (None: for their own), with or without a criterion."""

    task: str | None
    criterion: bool


#: Of the files that are being read; None: as data.
current: ContextVar[Purpose | None] = ContextVar("purpose", default=None)


@contextmanager
def reading_for(purpose: Purpose | None) -> Iterator[None]:
    """Files read within are held against their purpose; without one they are only read, as data."""
    token = current.set(purpose)
    try:
        yield
    finally:
        current.reset(token)


def purpose_of(task: Any) -> Purpose:
    """What fairseq builds from the files of an ensemble: of the given task, or, without one, whatever they name."""
    if task is None:
        return Purpose(None, criterion=True)  # fairseq-validate goes on with the criterion
    return Purpose(TASK if is_own(task) else S2T_TASK, criterion=False)


def is_own(task: Any) -> bool:
    """Whether it is the plugin's task."""
    return isinstance(task, TASK_REGISTRY[TASK])
