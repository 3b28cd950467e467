"""CoVoST 2: translations of Common Voice, X to English or English to X."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lst_fairseq.corpora.base import Corpus, Split, Utterance, register_corpus
from lst_fairseq.corpora.preparation import PrepError, is_train, stored_audio_headers
from lst_fairseq.data.audio import AudioError, AudioInfo, Segment
from lst_fairseq.utils.flags import setting
from lst_fairseq.utils.text_files import read_text

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


def read_table(
    path: Path, columns: tuple[str, ...], remedy: str
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the given columns of each line of a tab separated file of CoVoST or Common Voice.

    There are no quotes, and a backslash stands before a character that would be taken for one, as in CoVoST's own
    script. Raises PrepError where a column is not there or a line has another number of fields.
    """
    lines = read_text(path, remedy).split("\n")
    names = lines[0].rstrip("\r").split("\t")
    if missing := [column for column in columns if column not in names]:
        raise PrepError(
            f"{path}:1: no column {', '.join(missing)}; found: {', '.join(names)}; {remedy}"
        )
    positions = [names.index(column) for column in columns]
    for number, line in enumerate(lines[1:], start=2):
        line = line.rstrip("\r")
        if not line:
            continue
        fields = line.split("\t")
        if len(fields) != len(names):
            raise PrepError(
                f"{path}:{number}: {len(fields)} fields where the header has {len(names)}; {remedy}"
            )
        yield number, tuple(_ESCAPED.sub(r"\1", fields[position]).strip() for position in positions)


def check_clips(
    split: str, clips: list[Clip], headers: list[AudioInfo | AudioError], skip_missing: bool
) -> Counter[str]:
    """Refuse clips that cannot be read, or count them by reason and name the first of each on standard error."""
    both = zip(clips, headers, strict=True)
    bad = [(clip, header) for clip, header in both if isinstance(header, AudioError)]
    reasons = Counter(error.reason for _, error in bad)
    if not bad:
        return reasons
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not skip_missing or len(bad) == len(clips):
        clip, error = bad[0]
        remedy = "; --skip-missing leaves them out" if len(bad) < len(clips) else ""
        raise PrepError(
            f"{clip.where}: {error} ({len(bad)} of {len(clips)} clips of {split}: {counts}{remedy})"
        )
    for reason in reasons:
        named = [f"{clip.path} ({clip.where})" for clip, error in bad if error.reason == reason]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        print(f"{split}: {reason}: {', '.join(named[:5])}{more}", file=sys.stderr)
    if not is_train(split):
        print(
            f"warning: {split} is not complete: its scores compare with no others", file=sys.stderr
        )
    return reasons


