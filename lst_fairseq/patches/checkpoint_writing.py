"""How fairseq writes its checkpoints."""

import functools
from typing import Any

from fairseq import checkpoint_utils, file_io

from lst_fairseq.checkpoints.saving import failed_write


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
            raise failed_write(filename, error) from error

    checkpoint_utils.torch_persistent_save = torch_persistent_save


def copy_checkpoints_atomically() -> None:
    """Copy beside and rename, so that a kill while checkpoint_last.pt is replaced cannot leave half of it.

    checkpoint_utils.py:139 copies the first file written over the others through PathManager.copy (file_io.py:76).
    """
    copy = file_io.PathManager.copy

    def atomic_copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not file_io.PathManager.supports_rename(dst_path):
            return copy(src_path, dst_path, overwrite=overwrite)
        try:
            copied = copy(src_path, dst_path + ".tmp", overwrite=True)
        except OSError as error:
            raise failed_write(dst_path, error) from error
        file_io.PathManager.rename(dst_path + ".tmp", dst_path)
        return copied

    file_io.PathManager.copy = staticmethod(atomic_copy)
