"""Errors of reading and using checkpoints, with the file and what to do."""

import contextlib
import os
import pickle
from collections.abc import Iterator

import torch

from lst_fairseq.errors import CheckpointError, SettingsError
from lst_fairseq.utils.checkpoint_files import incomplete, missing, refused
from lst_fairseq.utils.checksums import Damaged
from lst_fairseq.utils.files import explained
from lst_fairseq.utils.messages import one_line
from lst_fairseq.utils.read_errors import UNREADABLE


def explained_failure(error: Exception, filenames: list[str]) -> Exception:
    """An error of reading or using checkpoints, with file and remedy.

    Args:
        error: as it was raised.
        filenames: of the checkpoints.

    Returns:
        ``error`` itself if it names a file or a flag, or is about memory.
    """
    text, where = one_line(error, None), ":".join(filenames)
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in text
    named = any(name in text for name in filenames)
    if isinstance(error, OSError):
        return _explained_os_error(error, filenames)
    if memory or isinstance(error, SettingsError) or (named and isinstance(error, ValueError | CheckpointError)):
        return error
    if isinstance(error, ValueError):
        return ValueError(f"{where}: {text}")
    if isinstance(error, CheckpointError) or (isinstance(error, AssertionError) and text):
        return CheckpointError(f"{where}: {text}")
    return CheckpointError(
        f"{where}: holds something else than fairseq-train with this plugin writes "
        f"({type(error).__name__}: {text[:300]}); copy it again from where it is whole, or use an "
        "earlier one from the same folder"
    )


def _explained_os_error(error: OSError, filenames: list[str]) -> OSError:
    """fairseq says of a file that is not there no more than that (checkpoint_utils.py:448)."""
    if str(error).startswith("Model file not found"):
        name = next((name for name in filenames if str(error).endswith(name)), filenames[0])
        return missing(name)
    return type(error)(explained(error)) if error.filename is not None else error


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
