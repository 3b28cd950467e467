#!/usr/bin/env python3
"""Write fairseq manifests for CoVoST 2: translations of Common Voice, X to English or English to X.

    python scripts/prep_covost.py --covost /data/covost2 --common-voice /data/cv-corpus-4/en --src-lang en \\
        --tgt-lang de --out data/covost-en-de --min-seconds 0.1 --max-seconds 30 --drop-empty
    python scripts/prep_covost.py --covost /data/covost2 --common-voice /data/cv-corpus-4/fr --src-lang fr \\
        --tgt-lang en --out data/covost-fr-en --splits train dev --skip-missing

COVOST holds either covost_v2.SRC_TGT.SPLIT.tsv for each split, as CoVoST's get_covost_splits.py writes them (columns
path, sentence, translation, client_id), or its download, covost_v2.SRC_TGT.tsv, which is then joined with Common
Voice's validated.tsv. Clips are mp3 files in COMMON_VOICE/clips, neither copied nor converted: they are resampled when
they are read. An mp3 without a Xing or Info tag does not tell its length and is refused; to write the tag without
touching the audio, into another folder that --clips then names:

    mkdir tagged && ls clips | xargs -P 8 -I {} ffmpeg -loglevel error -i clips/{} -c copy tagged/{}

Writes OUT/SPLIT.tsv for each split and OUT/config.yaml. Every clip's header is read once and kept in OUT/headers.txt,
so that a run that was interrupted goes on from there, and another one takes seconds.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.cleaning import Cleaner, CleaningOptions, add_cleaning_arguments, cleaning_options
from lst_fairseq.corpora.preparation import PrepError, is_train, read_text, stored_audio_headers, write_config
from lst_fairseq.data.audio import AudioError, AudioInfo, Segment
from lst_fairseq.data.manifest import ManifestError, write_manifest
from lst_fairseq.utils.files import file_errors_in_one_line

SPLITS = ("train", "dev", "test")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Clip:
    """One translated recording, and the line of the file that names it."""

    where: str  # FILE:LINE
    path: str  # of the mp3, as Common Voice names it
    sentence: str
    translation: str
    speaker: str


def read_table(path: Path, columns: tuple[str, ...], remedy: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the given columns of each line of a tab separated file of CoVoST or Common Voice.

    There are no quotes, and a backslash stands before a character that would be taken for one, as in CoVoST's own
    script. Raises PrepError where a column is not there or a line has another number of fields.
    """
    lines = read_text(path, remedy).split("\n")
    names = lines[0].rstrip("\r").split("\t")
    if missing := [column for column in columns if column not in names]:
        raise PrepError(f"{path}:1: no column {', '.join(missing)}; found: {', '.join(names)}; {remedy}")
    positions = [names.index(column) for column in columns]
    for number, line in enumerate(lines[1:], start=2):
        line = line.rstrip("\r")
        if not line:
            continue
        fields = line.split("\t")
        if len(fields) != len(names):
            raise PrepError(f"{path}:{number}: {len(fields)} fields where the header has {len(names)}; {remedy}")
        yield number, tuple(_ESCAPED.sub(r"\1", fields[position]).strip() for position in positions)


