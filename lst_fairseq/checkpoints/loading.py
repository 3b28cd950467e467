"""fairseq's reading of checkpoints, with a look at the settings before anything is made of them.

``checkpoint_utils.load_checkpoint_to_cpu`` (line 304) reads a file and at once resolves and converts the settings in
it; ``load_model_ensemble_and_task`` (line 425) builds what they name. The first is done anew here, the second says
what the file is read for.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

#: The plugin's task, and that of fairseq's models which are built from files, too.
TASK = "lst_st"
S2T_TASK = "speech_to_text"


@dataclass(frozen=True)
class Purpose:
    """What files are read for: to build their model for a task (None: for their own), with or without a criterion."""

    task: str | None
    criterion: bool


_purpose: ContextVar[Purpose | None] = ContextVar("purpose", default=None)


@contextmanager
def reading_for(purpose: Purpose | None) -> Iterator[None]:
    """Files read within are held against their purpose; without one they are only read, as data."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def load_own(path: str | Path) -> dict[str, Any]:
    """The state of a checkpoint or an export of the plugin's own task, to build its model from.

    Raises:
        CheckpointError: it is of another task, damaged, or a setting is not what it should be.
    """
    with reading_for(Purpose(TASK, criterion=True)):
        return checkpoint_utils.load_checkpoint_to_cpu(str(path))


def purpose_of(task: Any) -> Purpose:
    """What fairseq builds from the files of an ensemble: of the given task, or, without one, whatever they name."""
    if task is None:
        return Purpose(None, criterion=True)  # fairseq-validate goes on with the criterion
    return Purpose(TASK if is_own(task) else S2T_TASK, criterion=False)


def is_own(task: Any) -> bool:
    """Whether it is the plugin's task."""
    from lst_fairseq.tasks.lst_st import LstTask

    return isinstance(task, LstTask)


def inspected(path: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a file holds with its settings as data, if they serve the purpose for which it is read.

    Raises:
        CheckpointError: they do not; names the file.
    """
    from lst_fairseq.checkpoints import settings  # the model's and the task's, registered later

    purpose = _purpose.get()
    state = settings.as_data(path, state, references=purpose is None)
    if purpose is not None:
        settings.check(path, state, purpose.task, purpose.criterion)
    return state


def install() -> None:
    """Put these readers in the place of fairseq's."""
    load, load_ensemble, resume = (
        checkpoint_utils.load_checkpoint_to_cpu,
        checkpoint_utils.load_model_ensemble_and_task,
        Trainer.load_checkpoint,
    )

    @functools.wraps(load)
    def load_checkpoint_to_cpu(
        path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False
    ) -> dict[str, Any]:
        with open(path, "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"{type(state).__name__} instead of a dictionary")
        state = inspected(path, state)
        if state.get("args") is not None:
            for name, value in (arg_overrides or {}).items():
                setattr(state["args"], name, value)
        if state.get("cfg") is not None:
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
            overwrite_args_by_name(state["cfg"], arg_overrides or {})
        return checkpoint_utils._upgrade_state_dict(state)

    @functools.wraps(load_ensemble)
    def load_model_ensemble_and_task(
        filenames: list[str], arg_overrides: Any = None, task: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        with reading_for(purpose_of(task)):
            state = kwargs.get("state") if len(args) < 4 else args[3]
            if state is not None:
                inspected(filenames[0], dict(state))
            return load_ensemble(filenames, arg_overrides, task, *args, **kwargs)

    @functools.wraps(resume)
    def load_checkpoint(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        with reading_for(purpose_of(self.task) if is_own(self.task) else None):
            return resume(self, *args, **kwargs)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task
    Trainer.load_checkpoint = load_checkpoint
