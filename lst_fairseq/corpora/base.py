"""What a corpus is to ``lst prep``: settings, splits and segments; and how manifests are made of them."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from lst_fairseq.corpora.cleaning import Cleaner, CleaningOptions
from lst_fairseq.corpora.preparation import PrepError, is_train, write_config
from lst_fairseq.data.audio import Segment
from lst_fairseq.data.manifest import write_manifest

CORPORA: dict[str, type["Corpus"]] = {}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One segment of a corpus with its texts.

    Attributes:
        where: file and line that name it, for messages.
        id: its name, of which a split has one.
        audio: where it lies; a path is taken from the current directory.
        frames: its samples, at the rate of its file.
        seconds: its length.
        src_text, tgt_text: transcript and translation, or the transcript twice.
        speaker: who speaks; empty where nobody knows.
        note: what had to be done to it, which is counted.
    """

    where: str
    id: str
    audio: Segment
    frames: int
    seconds: float
    src_text: str
    tgt_text: str
    speaker: str
    note: str = ""


@dataclass(frozen=True)
class Split:
    """What a corpus has under the name of a split.

    Attributes:
        utterances: those that can be used, in order.
        total: how many it has.
        remarks: what is to be said of the others.
    """

    utterances: Iterable[Utterance]
    total: int
    remarks: str = ""


class Corpus(ABC):
    """A corpus on disk. Subclasses are dataclasses whose fields are of ``setting``, under ``register_corpus``.

    A file of this folder with such a class is all that a further corpus needs. Its docstring is its
    help, each field is ``utils.flags.setting("what it is")`` and becomes a flag. ``preparation``
    reads texts and keeps audio headers; what is wrong is a PrepError that names file and line.

    Attributes:
        name: of ``lst prep``.
        tgt_lang: language of the translations.
        src_lang: language that is spoken.
        task: of the segments, ``st`` or ``asr``.
        groups: what is counted in a split besides its segments.
        layout: how a split looks on disk, for messages.
        cleaning: what is done to training data unless told otherwise.
    """

    name: ClassVar[str]
    tgt_lang: str
    src_lang: str = "en"
    task: ClassVar[str] = "st"
    groups: ClassVar[str] = "speakers"
    layout: ClassVar[str]
    cleaning: ClassVar[CleaningOptions] = CleaningOptions()

    @property
    @abstractmethod
    def place(self) -> str | Path:
        """Where its splits are, for messages."""

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits that are there.

        Raises:
            PrepError: the corpus is not where it should be.
        """

    @abstractmethod
    def read(self, split: str, out: Path) -> Split:
        """The segments of a split.

        Args:
            split: one of :meth:`splits`.
            out: folder of the manifests, for what is worth keeping from one run to the next.

        Raises:
            PrepError, Unreadable: a file is not as it should be; names file and line.
        """

    def group(self, utterance: Utterance) -> str:
        """What a segment belongs to, of those that ``groups`` names."""
        return utterance.speaker

    def chosen(self, wanted: Sequence[str] | str | None) -> list[str]:
        """Names of the splits to prepare: those wanted, or all there are.

        Raises:
            PrepError: one is not there; lists those that are.
        """
        wanted = [wanted] if isinstance(wanted, str) else wanted
        there = self.splits()
        if missing := [split for split in wanted or [] if split not in there]:
            names = ", ".join(there) or "none"
            raise PrepError(f"{self.place}: no split {', '.join(missing)}; there are: {names}")
        if not there:
            raise PrepError(f"{self.place}: no split ({self.layout}); unpack the corpus again")
        return list(wanted or there)


def register_corpus(name: str) -> Callable[[type[Corpus]], type[Corpus]]:
    """Give a corpus its name on the command line."""

    def register(corpus: type[Corpus]) -> type[Corpus]:
        corpus.name = name
        CORPORA[name] = corpus
        return corpus

    return register


def prepare(
    corpus: Corpus,
    out: str | Path,
    *,
    splits: Sequence[str] | str | None = None,
    cleaning: CleaningOptions | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Write OUT/SPLIT.tsv for each split, and OUT/config.yaml, each of them whole or not at all.

    Args:
        corpus: what to read.
        out: folder for the manifests, made where there is none.
        splits: only these; all there are by default.
        cleaning: of training data; the corpus's own by default. Of other splits nothing is left out.
        say: is given a line on what each split has, and what was left out of it.

    Raises:
        PrepError, Unreadable: the corpus cannot be read; names file, line and remedy.
        ManifestError: it has what no manifest can hold.
    """
    out = Path(out)
    chosen = corpus.chosen(splits)
    out.mkdir(parents=True, exist_ok=True)
    for split in chosen:
        cleaner = Cleaner(cleaning or corpus.cleaning) if is_train(split) else None
        say(_prepare_split(corpus, split, out, cleaner))
    write_config(out, corpus.tgt_lang)


def _prepare_split(corpus: Corpus, split: str, out: Path, cleaner: Cleaner | None) -> str:
    """Write OUT/SPLIT.tsv and return a line that says what is in it."""
    found = corpus.read(split, out)
    if not found.total:
        raise PrepError(f"{corpus.place}: {split} holds no segment; unpack the corpus again")
    groups: set[str] = set()
    ids: dict[str, str] = {}
    notes: Counter[str] = Counter()
    seconds = 0.0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal seconds
        progress = tqdm(found.utterances, split, found.total, unit="seg", delay=2, leave=False)
        for utterance in progress:
            if (first := ids.setdefault(utterance.id, utterance.where)) != utterance.where:
                raise PrepError(
                    f"{utterance.where}: the id {utterance.id} stands twice in {split}, first at "
                    f"{first}; give each segment its own"
                )
            texts = (utterance.src_text, utterance.tgt_text)
            if cleaner is not None:
                texts = cleaner.clean(*texts, utterance.seconds)
                if texts is None:
                    continue
            elif not utterance.frames:
                raise PrepError(
                    f"{utterance.where}: the segment has no samples, and of {split} nothing is "
                    "left out; correct it"
                )
            audio = utterance.audio
            if not os.path.isabs(audio.path):  # whoever reads the manifest may be elsewhere
                audio = replace(audio, path=os.path.abspath(audio.path))
            seconds += utterance.seconds
            groups.add(corpus.group(utterance))
            notes.update([utterance.note] if utterance.note else [])
            yield {
                "id": utterance.id,
                "audio": str(audio),
                "n_frames": utterance.frames,
                "src_text": texts[0],
                "tgt_text": texts[1],
                "speaker": utterance.speaker,
                "src_lang": corpus.src_lang,
                "tgt_lang": corpus.tgt_lang,
                "task": corpus.task,
            }

    kept = write_manifest(out / f"{split}.tsv", rows())
    counts = [f"{kept} segments", f"{len(groups)} {corpus.groups}", f"{seconds / 3600:.2f} h"]
    counts += [f"{count} {note}" for note, count in notes.items()]
    cleaned = cleaner.summary(found.total) if cleaner else ""
    return f"{split}: {', '.join(counts)}{found.remarks}{cleaned}"
