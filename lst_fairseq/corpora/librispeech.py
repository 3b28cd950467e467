"""LibriSpeech, and any corpus in its folders: SPLIT/SPEAKER/CHAPTER/*.flac and *.trans.txt."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lst_fairseq.corpora.base import Corpus, Split, Utterance, register_corpus
from lst_fairseq.corpora.preparation import PrepError, read_lines, stored_audio_headers
from lst_fairseq.data.audio import AudioError, Segment
from lst_fairseq.utils.flags import setting

REMEDY = "unpack the corpus again"
SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")


class Line(NamedTuple):
    """One line of a .trans.txt file."""

    where: str  # FILE:LINE
    id: str
    speaker: str
    audio: str
    transcript: str


def natural(path: Path) -> tuple[int, str]:
    """Sorts folders named by numbers by these."""
    return int(path.name) if path.name.isdecimal() else sys.maxsize, path.name


def chapters(split: Path) -> Iterator[tuple[Path, str]]:
    """Each .trans.txt file of a split and its speaker, speakers and chapters in the order of their numbers."""
    for speaker in sorted((path for path in split.iterdir() if path.is_dir()), key=natural):
        for chapter in sorted((path for path in speaker.iterdir() if path.is_dir()), key=natural):
            for transcripts in sorted(chapter.glob("*.trans.txt")):
                yield transcripts, speaker.name


@register_corpus("librispeech")
@dataclass(frozen=True, kw_only=True)
class LibriSpeech(Corpus):
    """LibriSpeech for transcription: SPLIT/SPEAKER/CHAPTER/*.flac and *.trans.txt.

    examples:
      lst prep librispeech --data-root /data/LibriSpeech --out data/librispeech --lowercase
      lst prep librispeech --data-root /data/LibriSpeech --out data/librispeech --max-seconds 30 \\
          --splits train-clean-100 train-clean-360 dev-clean

    The task is asr, with the transcript as source and as target. To train on several splits, give
    fairseq-train --train-subset train-clean-100,train-clean-360. LibriSpeech is in capitals and
    without punctuation, which --lowercase makes easier on an LLM; it will write what it was taught.
    Any corpus in these folders will do; flac may be wav, ogg, opus or mp3.

    Every file's header is read once and kept in OUT/headers.txt, so that a run that was interrupted
    goes on from there.
    """

    data_root: Path = setting("folder that holds train-clean-100, dev-clean, ...")
    lowercase: bool = setting('"THE LAW" -> "the law", in every split', False)
    tgt_lang = "en"
    task = "asr"
    layout = "SPLIT/SPEAKER/CHAPTER/*.trans.txt"

    @property
    def place(self) -> Path:
        return Path(self.data_root).absolute()

    def splits(self) -> list[str]:
        root = self.place
        if not root.is_dir():
            raise PrepError(
                f"--data-root {root}: no such folder; give the one that holds train-clean-100, "
                "dev-clean, ..."
            )
        folders = (path for path in root.iterdir() if path.is_dir())
        return sorted(path.name for path in folders if next(path.glob("*/*/*.trans.txt"), None))

    def read(self, split: str, out: Path) -> Split:
        lines = list(self._lines(self.place / split))
        if not lines:
            raise PrepError(
                f"{self.place / split}: holds no {self.layout.partition('/')[2]}; {REMEDY}"
            )
        audio = (line.audio for line in lines)
        headers = stored_audio_headers(audio, out / "headers.txt", f"{split}: audio headers")

        def utterances() -> Iterator[Utterance]:
            for line in lines:
                info = headers[line.audio]
                if isinstance(info, AudioError):
                    raise PrepError(f"{line.where}: {info}")
                yield Utterance(
                    where=line.where,
                    id=line.id,
                    audio=Segment(line.audio),
                    frames=info.frames,
                    seconds=info.frames / info.rate,
                    src_text=line.transcript,
                    tgt_text=line.transcript,
                    speaker=line.speaker,
                )

        return Split(utterances(), len(lines))

    def _lines(self, split: Path) -> Iterator[Line]:
        for transcripts, speaker in chapters(split):
            names = (os.path.splitext(entry.name) for entry in os.scandir(transcripts.parent))
            folder = transcripts.parent
            audio = {stem: str(folder / f"{stem}{end}") for stem, end in names if end in SUFFIXES}
            for number, text in enumerate(read_lines(transcripts, REMEDY), start=1):
                if not text:
                    continue
                where = f"{transcripts}:{number}"
                name, _, transcript = text.partition(" ")
                if name not in audio:
                    kinds = ", ".join(SUFFIXES)
                    raise PrepError(f"{where}: no audio for {name!r} beside it ({kinds}); {REMEDY}")
                transcript = transcript.strip().lower() if self.lowercase else transcript.strip()
                yield Line(where, name, speaker, audio[name], transcript)
