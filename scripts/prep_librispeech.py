#!/usr/bin/env python3
"""Write fairseq manifests for transcription from LibriSpeech's folders (SPLIT/SPEAKER/CHAPTER/*.flac and *.trans.txt).

    python scripts/prep_librispeech.py --data-root /data/LibriSpeech --out data/librispeech --lowercase
    python scripts/prep_librispeech.py --data-root /data/LibriSpeech --out data/librispeech --max-seconds 30 \\
        --splits train-clean-100 train-clean-360 dev-clean

Writes OUT/SPLIT.tsv for each split, with the task asr and the transcript as source and as target, and OUT/config.yaml.
To train on several splits, give fairseq-train --train-subset train-clean-100,train-clean-360. LibriSpeech is in
capitals and without punctuation, which --lowercase makes easier on an LLM; it will write what it was taught. Any corpus
in these folders will do; flac may be wav, ogg, opus or mp3.

Every file's header is read once and kept in OUT/headers.txt, so that a run that was interrupted goes on from there.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.cleaning import Cleaner, CleaningOptions, add_cleaning_arguments, cleaning_options
from lst_fairseq.corpora.preparation import PrepError, is_train, read_lines, stored_audio_headers, write_config
from lst_fairseq.data.audio import AudioError, Segment
from lst_fairseq.data.manifest import ManifestError, write_manifest
from lst_fairseq.utils.files import file_errors_in_one_line

SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")
LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class Utterance:
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


def read_split(split: Path, lowercase: bool) -> list[Utterance]:
    """The utterances of a split."""
    utterances = []
    for transcripts, speaker in chapters(split):
        names = (os.path.splitext(entry.name) for entry in os.scandir(transcripts.parent))
        audio = {stem: str(transcripts.parent / f"{stem}{suffix}") for stem, suffix in names if suffix in SUFFIXES}
        for number, line in enumerate(read_lines(transcripts, "unpack the corpus again"), start=1):
            if not line:
                continue
            where = f"{transcripts}:{number}"
            name, _, text = line.partition(" ")
            if name not in audio:
                kinds = ", ".join(SUFFIXES)
                raise PrepError(f"{where}: no audio for {name!r} beside it ({kinds}); unpack the corpus again")
            text = text.strip().lower() if lowercase else text.strip()
            utterances.append(Utterance(where, name, speaker, audio[name], text))
    if not utterances:
        raise PrepError(f"{split}: holds no SPEAKER/CHAPTER/*.trans.txt; unpack the corpus again")
    return utterances


def prepare_split(data_root: Path, split: str, out: Path, cleaning: CleaningOptions, lowercase: bool) -> str:
    """Write OUT/SPLIT.tsv and return a line that says what is in it."""
    utterances = read_split(data_root / split, lowercase)
    headers = stored_audio_headers((u.audio for u in utterances), out / "headers.txt", f"{split}: audio headers")
    cleaner = Cleaner(cleaning) if is_train(split) else None
    seconds = 0.0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal seconds
        for utterance in utterances:
            info = headers[utterance.audio]
            if isinstance(info, AudioError):
                raise PrepError(f"{utterance.where}: {info}")
            text, duration = utterance.transcript, info.frames / info.rate
            if cleaner is not None and cleaner.clean(text, text, duration) is None:
                continue
            seconds += duration
            yield {
                "id": utterance.id,
                "audio": str(Segment(utterance.audio)),
                "n_frames": info.frames,
                "src_text": text,
                "tgt_text": text,
                "speaker": utterance.speaker,
                "src_lang": LANGUAGE,
                "tgt_lang": LANGUAGE,
                "task": "asr",
            }

    kept = write_manifest(out / f"{split}.tsv", rows())
    speakers = len({utterance.speaker for utterance in utterances})
    report = f"{split}: {kept} segments, {speakers} speakers, {seconds / 3600:.2f} h"
    return report + (cleaner.summary(len(utterances)) if cleaner else "")


def find_splits(root: Path, wanted: list[str] | None) -> list[str]:
    """Names of the splits to prepare: those wanted, or all folders that hold transcripts."""
    if not root.is_dir():
        raise PrepError(f"--data-root {root}: no such folder; give the one that holds train-clean-100, dev-clean, ...")
    there = sorted(path.name for path in root.iterdir() if path.is_dir() and next(path.glob("*/*/*.trans.txt"), None))
    if missing := [split for split in wanted or [] if split not in there]:
        raise PrepError(f"{root}: no split {', '.join(missing)}; there are: {', '.join(there) or 'none'}")
    if not there:
        raise PrepError(f"{root}: no split (SPLIT/SPEAKER/CHAPTER/*.trans.txt); unpack the corpus again")
    return wanted or there


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder that holds train-clean-100, dev-clean, ..."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests and config.yaml")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all that are there)")
    parser.add_argument("--lowercase", action="store_true", help='"THE LAW" -> "the law", in every split')
    add_cleaning_arguments(parser, texts=False)
    args = parser.parse_args(argv)
    cleaning = cleaning_options(args, parser)
    try:
        data_root = args.data_root.absolute()
        splits = find_splits(data_root, args.splits)
        args.out.mkdir(parents=True, exist_ok=True)
        for split in splits:
            print(prepare_split(data_root, split, args.out, cleaning, args.lowercase), flush=True)
    except (PrepError, ManifestError) as error:
        sys.exit(f"error: {error}")
    write_config(args.out, LANGUAGE)


if __name__ == "__main__":
    main()
