"""What the preparations of corpora share: reading text files and audio headers, and config.yaml."""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from lst_fairseq.data.audio import HEADER_CHECKS, AudioError, AudioInfo, audio_info
from lst_fairseq.errors import SettingsError
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.text_files import read_text
from lst_fairseq.utils.yaml_files import not_a_text, quoted, read_yaml

logger = logging.getLogger(__name__)

_CONFIG = """\
# Data settings for fairseq's S2TDataConfig, read by --config-yaml.
# No vocabulary here: target ids come from the LLM's tokenizer.
use_audio_input: true
audio_root: ''
# The language that prompts with {{tgt_lang}} name.
target_lang: {tgt_lang}
"""


class PrepError(ValueError):
    """A corpus that cannot be prepared; the message names file and line, and the remedy."""


def is_train(split: str) -> bool:
    """Whether a split is training data, by its name as in training: nothing is ever left out of any other."""
    return split.startswith("train")


def config_text(tgt_lang: str) -> str:
    """Content of a config.yaml for translations into a language; its code in quotes, since ``no`` without is false."""
    return _CONFIG.format(tgt_lang=quoted(tgt_lang))


def write_config(out: Path, tgt_lang: str) -> None:
    """Write OUT/config.yaml, which fairseq-train's --config-yaml names."""
    with atomic_text(out / "config.yaml") as file:
        file.write(config_text(tgt_lang))


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of a text file without white space around them.

    Split at line feeds alone: a sentence may hold U+2028 or \\x85. Raises Unreadable as ``read_text`` does.
    """
    lines = read_text(path, remedy).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.strip() for line in lines]


def stored_audio_headers(
    paths: Iterable[str], store: Path, label: str
) -> dict[str, AudioInfo | AudioError]:
    """Header of each distinct file, or the error that reading it gave, with headers kept in a file as they are read.

    A corpus of a million clips takes hours of opening files on a network file system: a run that was interrupted reads
    only what is not in the store yet. An entry holds while its file keeps size and time of change, and headers are
    checked as they were when it was written. Errors are not kept.

    Several processes may add to one file: each adds whole lines. A store that cannot be written to is only read.

    Args:
        paths: audio files.
        store: a text file, made where there is none.
        label: of the progress bar, shown when it takes longer than two seconds.
    """
    known = _read_store(store)

    def read(path: str) -> tuple[AudioInfo | AudioError, str]:
        """The header, and the line to store, empty where there is nothing new."""
        try:
            state = os.stat(path)
            key = f"{state.st_size}:{state.st_mtime_ns}:{HEADER_CHECKS}"
        except OSError:
            key = ""
        if key and known.get(path, ("",))[0] == key:
            return known[path][1], ""
        try:
            info = audio_info(path)
        except AudioError as error:
            return error, ""
        if not path.isprintable():  # no manifest can hold it, and no line of the store
            return info, ""
        return info, f"{key}\t{info.frames}\t{info.rate}\t{info.channels}\t{path}\n"

    distinct = list(dict.fromkeys(paths))
    headers: dict[str, AudioInfo | AudioError] = {}
    with closing(_Store(store)) as kept, ThreadPoolExecutor(max_workers=16) as pool:
        try:
            results = tqdm(
                pool.map(read, distinct), label, len(distinct), unit="file", delay=2, leave=False
            )
            for path, (header, line) in zip(distinct, results, strict=True):
                headers[path] = header
                if line:
                    kept.add(line)
        finally:
            # An interrupted run stops now, not when every file that is waiting for a thread has been read.
            pool.shutdown(cancel_futures=True)
    return headers


class _Store:
    """Lines added to the end of a file, each at once and whole, for as long as that works."""

    def __init__(self, path: Path):
        self.path = path
        self.file: BinaryIO | None = None
        with self._explained():
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def add(self, line: str) -> None:
        with self._explained():
            if self.file is not None:
                self.file.write(line.encode())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            logger.warning(f"{self.path}: keeps no headers for the next run ({error.strerror})")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def _read_store(store: Path) -> dict[str, tuple[str, AudioInfo]]:
    """Path -> (size, time of change and checks, header). A last line that was cut short is taken off the file."""
    if not store.exists():
        return {}
    data = store.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with suppress(OSError):  # it may only be read
            os.truncate(store, len(whole))
    return dict(_parse_store(whole.decode("utf-8", "replace")))


def _parse_store(text: str) -> Iterator[tuple[str, tuple[str, AudioInfo]]]:
    for line in text.split("\n")[:-1]:
        fields = line.split("\t", 4)
        if len(fields) == 5 and all(
            field.isdecimal() for field in fields[1:4]
        ):  # any other is read anew
            yield fields[4], (fields[0], AudioInfo(*map(int, fields[1:4])))


def stored_audio_root(config: Path) -> str:
    """``audio_root`` of a data configuration, which need not be there.

    Raises:
        YamlError, SettingsError: it cannot be read, or says no folder.
    """
    content = (read_yaml(config) if config.exists() else None) or {}
    if not isinstance(content, dict):
        raise SettingsError(f"{config}: holds {content!r:.100}; write settings, one `name: value` a line")
    root = content.get("audio_root") or ""
    if not isinstance(root, str):
        raise SettingsError(f"{config}: `audio_root` {not_a_text(root)}")
    return root
