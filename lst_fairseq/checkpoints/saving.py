"""Writing checkpoints: beside their place first, and with the remedy where that fails."""

import os
import shutil
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils

from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.files import replacing
from lst_fairseq.utils.messages import one_line


def failed_write(filename: str, error: Exception) -> CheckpointError:
    """Remove what was written of FILENAME.tmp, and say what to do."""
    partial = filename + ".tmp"
    written = os.path.getsize(partial) if os.path.exists(partial) else 0
    if os.path.lexists(partial):
        os.remove(partial)
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(filename))).free
    reason = one_line(error, 200)
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