class Corpus:
    """The translations of one language pair.

    Args:
        covost: folder of CoVoST's tables.
        common_voice: folder of Common Voice in the source language.
        pair: ``SRC_TGT``.
    """

    def __init__(self, covost: Path, common_voice: Path, pair: str):
        self.pair = pair
        self.split_tables = {split: covost / f"covost_v2.{pair}.{split}.tsv" for split in SPLITS}
        self.split_tables = {split: path for split, path in self.split_tables.items() if path.is_file()}
        self.table, self.validated = covost / f"covost_v2.{pair}.tsv", common_voice / "validated.tsv"
        if not self.split_tables and not self.table.is_file():
            there = sorted({path.name.split(".")[1] for path in covost.glob("covost_v2.*.tsv")})
            raise PrepError(
                f"{self.table}: no such file, and none a split beside it; language pairs in {covost}: "
                f"{', '.join(there) or 'none, is it the right folder?'}"
            )

    def splits(self, wanted: list[str] | None) -> list[str]:
        """Names of the splits to prepare: those wanted, or all there are."""
        there = list(self.split_tables) or list(SPLITS)
        if missing := [split for split in wanted or [] if split not in there]:
            raise PrepError(f"--splits {' '.join(missing)}: not there; {self.pair} has: {', '.join(there)}")
        return wanted or there

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split, in the order of its table."""
        if self.split_tables:
            path = self.split_tables[split]
            columns = ("path", "sentence", "translation", "client_id")
            rows = read_table(path, columns, "make it again with CoVoST's get_covost_splits.py")
            return [Clip(f"{path}:{line}", *fields) for line, fields in rows]
        # As CoVoST's own script has it: train_covost are clips of train that Common Voice has elsewhere.
        names = {split, f"{split}_covost"} if split == "train" else {split}
        rows = read_table(self.table, ("path", "translation", "split"), "download CoVoST 2 again")
        translations = {path: (line, text) for line, (path, text, name) in rows if name in names}
        remedy = "it comes with Common Voice in the source language, or make CoVoST's tables a split first"
        clips = {}
        for _, (path, sentence, speaker) in read_table(self.validated, ("path", "sentence", "client_id"), remedy):
            if path in translations:
                line, translation = translations[path]
                clips[path] = Clip(f"{self.table}:{line}", path, sentence, translation, speaker)
        if absent := [path for path in translations if path not in clips]:
            line = translations[absent[0]][0]
            print(
                f"{split}: {len(absent)} of {len(translations)} clips are not in {self.validated}, the first being "
                f"{absent[0]} ({self.table}:{line}); CoVoST 2 was made from Common Voice 4",
                file=sys.stderr,
            )
        return [clips[path] for path in translations if path in clips]


def check_clips(split: str, clips: list[Clip], errors: list[AudioError | None], skip_missing: bool) -> Counter[str]:
    """Refuse clips that cannot be read, or count them by reason and name the first of each on standard error."""
    bad = [(clip, error) for clip, error in zip(clips, errors, strict=True) if error is not None]
    reasons = Counter(error.reason for _, error in bad)
    if not bad:
        return reasons
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not skip_missing or len(bad) == len(clips):
        clip, error = bad[0]
        remedy = "; --skip-missing leaves them out" if len(bad) < len(clips) else ""
        raise PrepError(f"{clip.where}: {error} ({len(bad)} of {len(clips)} clips of {split}: {counts}{remedy})")
    for reason in reasons:
        named = [f"{clip.path} ({clip.where})" for clip, error in bad if error.reason == reason]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        print(f"{split}: {reason}: {', '.join(named[:5])}{more}", file=sys.stderr)
    if not is_train(split):
        print(f"warning: {split} is not complete: its scores compare with no others", file=sys.stderr)
    return reasons


def prepare_split(
    corpus: Corpus, split: str, clip_root: Path, out: Path, cleaning: CleaningOptions, skip_missing: bool
) -> str:
    """Write OUT/SPLIT.tsv and return a line that says what is in it."""
    clips = corpus.clips(split)
    if not clips:
        raise PrepError(f"{corpus.pair}: {split} has no clip; is Common Voice of the right release and language?")
    paths = [str(clip_root / (clip.path if "." in clip.path else f"{clip.path}.mp3")) for clip in clips]
    headers = stored_audio_headers(paths, out / "headers.txt", f"{split}: mp3 headers")
    errors = [header if isinstance(header, AudioError) else None for header in map(headers.get, paths)]
    unusable = check_clips(split, clips, errors, skip_missing)
    cleaner = Cleaner(cleaning) if is_train(split) else None
    src_lang, tgt_lang = corpus.pair.split("_")
    seconds, speakers = 0.0, set()

    def rows() -> Iterator[dict[str, object]]:
        nonlocal seconds
        for clip, path in zip(clips, paths, strict=True):
            info = headers[path]
            if not isinstance(info, AudioInfo):
                continue
            texts = (clip.sentence, clip.translation)
            if cleaner is not None:
                texts = cleaner.clean(*texts, info.frames / info.rate)
                if texts is None:
                    continue
            seconds += info.frames / info.rate
            speakers.add(clip.speaker)
            yield {
                "id": Path(clip.path).stem,
                "audio": str(Segment(path)),
                "n_frames": info.frames,
                "src_text": texts[0],
                "tgt_text": texts[1],
                "speaker": clip.speaker,
                "src_lang": src_lang,
                "tgt_lang": tgt_lang,
                "task": "st",
            }

    kept = write_manifest(out / f"{split}.tsv", rows())
    report = f"{split}: {kept} segments, {len(speakers)} speakers, {seconds / 3600:.2f} h"
    if unusable:
        counts = ", ".join(f"{count} {reason}" for reason, count in unusable.most_common())
        report += f"; clips left out: {counts}"
    return report + (cleaner.summary(len(clips)) if cleaner else "")


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--covost", type=Path, required=True, help="folder with covost_v2.SRC_TGT*.tsv")
    parser.add_argument(
        "--common-voice", type=Path, required=True, help="folder of the source language, with clips/ and validated.tsv"
    )
    parser.add_argument("--clips", type=Path, help="folder of the mp3 files (default: COMMON_VOICE/clips)")
    parser.add_argument(
        "--src-lang", required=True, help="source language, as in the tables' names: en, fr, zh-CN, ..."
    )
    parser.add_argument("--tgt-lang", required=True, help="target language, likewise; one of the two is en")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests and config.yaml")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", choices=SPLITS, help="only these (default: all there are)"
    )
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="leave out clips that are missing or cannot be read, count and name them, instead of stopping",
    )
    add_cleaning_arguments(parser)
    args = parser.parse_args(argv)
    cleaning = cleaning_options(args, parser)
    try:
        corpus = Corpus(args.covost, args.common_voice, f"{args.src_lang}_{args.tgt_lang}")
        clip_root = (args.clips or args.common_voice / "clips").absolute()
        if not clip_root.is_dir():
            raise PrepError(f"{clip_root}: no such folder; --clips names the folder of the mp3 files")
        splits = corpus.splits(args.splits)
        args.out.mkdir(parents=True, exist_ok=True)
        for split in splits:
            print(prepare_split(corpus, split, clip_root, args.out, cleaning, args.skip_missing), flush=True)
    except (PrepError, ManifestError) as error:
        sys.exit(f"error: {error}")
    write_config(args.out, args.tgt_lang)


if __name__ == "__main__":
    main()
