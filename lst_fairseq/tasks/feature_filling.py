"""Encoding speech into the cache of features, once, before the first epoch."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError
from lst_fairseq.data.dataset import LstDataset
from lst_fairseq.data.feature_cache import FeatureCache
from lst_fairseq.data.lengths import padded_batches
from lst_fairseq.models.frontends import encoder_fingerprint
from lst_fairseq.models.lst import LstModel
from lst_fairseq.tasks.config import LstTaskConfig

logger = logging.getLogger(__name__)

#: Padded seconds of speech that are encoded at once.
BATCH_SECONDS = 240


def use_cached_features(dataset: LstDataset, model: LstModel, cfg: LstTaskConfig) -> None:
    """Encode a dataset's speech into the cache, as far as it is not there; the dataset reads from it from now on.

    The processes of a distributed run share the work.

    Args:
        dataset: one manifest's.
        model: on its device by now, which it is not when the dataset is loaded.
        cfg: with ``cache_features``.

    Raises:
        ValueError: features that are cached would not be those of training.
    """
    if dataset.feature_width is not None:
        return
    if dataset.waveform_transforms is not None:
        raise ValueError("--cache-features cannot be combined with waveform_transforms of the data config")
    frontend = model.encoder.frontend
    if not model.encoder.freeze_frontend or "frontend" in model.record.held:
        raise ValueError("--cache-features is for a frontend that is not trained")
    if dataset.is_text.all():
        dataset.use_features(frontend.output_dim, None)
        return
    n_vectors = frontend.output_lengths(torch.tensor(dataset.n_frames)).numpy()
    n_vectors = np.where(dataset.is_text, 0, n_vectors).tolist()
    # The data type is part of the key: features in half precision are not those in fp32.
    key = f"{encoder_fingerprint(cfg.speech_encoder, frontend.options)} {frontend.dtype}"
    cache = FeatureCache(Path(cfg.cache_features), key, dataset.rows, n_vectors, frontend.output_dim)
    missing = cache.missing()
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed:
        missing = missing[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
        torch.distributed.barrier()  # none writes before all have listed what is missing
    device = next(frontend.parameters()).device
    fill(cache, missing, dataset.read_waveform, dataset.n_frames, frontend.eval(), device, cfg.skip_bad_audio)
    if distributed:
        torch.distributed.barrier()
    dataset.use_features(frontend.output_dim, cache)


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
    """Encode rows into a cache, file by file and the longest of a file first, with progress.

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
    indices = indices[np.lexsort((-np.asarray(lengths)[indices], cache.shards[indices]))]
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
            read_ones = dict(zip(batch, pool.map(try_read, batch), strict=True))
            waveforms = {index: waveform for index, waveform in read_ones.items() if waveform is not None}
            encoded: dict[int, Tensor | None] = dict.fromkeys(read_ones.keys() - waveforms.keys())
            if waveforms:
                n_samples = torch.tensor([len(w) for w in waveforms.values()], device=device)
                padded = torch.nn.utils.rnn.pad_sequence(list(waveforms.values()), batch_first=True).to(device)
                features, lengths_of_features = frontend(padded, n_samples)
                # One copy a batch: a GPU is waited for each time.
                vectors, n_vectors = features.to("cpu", torch.float16), lengths_of_features.tolist()
                encoded |= {index: vectors[row, : n_vectors[row]] for row, index in enumerate(waveforms)}
            cache.write(encoded)
            progress.update(len(batch))


def _batches(indices: np.ndarray, lengths: Sequence[int]) -> list[list[int]]:
    """Consecutive indices whose padded length stays within BATCH_SECONDS."""
    return padded_batches(indices.tolist(), lengths, BATCH_SECONDS * SAMPLE_RATE)
