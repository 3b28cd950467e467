"""The mean of several checkpoints of one training run (Junczys-Dowmunt et al. 2016, arXiv 1610.01108, section 3.2)."""

import re
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from torch import Tensor

from lst_fairseq.errors import CheckpointError

LAST = "checkpoint_last.pt"
KEYS_LISTED = 10
#: Batch normalisation's number of updates, of which the newest checkpoint's is kept.
COUNTER = ".num_batches_tracked"
#: What to do about checkpoints of different models.
ONE_RUN = "give checkpoints of one training run"


def last_checkpoints(directory: Path, number: int, or_fewer: bool = False) -> list[Path]:
    """The newest checkpoints that fairseq-train left in a folder, oldest first.

    Those saved every so many updates (``checkpoint_EPOCH_UPDATES.pt``), those of epochs' ends (``checkpointEPOCH.pt``),
    and ``checkpoint_last.pt`` unless it is of the same update as the newest of these.

    Args:
        directory: the run's --save-dir.
        number: of checkpoints.
        or_fewer: whether all of them will do where there are fewer, but at least one.

    Raises:
        CheckpointError: the folder has fewer.
    """
    named = {}
    for path in directory.glob("checkpoint*.pt"):
        if match := re.fullmatch(r"checkpoint_(\d+)_(\d+)\.pt|checkpoint(\d+)\.pt", path.name):
            epoch, updates, ended = match.groups()
            # An epoch's last checkpoint follows those within it.
            named[path] = (int(ended), float("inf")) if ended else (int(epoch), float(updates))
    paths = sorted(named, key=named.__getitem__)
    if (last := directory / LAST).exists() and not (paths and _updates(last) == _updates(paths[-1])):
        paths.append(last)
    if len(paths) < (1 if or_fewer else number):
        raise CheckpointError(
            f"{directory}: {number} checkpoints are to be averaged and it has {len(paths)} "
            f"({', '.join(path.name for path in paths) or 'none'}); average fewer, or let training keep more "
            "(--save-interval-updates, --keep-interval-updates; in the recipe SAVE_INTERVAL, AVERAGE)"
        )
    return paths[-number:]


def average(paths: list[Path]) -> dict[str, Any]:
    """The newest checkpoint with the mean of all of them as its parameters, and without the state of the optimiser.

    Floating-point tensors are added up in float64, one after the other; all others have to be equal, but for
    counts of updates.

    Args:
        paths: checkpoints of one run, oldest first.

    Raises:
        CheckpointError: one cannot be read, or they are not of one model; names the file and the parameters.
    """
    total: dict[str, Tensor] = {}
    state: dict[str, Any] = {}
    for path in paths:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        parameters = state["model"]
        if total and (odd := total.keys() ^ parameters.keys()):
            listed = ", ".join(sorted(odd)[:KEYS_LISTED])
            raise CheckpointError(
                f"{path}: not of the same model as {paths[0]}; parameters of one only: {listed}; {ONE_RUN}"
            )
        for name, value in parameters.items():
            if name not in total:
                total[name] = value.double() if value.is_floating_point() else value
            elif total[name].shape != value.shape:
                raise CheckpointError(
                    f"{path}: {name} is {list(value.shape)}, in {paths[0]} {list(total[name].shape)}; {ONE_RUN}"
                )
            elif value.is_floating_point():
                total[name] += value
            elif not torch.equal(total[name], value) and not name.endswith(COUNTER):
                raise CheckpointError(
                    f"{path}: {name} differs from {paths[0]}'s and is no number to average; {ONE_RUN}"
                )
    state["model"] = {
        name: (total[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in state["model"].items()
    }
    state["last_optimizer_state"] = None
    return state


def _updates(path: Path) -> int:
    history = checkpoint_utils.load_checkpoint_to_cpu(str(path)).get("optimizer_history") or [{}]
    return history[-1].get("num_updates", -1)