@register_corpus("covost")
@dataclass(frozen=True, kw_only=True)
class Covost(Corpus):
    """CoVoST 2: translations of Common Voice, X to English or English to X.

    examples:
      lst prep covost --covost /data/covost2 --common-voice /data/cv-corpus-4/en --src-lang en \\
          --tgt-lang de --out data/covost-en-de --min-seconds 0.1 --max-seconds 30 --drop-empty
      lst prep covost --covost /data/covost2 --common-voice /data/cv-corpus-4/fr --src-lang fr \\
          --tgt-lang en --out data/covost-fr-en --splits train dev --skip-missing

    COVOST holds either covost_v2.SRC_TGT.SPLIT.tsv for each split, as CoVoST's get_covost_splits.py
    writes them (columns path, sentence, translation, client_id), or its download,
    covost_v2.SRC_TGT.tsv, which is then joined with Common Voice's validated.tsv. Clips are mp3 files
    in COMMON_VOICE/clips, neither copied nor converted: they are resampled when they are read. An mp3
    without a Xing or Info tag does not tell its length and is refused; to write the tag without
    touching the audio, into another folder that --clips then names:

        mkdir tagged && ls clips | xargs -P 8 -I {} ffmpeg -loglevel error -i clips/{} -c copy tagged/{}

    Every clip's header is read once and kept in OUT/headers.txt, so that a run that was interrupted
    goes on from there, and another one takes seconds.
    """

    covost: Path = setting("folder with covost_v2.SRC_TGT*.tsv")
    common_voice: Path = setting("folder of the source language, with clips/ and validated.tsv")
    clips: Path | None = setting("folder of the mp3 files", None, unset="COMMON_VOICE/clips")
    src_lang: str = setting("source language, as in the tables' names: en, fr, zh-CN, ...")
    tgt_lang: str = setting("target language, likewise; one of the two is en")
    skip_missing: bool = setting(
        "leave out clips that are missing or cannot be read, count and name them, instead of stopping",
        False,
    )
    layout = "covost_v2.SRC_TGT.SPLIT.tsv"

    @property
    def place(self) -> Path:
        """COVOST/covost_v2.SRC_TGT, with which the tables' names begin."""
        return Path(self.covost) / f"covost_v2.{self.src_lang}_{self.tgt_lang}"

    def _table(self, split: str = "") -> Path:
        """What CoVoST's script wrote of a split, or its download."""
        return Path(f"{self.place}.{split}.tsv" if split else f"{self.place}.tsv")

    def splits(self) -> list[str]:
        """Those that have a table of their own; all of them where there is the download."""
        there = [split for split in SPLITS if self._table(split).is_file()]
        if not there and not self._table().is_file():
            pairs = sorted(
                {path.name.split(".")[1] for path in Path(self.covost).glob("covost_v2.*.tsv")}
            )
            raise PrepError(
                f"{self._table()}: no such file, and none a split beside it; language pairs in "
                f"{self.covost}: {', '.join(pairs) or 'none, is it the right folder?'}"
            )
        if not self._clip_root().is_dir():
            raise PrepError(
                f"{self._clip_root()}: no such folder; --clips names the folder of the mp3 files"
            )
        return there or list(SPLITS)

    def _clip_root(self) -> Path:
        return Path(self.clips or Path(self.common_voice) / "clips").absolute()

    def read(self, split: str, out: Path) -> Split:
        clips = self._clips(split)
        if not clips:
            raise PrepError(
                f"{self.place}: {split} has no clip; is Common Voice of the right release and language?"
            )
        root = self._clip_root()
        paths = [str(root / (c.path if "." in c.path else f"{c.path}.mp3")) for c in clips]
        headers = stored_audio_headers(paths, out / "headers.txt", f"{split}: mp3 headers")
        found = [headers[path] for path in paths]
        unusable = check_clips(split, clips, found, self.skip_missing)

        def utterances() -> Iterator[Utterance]:
            for clip, path, info in zip(clips, paths, found, strict=True):
                if isinstance(info, AudioInfo):
                    yield Utterance(
                        where=clip.where,
                        id=Path(clip.path).stem,
                        audio=Segment(path),
                        frames=info.frames,
                        seconds=info.frames / info.rate,
                        src_text=clip.sentence,
                        tgt_text=clip.translation,
                        speaker=clip.speaker,
                    )

        counts = ", ".join(f"{count} {reason}" for reason, count in unusable.most_common())
        return Split(utterances(), len(clips), f"; clips left out: {counts}" if counts else "")

    def _clips(self, split: str) -> list[Clip]:
        """The clips of a split, in the order of its table."""
        table = self._table(split)
        if table.is_file():
            columns = ("path", "sentence", "translation", "client_id")
            rows = read_table(table, columns, "make it again with CoVoST's get_covost_splits.py")
            return [Clip(f"{table}:{line}", *fields) for line, fields in rows]
        # As CoVoST's own script has it: train_covost are clips of train that Common Voice has elsewhere.
        names = {split, f"{split}_covost"} if split == "train" else {split}
        table, validated = self._table(), Path(self.common_voice) / "validated.tsv"
        rows = read_table(table, ("path", "translation", "split"), "download CoVoST 2 again")
        translations = {path: (line, text) for line, (path, text, name) in rows if name in names}
        remedy = "it comes with Common Voice in the source language, or make CoVoST's tables a split first"
        clips = {}
        for _, (path, sentence, speaker) in read_table(
            validated, ("path", "sentence", "client_id"), remedy
        ):
            if path in translations:
                line, translation = translations[path]
                clips[path] = Clip(f"{table}:{line}", path, sentence, translation, speaker)
        if absent := [path for path in translations if path not in clips]:
            line = translations[absent[0]][0]
            print(
                f"{split}: {len(absent)} of {len(translations)} clips are not in {validated}, the "
                f"first being {absent[0]} ({table}:{line}); CoVoST 2 was made from Common Voice 4",
                file=sys.stderr,
            )
        return [clips[path] for path in translations if path in clips]
