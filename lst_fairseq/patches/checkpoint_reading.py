"""How fairseq reads checkpoints."""

import argparse
import collections
import functools
import os
import typing
from typing import Any

import numpy
import omegaconf
import torch
from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from lst_fairseq.checkpoints.failures import explained_failure, readable_checkpoint, refuse_directory
from lst_fairseq.checkpoints.purpose import is_own, purpose_of, reading_for
from lst_fairseq.checkpoints.state_types import check_state
from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.checkpoint_files import SHARDS_KEY
from lst_fairseq.utils.checksums import check_records


def allow_checkpoint_types() -> None:
    """Let torch >= 2.6 read fairseq's checkpoints with weights only (checkpoint_utils.py:340 calls torch.load plainly).

    These are plain containers: an OmegaConf configuration, the Namespace in which fairseq's older tasks (and so its
    speech_to_text baselines) keep their settings, the dictionaries and numpy numbers of published speech encoders, and
    what resuming on several processes exchanges. No file can run code through them.
    """
    scalar = numpy.float64().__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            typing.Any,
            collections.defaultdict,
            dict,
            list,
            int,
            omegaconf.DictConfig,
            omegaconf.ListConfig,
            omegaconf.base.ContainerMetadata,
            omegaconf.base.Metadata,
            omegaconf.nodes.AnyNode,
            distributed_utils._TensorPlaceholder,
            Dictionary,
            (scalar, "numpy.core.multiarray.scalar"),  # before numpy 2
            (scalar, "numpy._core.multiarray.scalar"),
            numpy.dtype,
            *{type(numpy.dtype(code)) for code in "?bhilqBHILQefd"},
        ]
    )


def look_at_settings_first() -> None:
    """Look at the settings in a file before anything is made of them, for the purpose for which it is read."""
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
        from lst_fairseq.checkpoints.settings import inspected  # it imports all models, which are registered later

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
                from lst_fairseq.checkpoints.settings import inspected

                inspected(filenames[0], dict(state))
            return load_ensemble(filenames, arg_overrides, task, *args, **kwargs)

    @functools.wraps(resume)
    def load_checkpoint(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        with reading_for(purpose_of(self.task) if is_own(self.task) else None):
            return resume(self, *args, **kwargs)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task
    Trainer.load_checkpoint = load_checkpoint


def name_unreadable_checkpoints() -> None:
    """Name the file and the remedy when a checkpoint cannot be read (checkpoint_utils.py:306 names neither)."""
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with readable_checkpoint(path):
            if os.path.exists(path):  # and not an address that fairseq's PathManager knows
                check_records(path)
            state = load(path, *args, **kwargs)
            check_state(state)
            return state

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def name_misfitting_checkpoints() -> None:
    """Name the file, and keep the list of keys, when a checkpoint can be read and does not fit the model.

    trainer.py:596 replaces the model's message with "please ensure that the architectures match";
    checkpoint_utils.py:511 does not name the file.
    """
    load_checkpoint, load_ensemble = Trainer.load_checkpoint, checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load_checkpoint)
    def trainer_load_checkpoint(self: Trainer, filename: str, *args: Any, **kwargs: Any) -> Any:
        refuse_directory(filename)
        try:
            return load_checkpoint(self, filename, *args, **kwargs)
        except Exception as error:
            general = type(error) is Exception and isinstance(error.__context__, Exception)
            cause = error.__context__ if general else error
            if (failure := explained_failure(cause, [filename])) is error:
                raise
            raise failure from None if isinstance(cause, CheckpointError) or failure is cause else cause

    @functools.wraps(load_ensemble)
    def load_model_ensemble_and_task(filenames: list[str], *args: Any, **kwargs: Any) -> Any:
        try:
            return load_ensemble(filenames, *args, **kwargs)
        except Exception as error:
            if (failure := explained_failure(error, filenames)) is error:
                raise
            raise failure from None if isinstance(error, CheckpointError) else error

    Trainer.load_checkpoint = trainer_load_checkpoint
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task


def read_directories_and_shards() -> None:
    """Let fairseq read exported directories and sharded checkpoints where it takes checkpoints."""
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, arg_overrides: Any = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if os.path.isdir(path):
            from lst_fairseq.checkpoints.export import read_export

            return read_export(path, arg_overrides)
        state = load(path, arg_overrides, *args, **kwargs)
        if SHARDS_KEY not in state:
            return state
        from lst_fairseq.checkpoints.sharded import assemble

        return assemble(path, state)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
