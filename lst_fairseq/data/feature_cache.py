"""A frozen frontend's features on disk, so that each utterance is encoded once and not in every epoch."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import stat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError
from lst_fairseq.data.manifest import Row

logger = logging.getLogger(__name__)

MISSING, PRESENT, BROKEN = 0, 1, 2
#: Padded seconds of speech that are encoded at once.
BATCH_SECONDS = 240


class FeatureCache:
    """Features [n, width] in fp16 of each row of a manifest, in one file that is filled in any order.

    The folder is keyed by the frontend (weights and configuration) and by the segments with their files' sizes and
    times, so that another frontend or changed audio never meets stale features. A process that is stopped loses the
    batch it was writing; the next one goes on.

    Args:
        root: folder of all caches.
        frontend_key: what identifies the frontend.
        rows: the manifest's rows, some of them with audio.
        lengths: feature vectors of each row; 0 of text only, which has no place here.
        width: of a feature vector.
    """

    def __init__(self, root: Path, frontend_key: str, rows: Sequence[Row], lengths: Sequence[int], width: int):
        digest = hashlib.sha256(frontend_key.encode())
        files = {path: stat(path) for path in {row.segment.path for row in rows if not row.is_text}}
        for row in rows:
            if row.is_text:
                digest.update(b"text\n")
                continue
            file = files[row.segment.path]
            digest.update(f"{row.segment} {file.st_size} {file.st_mtime_ns}\n".encode())
        self.directory = Path(root) / digest.hexdigest()[:16]
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
        self.starts = self.ends - lengths
        self.features = self._open("features.npy", np.float16, (int(self.ends[-1]), width))
        self.states = self._open("states.npy", np.uint8, (len(rows),))

    def _open(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
        path = self.directory / name
        if not path.exists():
            # Beside, then renamed: processes that start together must not cut each other's file short.
            beside = path.with_suffix(f".{id(self)}.tmp")
            np.lib.format.open_memmap(beside, mode="w+", dtype=dtype, shape=shape)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(beside)
            beside.unlink()
        return np.lib.format.open_memmap(path, mode="r+")

    def missing(self) -> np.ndarray:
        """Indices of rows with audio that are not there yet."""
        return np.flatnonzero((self.states == MISSING) & (self.ends > self.starts))

    def write(self, index: int, features: Tensor | None) -> None:
        """Store a row's features [n, width], or None for audio that is broken."""
        if features is not None:
            self.features[self.starts[index] : self.ends[index]] = features.to("cpu", torch.float16).numpy()
        self.states[index] = PRESENT if features is not None else BROKEN

    def read(self, index: int) -> Tensor | None:
        """A row's features, float16 [n, width]; None where the audio was broken."""
        if self.states[index] == MISSING:
            raise RuntimeError(f"{self.directory}: row {index} has not been encoded; remove the folder and start again")
        if self.states[index] == BROKEN:
            return None
        return torch.from_numpy(self.features[self.starts[index] : self.ends[index]].copy())


@torch.no_grad()
def fill(
    cache: FeatureCache,
    indices: np.ndarray,
    read: Callable[[int], Tensor],
    lengths: Sequence[int],
    frontend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    device: torch.device,
    skip_bad_audio: bool,
) -> None:
    """Encode rows into a cache, longest first, with progress.

    Args:
        cache: to be filled.
        indices: the rows to encode; those that it lacks, or this process's share of them.
        read: the waveform [T] of a row; may raise AudioError.
        lengths: samples of each row.
        frontend: waveforms [B, T] and lengths [B] to features [B, N, width] and their lengths.
        device: where the frontend is.
        skip_bad_audio: mark broken audio as such instead of raising.
    """
    if not len(indices):
        return
    indices = indices[np.argsort(-np.asarray(lengths)[indices], kind="stable")]
    hours = sum(lengths[i] for i in indices) / SAMPLE_RATE / 3600
    logger.info(f"{cache.directory}: encoding {len(indices):,} segments, {hours:.2f} h of speech, once")

    def try_read(index: int) -> Tensor | None:
        try:
            return read(index)
        except AudioError as error:
            if not skip_bad_audio:
                raise
            logger.warning(f"skipped: {error}")
            return None

    with ThreadPoolExecutor(8) as pool, tqdm(total=len(indices), desc="encoding speech", unit="segment") as progress:
        for batch in _batches(indices, lengths):
            waveforms = dict(zip(batch, pool.map(try_read, batch), strict=True))
            for index in [i for i, waveform in waveforms.items() if waveform is None]:
                cache.write(index, waveforms.pop(index))
            if waveforms:
                n_samples = torch.tensor([len(w) for w in waveforms.values()], device=device)
                padded = torch.nn.utils.rnn.pad_sequence(list(waveforms.values()), batch_first=True).to(device)
                features, n_vectors = frontend(padded, n_samples)
                for row, index in enumerate(waveforms):
                    cache.write(index, features[row, : n_vectors[row]])
            progress.update(len(batch))
    cache.features.flush()
    cache.states.flush()


def _batches(indices: np.ndarray, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive indices whose padded length stays within BATCH_SECONDS; the first of a batch is its longest."""
    batch: list[int] = []
    for index in indices.tolist():
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
