"""Token ids of a manifest's texts: flat arrays, made in batches and kept on disk beside the manifest."""

import hashlib
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.utils.files import replacing

logger = logging.getLogger(__name__)

#: Fewer texts are tokenised in about a second: no file is worth that.
WORTH_CACHING = 10_000
#: From here on there is a progress bar.
WORTH_WATCHING = 20_000
#: Texts that the tokenizer is given at a time.
BATCH = 10_000


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts.

    Attributes:
        ids: int32 [L], of all texts.
        starts, ends: int64 [N]; text i is ``ids[starts[i]:ends[i]]``.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Tokens":
        """``count`` texts without a token."""
        return cls(np.zeros(0, np.int32), np.zeros(count, np.int64), np.zeros(count, np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        """Ids of a text, int32 [T]."""
        return self.ids[self.starts[index] : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 [N]."""
        return self.ends - self.starts

    def select(self, rows: np.ndarray | slice) -> "Tokens":
        """Those texts, over the same ids."""
        return Tokens(self.ids, self.starts[rows], self.ends[rows])


def tokenise(texts: Sequence[str], dictionary: LlmDictionary, beside: Path | None = None) -> Tokens:
    """Token ids of texts, without the end of sentence, as ``dictionary.encode`` makes them.

    Args:
        texts: at least ``WORTH_CACHING`` of them are kept on disk.
        dictionary: the LLM's vocabulary, bound to its tokenizer.
        beside: the manifest that the texts are from; the cache is a hidden file in its folder, named after it. Its key
            is made of the texts and of all that tokenising depends on: a file with another key, or a broken one, is
            made again. A folder that cannot be written to costs the cache only.
    """
    if beside is None or len(texts) < WORTH_CACHING:
        return _encode(texts, dictionary)
    key = _key(texts, dictionary)
    path = beside.with_name(f".{beside.stem}.{key[:16]}.tokens.npz")
    tokens = _read(path, key, len(texts))
    if tokens is None:
        tokens = _encode(texts, dictionary)
        _write(path, key, tokens)
    return tokens


def _encode(texts: Sequence[str], dictionary: LlmDictionary) -> Tokens:
    pieces, lengths = [np.zeros(0, np.int32)], np.zeros(len(texts), np.int64)
    disable = None if len(texts) >= WORTH_WATCHING else True
    with tqdm(total=len(texts), desc="tokenising", unit="text", disable=disable) as progress:
        for start in range(0, len(texts), BATCH):
            batch = dictionary.encode(texts[start : start + BATCH])
            pieces.append(np.fromiter(chain.from_iterable(batch), np.int32))
            lengths[start : start + len(batch)] = list(map(len, batch))
            progress.update(len(batch))
    ends = lengths.cumsum()
    return Tokens(np.concatenate(pieces), ends - lengths, ends)


def _key(texts: Sequence[str], dictionary: LlmDictionary) -> str:
    digest = hashlib.sha256(dictionary.fingerprint().encode())
    # With the lengths: the same characters can be divided otherwise.
    digest.update(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
    digest.update("".join(texts).encode())
    return digest.hexdigest()


def _read(path: Path, key: str, count: int) -> Tokens | None:
    """The cached tokens, or None where there are none that can be used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found, ids, ends = str(file["key"]), file["ids"], file["ends"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.info(f"{path}: not a cache of tokens that can be read ({error}); tokenising again")
        return None
    tokens = Tokens(ids, np.concatenate([[0], ends[:-1]]), ends)
    if found != key or len(ends) != count or len(ids) != ends[-1]:
        logger.info(f"{path}: a cache of other tokens; tokenising again")
        return None
    return tokens


def _write(path: Path, key: str, tokens: Tokens) -> None:
    """Write beside and rename: processes that start together each put a whole file there."""
    try:
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, key=np.array(key), ids=tokens.ids, ends=tokens.ends)
    except OSError as error:
        logger.info(f"{path}: the tokens cannot be kept for the next start ({error})")
