"""Files that several processes may want at once: locks, and names for what is being written."""

import contextlib
import errno
import fcntl
import functools
import glob
import io
import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)

#: What flock answers where the file system knows no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
#: What the system says, without the file's name, when a write finds no room or the disk is broken.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
#: Characters of a lock file that are shown; whoever can write to it can write anything.
_SHOWN = 200

_held: set[int] = set()
_warned: set[int] = set()


class InUse(RuntimeError):
    """Another process is at work on a file or folder; the message names it and the remedy.

    Attributes:
        holder: what the other process has written into the lock's file about itself.
    """

    def __init__(self, message: str, holder: str):
        super().__init__(message)
        self.holder = holder


class Lock:
    """An flock on a file that is there to be locked; held until released or the process ends.

    The kernel lets go of it when the process ends, however it ends. The text in the file is for
    people to read: a file that a killed process or another machine left behind keeps nobody out.

    An flock and not a record lock (``fcntl.lockf``), which the kernel drops as soon as the process
    closes *any* descriptor of the file. An flock has the opposite flaw, that forked processes share
    it: a data loader's worker would hold it for as long as it outlives a killed parent. So a forked
    process closes its descriptor at once, which leaves the parent's lock alone, and no program that
    is executed inherits it.

    Attributes:
        path: the file.
        is_exclusive: whether the file system has locks, so that no other process holds this one.
    """

    def __init__(self, path: Path, what: str, remedy: str, descriptor: int | None = None):
        """Take the lock.

        Args:
            path: made where there is none; its folder must exist.
            what: what must not be used by two, for messages.
            remedy: what to do where another process has it.
            descriptor: of the file, inherited from the process that is to hold the lock: its end, and
                not this one's, frees it.

        Raises:
            InUse: another process has it.
            OSError: the file cannot be made.
        """
        self.path = path
        self.is_exclusive = True
        own = descriptor is None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666) if own else descriptor
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            os.close(self._descriptor)
            raise InUse(f"{what}: in use by {holder}; {remedy}", holder) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(self._descriptor)
                raise
            self.is_exclusive = False
            self._warn(what, error)
        if own:
            _held.add(self._descriptor)
        self._sign()

    def _warn(self, what: str, error: OSError) -> None:
        """Once for each file system."""
        device = os.fstat(self._descriptor).st_dev
        if device not in _warned:
            _warned.add(device)
            logger.warning(
                f"{self.path}: this file system has no file locks ({error.strerror}): nothing "
                f"keeps a second process from using {what} at once; see to it that there is none"
            )

    def fileno(self) -> int:
        """The descriptor; a program that inherits it (``pass_fds``) holds the lock, too."""
        return self._descriptor

    def _holder(self) -> str:
        text = os.pread(self._descriptor, _SHOWN, 0).decode("utf-8", "replace").split("\n")[0]
        return "".join(c for c in text if c.isprintable()).strip() or "another process"

    def _sign(self) -> None:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()} (since {started})\n"
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a word in its file
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def is_of(self, path: Path) -> bool:
        """Whether this is the lock of that file, by whatever name, and the file is still there."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        return False

    def release(self) -> None:
        """Let others have it; the file stays: once removed, two others could have it at once."""
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            os.close(self._descriptor)


def _close_inherited() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


@functools.cache
def _machine() -> str:
    """This machine's name and, since containers may share that, its space of process ids."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"{socket.gethostname()}-{space}").strip("-")


def temporary(path: Path) -> Path:
    """A hidden name beside a file or folder, under which this process writes its successor.

    It names the machine and the process. What processes of this machine left behind there when they
    were killed is removed; that of other machines, and of processes that live, is left alone.
    """
    start = f".{path.name}.{_machine()}."
    for left in path.parent.glob(f"{glob.escape(start)}*.tmp*"):
        number = left.name.removeprefix(start).split(".")[0]
        if number.isdecimal() and int(number) != os.getpid() and not _is_alive(int(number)):
            logger.info(f"{left}: removed; a process that was killed left it")
            remove(left)
    return path.with_name(f"{start}{os.getpid()}.tmp")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under that becomes ``path`` only if the block ends without an error.

    Processes that write the same file at once do not meet; the one that ends last has its file
    there.

    Raises:
        OSError: names ``path`` where the system's own error names no file (a disk that is full).
    """
    beside = temporary(path)
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        unnamed = error.filename is None and error.errno in _NO_ROOM
        if unnamed or str(error.filename) == str(beside):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        remove(beside)


@contextlib.contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text file to write, put in its place only when the block ends without an error.

    Bytes of a file's name that are no UTF-8 become ``\\udcff`` and the like, which JSON reads as Python's name again.
    """
    named = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with replacing(Path(path)) as beside, open(beside, "w", **named) as file:
        yield file


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A new folder to fill that gets its name only when the block ends without an error.

    Raises:
        FileExistsError: another process has made ``folder`` in the meantime.
    """
    beside = temporary(folder)
    remove(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        try:
            os.rename(beside, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise FileExistsError(
                f"{folder} exists already: another process has made it meanwhile"
            ) from None
    finally:
        remove(beside)


def explained(error: OSError) -> str:
    """What the system says of a file, with the file before it and what to do after it."""
    remedies = {
        (errno.ENOSPC, errno.EDQUOT): "free some space, or write to another disk",
        (errno.EACCES, errno.EPERM, errno.EROFS): "change its permissions, or name another place",
        (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST): "name another path",
    }
    if error.strerror is None or error.filename is None:
        return str(error)
    remedy = next(
        (text for numbers, text in remedies.items() if error.errno in numbers), "try again"
    )
    return f"{os.fsdecode(error.filename)}: {error.strerror}; {remedy}"


def print_any_name() -> None:
    """Let standard output take names of files that are no UTF-8, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
