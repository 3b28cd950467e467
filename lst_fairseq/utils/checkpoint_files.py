"""What can be said of a checkpoint before PyTorch is imported: is it there, and all of it?"""

import stat
import zipfile
from pathlib import Path

from lst_fairseq.errors import CheckpointError
from lst_fairseq.utils.messages import one_line

#: Of an exported directory: its settings.
SETTINGS_FILE = "lst.json"
#: In a sharded checkpoint's file: the name of the folder beside it.
SHARDS_KEY = "lst_shards"
#: The types that an exported LLM's weights may have.
EXPORTED_DTYPES = ("float32", "bfloat16", "float16")
#: How a file of ``torch.save`` begins: a zip archive, or before PyTorch 1.6 a pickle of protocol 2.
ZIP, OLD_PICKLE = b"PK\x03\x04", b"\x80\x02"


def check_checkpoint(path: str | Path) -> None:
    """Raise the error that reading a checkpoint would end in, where a look at it is enough.

    Args:
        path: a file that fairseq-train wrote, or a directory of lst export.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be opened or read.
        CheckpointError: not a checkpoint, or not all of it.
    """
    path = Path(path)
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        if not (path / SETTINGS_FILE).is_file():
            raise not_exported(path, f"it has no file {SETTINGS_FILE}")
        return
    if not stat.S_ISREG(path.stat().st_mode):
        raise refused(path, "it is a pipe, a device or a socket")
    try:
        with open(path, "rb") as file:
            head = file.read(len(ZIP))
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not head:
        raise incomplete(path, "it is empty")
    if head.startswith(OLD_PICKLE):
        return
    if head != ZIP:
        raise refused(path, f"it begins with {head!r}, as no file of PyTorch's does")
    if not zipfile.is_zipfile(path):
        raise incomplete(path, "the end of the zip archive is missing")


def check_absent(out: str | Path) -> None:
    """Raise a FileExistsError if there is something where a directory is to be made."""
    if Path(out).exists():
        raise FileExistsError(f"{out} exists already: give another directory, or remove it first")


def missing(path: str | Path) -> FileNotFoundError:
    """The error where there is no checkpoint."""
    return FileNotFoundError(
        f"{path}: no such checkpoint; give a file that fairseq-train wrote, or a directory of lst export"
    )


def incomplete(path: str | Path, reason: object) -> CheckpointError:
    """The error on a file of which a part is missing."""
    return CheckpointError(
        f"{path}: not a complete fairseq checkpoint, perhaps truncated by a full disk or a killed copy "
        f"({one_line(reason) or type(reason).__name__}); use an earlier one from the same folder"
    )


def refused(path: str | Path, reason: object) -> CheckpointError:
    """The error on a file that is no checkpoint, or one that could run code."""
    return CheckpointError(
        f"{path}: refused, since it is no checkpoint or holds more than tensors and settings, and reading it "
        f"could run code ({one_line(reason) or type(reason).__name__}); use a checkpoint that fairseq-train wrote "
        "with this plugin"
    )


def not_exported(directory: str | Path, reason: object) -> CheckpointError:
    """The error on a directory that holds no exported model."""
    return CheckpointError(
        f"{directory}: not a directory that lst export wrote, or not all of it ({reason}); export the "
        "checkpoint again"
    )
