"""Repairs of fairseq that cannot be made from outside; applied once, when the plugin is imported.

Line numbers are those of fairseq-fixed 0.12.3.1. Every other trap of fairseq is avoided by the plugin's own classes.
"""

import argparse
import collections
import contextlib
import functools
import logging
import operator
import os
import pickle
import shutil
import struct
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import omegaconf
import torch
from fairseq import checkpoint_utils, file_io, models, trainer
from fairseq.data import iterators
from fairseq.data.dictionary import Dictionary
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import fp16_optimizer
from fairseq.trainer import Trainer

from lst_fairseq.checkpoints import loading, moments
from lst_fairseq.checkpoints.failures import explained_failure
from lst_fairseq.errors import CheckpointError
from lst_fairseq.patches import run
from lst_fairseq.utils.checkpoint_files import incomplete, refused
from lst_fairseq.utils.checksums import Damaged, check_records, check_state
from lst_fairseq.utils.files import replacing

logger = logging.getLogger(__name__)

MASTER_KEY = "lst_fp32_params"

#: What reading a file raises that is not as it should be, besides ``pickle.UnpicklingError``.
UNREADABLE = (
    *(EOFError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError, AssertionError, OSError),
    *(ArithmeticError, MemoryError, struct.error, omegaconf.errors.OmegaConfBaseException),
)


def allow_checkpoint_types() -> None:
    """Let torch >= 2.6 read fairseq's checkpoints with weights only (checkpoint_utils.py:352 calls torch.load plainly).

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


@contextlib.contextmanager
def readable_checkpoint(path: str) -> Iterator[None]:
    """Turn what reading a file raises into a CheckpointError that names the file and the remedy."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise refused(path, error) from None
    except CheckpointError:
        raise
    except Damaged as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); copy it again from where it is whole, or use an earlier one from the same "
            "folder"
        ) from None
    except UNREADABLE as error:
        if getattr(error, "filename", None):  # cannot be opened, and says which
            raise
        raise incomplete(path, error) from None


def name_unreadable_checkpoints() -> None:
    """Name the file and the remedy when a checkpoint cannot be read (checkpoint_utils.py:318 names neither)."""
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


def read_directories(
    read: Callable[[str, Any], dict[str, Any]], assemble: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> None:
    """Let fairseq read exported directories and sharded checkpoints where it takes checkpoints.

    Args:
        read: a directory's path and fairseq's overrides of settings to the state of a checkpoint.
        assemble: a file's path and what it holds to the whole state.
    """
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, arg_overrides: Any = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if os.path.isdir(path):
            return read(path, arg_overrides)
        return assemble(path, load(path, arg_overrides, *args, **kwargs))

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def import_no_more_models() -> None:
    """Keep ``--user-dir`` from importing each file of ``lst_fairseq/models`` (utils.py:503).

    The plugin has registered its model by then, and some of them import all of transformers.
    """
    import_models = models.import_models

    @functools.wraps(import_models)
    def import_models_of_others(models_dir: str, namespace: str) -> None:
        if namespace != "lst_fairseq.models":
            import_models(models_dir, namespace)

    models.import_models = import_models_of_others


def refuse_directory(filename: str) -> None:
    """Raise a CheckpointError for a directory or a link to nothing (trainer.py:482 takes them for a missing file)."""
    if os.path.isdir(filename):
        raise CheckpointError(
            f"{filename}: a directory, and training starts from a checkpoint file; of an exported model give "
            f"--llm {os.path.join(filename, 'llm')} instead"
        )
    if os.path.islink(filename) and not os.path.exists(filename):
        raise CheckpointError(
            f"{filename}: a link to nothing ({os.readlink(filename)}); bring that file back, or remove the link to "
            "start anew"
        )


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


def explain_failed_saves() -> None:
    """Say what happened when a checkpoint cannot be written, and leave no half-written file behind.

    fairseq (checkpoint_utils.py:578) writes beside and renames, so the last good checkpoint survives; but it reports
    an enforce failure of PyTorch's zip writer and leaves the partial file, which keeps the disk full.
    """
    save = checkpoint_utils.torch_persistent_save

    @functools.wraps(save)
    def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
        try:
            save(obj, filename, async_write=async_write)
        except (OSError, RuntimeError) as error:
            raise _failed_write(filename, error) from error

    checkpoint_utils.torch_persistent_save = torch_persistent_save


def _failed_write(filename: str, error: Exception) -> CheckpointError:
    """Remove what was written of FILENAME.tmp, and say what to do."""
    partial = filename + ".tmp"
    written = os.path.getsize(partial) if os.path.exists(partial) else 0
    if os.path.lexists(partial):
        os.remove(partial)
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(filename))).free
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(
        f"{filename}: writing failed after {written:,} bytes, {free:,} bytes are now free there ({reason}); "
        "the checkpoints written before are untouched: free some space, or set another --save-dir, "
        "and run the same command again to go on"
    )


def save_alone(state: dict[str, Any], path: Path) -> None:
    """Save a checkpoint to a folder that others may write to: until it is complete, under a name of this process's own.

    Raises:
        CheckpointError: it cannot be written; names ``path``.
    """
    with replacing(path) as beside:
        try:
            checkpoint_utils.torch_persistent_save(state, str(beside))
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(beside), str(path))) from error


def copy_checkpoints_atomically() -> None:
    """Copy beside and rename, so that a kill while checkpoint_last.pt is replaced cannot leave half of it.

    checkpoint_utils.py:124 copies the first file written over the others through PathManager.copy (file_io.py:76).
    """
    copy = file_io.PathManager.copy

    def atomic_copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not file_io.PathManager.supports_rename(dst_path):
            return copy(src_path, dst_path, overwrite=overwrite)
        try:
            copied = copy(src_path, dst_path + ".tmp", overwrite=True)
        except OSError as error:
            raise _failed_write(dst_path, error) from error
        file_io.PathManager.rename(dst_path + ".tmp", dst_path)
        return copied

    file_io.PathManager.copy = staticmethod(atomic_copy)


def keep_master_weights() -> None:
    """Save the fp32 master weights of --fp16 and --bf16 training with the optimiser, and restore them.

    fp16_optimizer.py:70 leaves them out, so that a resumed run goes on from rounded weights.
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


def share_no_missing_parameters() -> None:
    """Let parameters that are None, such as biases that a Linear does without, not pass for one that is shared.

    trainer.py:1591 takes all of them for the same one, and logs a line for each of a large LLM's layers.
    """
    catalog = trainer._catalog_shared_params

    @functools.wraps(catalog)
    def catalog_shared_params(module: torch.nn.Module, memo: Any = None, prefix: str = "") -> list[list[str]] | None:
        found = catalog(module, memo, prefix)
        return found and [paths for paths in found if operator.attrgetter(paths[0])(module) is not None]

    trainer._catalog_shared_params = catalog_shared_params


@functools.cache
def apply() -> None:
    """Apply every repair, once in a process."""
    allow_checkpoint_types()
    loading.install()
    name_unreadable_checkpoints()
    name_misfitting_checkpoints()
    explain_failed_saves()
    copy_checkpoints_atomically()
    keep_master_weights()
    moments.install()
    count_real_batches()
    resume_on_other_processes()
    share_no_missing_parameters()
    run.apply()
