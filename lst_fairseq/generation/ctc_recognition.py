"""Recognition with a speech encoder's own CTC head: its labels, greedy transcripts, batches read ahead."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import regex
import torch
from fairseq.data import Dictionary
from transformers import Wav2Vec2CTCTokenizer

from lst_fairseq import register
from lst_fairseq.data.audio import SAMPLE_RATE, read_segment
from lst_fairseq.data.lengths import padded_batches
from lst_fairseq.data.manifest import Row
from lst_fairseq.errors import SettingsError
from lst_fairseq.models.frontends import FrontendOptions, SpeechFrontend, build_frontend, encoder_fingerprint
from lst_fairseq.models.pretrained import OwnCodeError, ctc_source, load_tokenizer
from lst_fairseq.utils.text_files import read_text

OPTIONS = FrontendOptions(ctc=True)
#: Batches whose audio is read while the model works on an earlier one.
READ_AHEAD = 3


@dataclass(frozen=True)
class Labels:
    """What a CTC head's labels stand for.

    Attributes:
        to_text: label ids, without blanks and repetitions, to text.
        count: number of outputs that they need.
        key: short hash of all of it.
    """

    to_text: Callable[[list[int]], str]
    count: int
    key: str


def model_labels(directory: Path) -> Labels:
    """The labels of a model of transformers, from its directory's tokenizer.

    Raises:
        SettingsError: there is none.
    """
    try:
        tokenizer = load_tokenizer(directory, "--speech-encoder")
    except OwnCodeError as error:
        raise SettingsError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SettingsError(
            f"--speech-encoder {directory}: no tokenizer there ({reason}); put the vocab.json and "
            "tokenizer_config.json of the CTC model beside its weights"
        ) from None
    # The repetitions are gone already: those that are left are letters said twice, as in "all".
    more = {"group_tokens": False} if isinstance(tokenizer, Wav2Vec2CTCTokenizer) else {}
    vocabulary = tokenizer.get_vocab()
    known = set(vocabulary.values())
    # Special tokens may lie beyond the head: they were added to the tokenizer and never trained.
    trained = known - set(tokenizer.all_special_ids)

    def to_text(ids: list[int]) -> str:
        return tokenizer.decode([i for i in ids if i in known], skip_special_tokens=True, **more)

    return Labels(to_text, max(trained) + 1, _hash(f"{label} {token}" for token, label in vocabulary.items()))


def dictionary_labels(path: Path) -> Labels:
    """The labels of a fairseq checkpoint, from its dictionary: letters with "|" or pieces with "▁" between words.

    Raises:
        SettingsError: there is no such file, or it is no dictionary.
    """
    read_text(path, "--dict names the dictionary that the checkpoint was fine-tuned with (dict.ltr.txt)")
    try:
        dictionary = Dictionary.load(str(path))
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"--dict {path}: not a fairseq dictionary, one SYMBOL COUNT a line ({error})") from None
    symbols = [symbol if i >= dictionary.nspecial else "" for i, symbol in enumerate(dictionary.symbols)]

    def to_text(ids: list[int]) -> str:
        return regex.sub(r"[|▁\s]+", " ", "".join(symbols[i] for i in ids if i < len(symbols))).strip()

    return Labels(to_text, len(symbols), _hash(f"{i} {symbol}" for i, symbol in enumerate(symbols)))


def _hash(parts: Iterator[str] | Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


class Transcriber:
    """A speech encoder with its CTC head.

    Args:
        path: directory, hub id or fairseq file.
        dictionary: for a fairseq file.
        device: where it runs, as torch.device takes it; a GPU if there is one by default.
        half: in fp16.

    Raises:
        ValueError: there is no such model, no CTC head, or the labels are not its own.
    """

    def __init__(self, path: str, dictionary: Path | None, device: str | None = None, half: bool = False):
        source, dictionary = ctc_source(path, dictionary)
        register()
        self.labels = model_labels(source) if dictionary is None else dictionary_labels(dictionary)
        self.path = path
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.half = half
        #: What transcripts depend on: weights, settings, labels.
        self.key = _hash([encoder_fingerprint(path, OPTIONS), self.labels.key, str(half)])

    @cached_property
    def frontend(self) -> SpeechFrontend:
        """The model, loaded when there is something to decode."""
        frontend = build_frontend(self.path, OPTIONS).eval().to(self.device)
        n_outputs, n_labels = frontend.ctc_head.out_features, self.labels.count
        # Outputs without a label do no harm; labels without an output are another model's.
        if n_labels > n_outputs:
            raise SettingsError(
                f"--speech-encoder {self.path}: its CTC head has {n_outputs} outputs, and its tokenizer or dictionary "
                f"{n_labels} labels: they belong to two models"
            )
        return frontend.half() if self.half else frontend

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Greedy transcripts of 16 kHz waveforms [T]; one does not depend on the others."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        features, n_vectors = self.frontend(batch.to(self.device), lengths.to(self.device))
        labels = self.frontend.ctc_labels(features).tolist()
        texts = []
        for row, length in zip(labels, n_vectors.tolist(), strict=True):
            ids = [label for label, _ in groupby(row[:length]) if label != self.frontend.blank]
            texts.append(" ".join(self.labels.to_text(ids).split()))
        return texts


def make_batches(rows: Sequence[Row], max_seconds: float) -> list[list[Row]]:
    """Rows of like length together, the longest first, with at most so many seconds a batch, padding included."""
    lengths = [row.n_samples for row in rows]
    order = sorted(range(len(rows)), key=lambda index: -lengths[index])
    batches = padded_batches(order, lengths, max_seconds * SAMPLE_RATE)
    return [[rows[index] for index in batch] for batch in batches]


def read_ahead(batches: Sequence[list[Row]], workers: int) -> Iterator[tuple[list[Row], list[np.ndarray]]]:
    """Each batch with its waveforms, while those of the next ones are being read."""
    waiting: deque[tuple[list[Row], list[Future[np.ndarray]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        remaining = iter(batches)
        try:
            while True:
                while len(waiting) < READ_AHEAD and (batch := next(remaining, None)) is not None:
                    waiting.append((batch, [pool.submit(read_segment, row.segment) for row in batch]))
                if not waiting:
                    return
                batch, waveforms = waiting.popleft()
                yield batch, [waveform.result() for waveform in waveforms]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
