"""One run at a time in a --save-dir."""

import functools
import logging
from pathlib import Path

from fairseq import checkpoint_utils

from lst_fairseq.utils.files import InUse, Lock, remove

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

_lock: Lock | None = None


def keep_others_out() -> None:
    """Let one run at a time write to a --save-dir, and remove what a killed one left half written.

    fairseq (checkpoint_utils.py:872) only tries whether it can write there. The first process of a
    run holds the lock until it ends, or begins another run.
    """
    verify = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(verify)
    def verify_checkpoint_directory(save_dir: str) -> None:
        folder = Path(save_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _hold(folder)
            verify(save_dir)
        except InUse as error:
            raise SystemExit(f"error: {error}") from None
        except OSError as error:
            what = f"--save-dir {save_dir}: cannot be written ({error.strerror or error})"
            raise SystemExit(f"error: {what}; name a folder that can be") from None
        if lock.is_exclusive:
            for left in folder.glob("checkpoint*.tmp"):
                logger.info(f"{left}: removed; a run that was killed left it half written")
                remove(left)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def _hold(folder: Path) -> Lock:
    """The lock of a --save-dir; this process has it already if it trained there before."""
    global _lock
    path = folder / LOCK_FILE
    if _lock is None or not _lock.is_of(path):
        release_save_dir()
        _lock = Lock(
            path,
            f"--save-dir {folder}",
            "wait until that one has ended, end it, or give this run another --save-dir",
        )
    return _lock


def release_save_dir() -> None:
    """Let other processes train into the folder of this process's last run."""
    global _lock
    if _lock is not None:
        _lock.release()
        _lock = None
