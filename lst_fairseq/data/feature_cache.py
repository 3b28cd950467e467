"""A frozen frontend's features on disk, so that each utterance is encoded once and not in every epoch."""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lst_fairseq.data.manifest import Row
from lst_fairseq.utils.files import temporary

logger = logging.getLogger(__name__)

MISSING, PRESENT, BROKEN = 0, 1, 2
#: Bytes of a file of features, apart from the last row's.
SHARD_BYTES = 2**30


class FeatureCache:
    """Features [n, width] in fp16 of each row of a manifest, in files of about a GiB that are filled in any order.

    The folder is keyed by the frontend (weights and configuration) and by the segments with their files' sizes and
    times, so that another frontend or changed audio never meets stale features. A row counts as present once its
    features have reached the disk: a process that is stopped, or a machine, loses the batch it was writing, and the
    next one goes on.

    Args:
        root: folder of all caches.
        frontend_key: what identifies the frontend.
        rows: the manifest's rows, some of them with audio.
        lengths: feature vectors of each row; 0 of text only, which has no place here.
        width: of a feature vector.

    Attributes:
        shards: number [N] of each row's file; a row is never divided.

    Raises:
        OSError: the disk has no room for the features; the message says how much they need.
    """

    def __init__(self, root: Path, frontend_key: str, rows: Sequence[Row], lengths: Sequence[int], width: int):
        digest = hashlib.sha256(f"sharded {frontend_key}".encode())
        files = {path: os.stat(path) for path in {row.segment.path for row in rows if not row.is_text}}
        for row in rows:
            if row.is_text:
                digest.update(b"text\n")
                continue
            file = files[row.segment.path]
            digest.update(f"{row.segment} {file.st_size} {file.st_mtime_ns}\n".encode())
        self.directory = Path(root) / digest.hexdigest()[:16]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"--cache-features {root}: cannot be written ({error.strerror}); "
                "name a folder that can be"
            ) from error
        self.width = width
        self.ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
        self.starts = self.ends - lengths
        self.shards = self.starts // max(1, SHARD_BYTES // (width * np.dtype(np.float16).itemsize))
        self.states = self._open("states.npy", np.uint8, (len(rows),))
        self._files: dict[int, np.memmap] = {}
        self._check_room()

    def __getstate__(self) -> dict[str, Any]:
        """Without the files, which a process that loads data opens itself; pickled, they would be read whole."""
        return {**self.__dict__, "_files": {}, "states": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.states = np.lib.format.open_memmap(self.directory / "states.npy", mode="r+")

    def _check_room(self) -> None:
        missing = self.missing()
        needed = int((self.ends - self.starts)[missing].sum()) * self.width * np.dtype(np.float16).itemsize
        # Files that are begun have their room already.
        have = sum(file.stat().st_size for file in self.directory.glob("features-*.npy"))
        whole = int(self.ends[-1]) * self.width * np.dtype(np.float16).itemsize
        free = shutil.disk_usage(self.directory).free
        if min(needed, whole - have) > free:
            raise OSError(
                f"--cache-features {self.directory.parent}: the features need {needed:,} bytes and the disk has "
                f"{free:,} left: free some, or name a folder on another disk"
            )

    def _features(self, index: int) -> np.ndarray:
        """The place [n, width] of a row's features."""
        shard = int(self.shards[index])
        first, last = np.searchsorted(self.shards, [shard, shard + 1])
        begin = int(self.starts[first])
        if shard not in self._files:
            shape = (int(self.ends[last - 1]) - begin, self.width)
            self._files[shard] = self._open(f"features-{shard:05d}.npy", np.float16, shape)
        return self._files[shard][self.starts[index] - begin : self.ends[index] - begin]

    def _open(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
        path = self.directory / name
        if not path.exists():
            # Beside, then linked: processes that start together must not cut each other's file short.
            beside = temporary(path)
            try:
                np.lib.format.open_memmap(beside, mode="w+", dtype=dtype, shape=shape)
                _reserve(beside)
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(beside)
            finally:
                beside.unlink(missing_ok=True)
        return np.lib.format.open_memmap(path, mode="r+")

    def missing(self) -> np.ndarray:
        """Indices of rows with audio that are not there yet."""
        return np.flatnonzero((self.states == MISSING) & (self.ends > self.starts))

    def write(self, features: dict[int, Tensor | None]) -> None:
        """Store rows' features [n, width] on the CPU, or None for broken audio, and mark them once on the disk."""
        for index, vectors in features.items():
            if vectors is not None:
                self._features(index)[:] = vectors.numpy()
        for shard in {int(self.shards[index]) for index, vectors in features.items() if vectors is not None}:
            self._files[shard].flush()
        for index, vectors in features.items():
            self.states[index] = PRESENT if vectors is not None else BROKEN
        self.states.flush()

    def read(self, index: int) -> Tensor | None:
        """A row's features, float16 [n, width]; None where the audio was broken."""
        if self.states[index] == MISSING:
            raise RuntimeError(f"{self.directory}: row {index} has not been encoded; remove the folder and start again")
        if self.states[index] == BROKEN:
            return None
        return torch.from_numpy(self._features(index).copy())


def _reserve(path: Path) -> None:
    """Take a new file's room on the disk: a mapped file that finds none later kills the process without a word."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(f"{path}: no room for {path.stat().st_size:,} bytes ({error.strerror})") from error
