"""MuST-C (v1, v2 or v3): ROOT/en-LANG/data/SPLIT/{wav,txt}."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from lst_fairseq.corpora.base import Corpus, Split, Utterance, register_corpus
from lst_fairseq.corpora.cleaning import CleaningOptions
from lst_fairseq.corpora.preparation import PrepError, read_lines
from lst_fairseq.data.audio import AudioError, AudioInfo, Segment
from lst_fairseq.data.manifest import audio_headers
from lst_fairseq.utils.flags import setting
from lst_fairseq.utils.text_files import read_text

FIRST_SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
REMEDY = "a split has SPLIT.yaml, SPLIT.en and SPLIT.LANG in its txt folder"

# MuST-C's own shape: "- {duration: 3.5, offset: 16.08, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_1.wav}". Anything
# else (quotes, nested values, a key on a line of its own) is left to a YAML parser, which takes several times as long.
_FIELD = r"(\w+):\s+([^\s,{}\[\]'\"&*!|>%@`#]+)"
_PLAIN_FIELD = re.compile(_FIELD)
_PLAIN_LINE = re.compile(rf"-\s+\{{{_FIELD}(?:,\s+{_FIELD})*\}}\s*")


def read_segments(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields (all as text) of each segment of a MuST-C YAML file."""
    text = read_text(path, REMEDY)
    segments = []
    for number, line in enumerate(text.split("\n"), start=1):
        if _PLAIN_LINE.fullmatch(line):
            segments.append((number, dict(_PLAIN_FIELD.findall(line))))
        elif line.strip():
            return list(_parse_segments(path, text))
    return segments


def _parse_segments(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The same for any YAML list of flat mappings, from parser events: a corpus as a node tree takes gigabytes."""
    remedy = "the file has to be a list of mappings with duration, offset, speaker_id and wav"
    depth, line, scalars = 0, 0, []
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            match event:
                case yaml.SequenceStartEvent() if depth == 0:
                    depth = 1
                case yaml.MappingStartEvent() if depth == 1:
                    depth, line, scalars = 2, event.start_mark.line + 1, []
                case yaml.ScalarEvent() if depth == 2:
                    scalars.append(event.value)
                case yaml.MappingEndEvent() if depth == 2:
                    depth = 1
                    yield line, dict(zip(scalars[::2], scalars[1::2], strict=True))
                case yaml.SequenceEndEvent() if depth == 1:
                    depth = 0
                case yaml.NodeEvent():
                    raise PrepError(f"{path}:{event.start_mark.line + 1}: not a segment; {remedy}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise PrepError(
            f"{path}:{line}: not YAML ({getattr(error, 'problem', error)}); {remedy}"
        ) from None


def locate(
    where: str, fields: dict[str, str], wav: str, info: AudioInfo, max_clip_seconds: float
) -> tuple[int, int, bool]:
    """First sample, number of samples, and whether the end had to be moved to the end of the wav.

    ``where`` is the YAML file and line, for errors: no number, a negative one, or a segment beyond the end.
    """
    try:
        offset, duration = float(fields["offset"]), float(fields["duration"])
        start, frames = round(offset * info.rate), round(duration * info.rate)
    except (ValueError, OverflowError):  # not a number, NaN, infinite
        raise PrepError(
            f"{where}: offset {fields['offset']!r} and duration {fields['duration']!r} have to be seconds; "
            "unpack the corpus again"
        ) from None
    if start < 0 or frames < 0:
        raise PrepError(
            f"{where}: offset {offset} and duration {duration} must not be negative; correct the line"
        )
    over = start + frames - info.frames
    if over > max(1, max_clip_seconds * info.rate) or start >= info.frames:
        raise PrepError(
            f"{where}: the segment ends at {offset + duration:.3f} s, {over / info.rate:.3f} s after the end of {wav} "
            f"({info.frames / info.rate:.3f} s); is the wav cut short, or of another release? "
            "--max-clip-seconds allows for more"
        )
    return start, frames - max(0, over), over > 0


@register_corpus("mustc")
@dataclass(frozen=True, kw_only=True)
class MustC(Corpus):
    """MuST-C (v1, v2 or v3: ROOT/en-LANG/data/SPLIT/{wav,txt}).

    examples:
      lst prep mustc --data-root /data/MUST-C --tgt-lang de --out data/mustc-de
      lst prep mustc --data-root /data/MUST-C --tgt-lang fr --out data/mustc-fr --splits train dev \\
          --max-seconds 20
      lst prep mustc --data-root /data/MUST-C --tgt-lang es --out data/mustc-es \\
          --clean-speaker-labels --clean-stage-directions --max-length-ratio 3

    Audio is not copied: a line names the talk's wav, the first sample and the number of samples, from
    the YAML alone, and each wav's header is read once to check them. 230,000 segments take less than
    a minute.
    """

    data_root: Path = setting("folder that holds en-LANG/")
    tgt_lang: str = setting("target language: any code for which en-CODE/ is there")
    max_clip_seconds: float = setting(
        "a segment may end this much after its wav (the YAML rounds); its end is moved then", 0.01
    )
    groups = "talks"
    layout = "SPLIT/txt/SPLIT.yaml"
    cleaning = CleaningOptions(drop_empty=True, min_seconds=0.1, max_seconds=30.0)

    @property
    def place(self) -> Path:
        """ROOT/en-LANG/data, or an error that lists the languages there are."""
        data = Path(self.data_root) / f"en-{self.tgt_lang}" / "data"
        if not data.is_dir():
            there = (path.parent.name for path in Path(self.data_root).glob("en-*/data"))
            languages = ", ".join(sorted(name.removeprefix("en-") for name in there))
            raise PrepError(
                f"{data}: no such folder; target languages in {self.data_root}: "
                f"{languages or 'none, is it the right folder?'}"
            )
        return data

    def splits(self) -> list[str]:
        """MuST-C's own first."""
        files = self.place.glob("*/txt/*.yaml")
        there = {path.stem for path in files if path.stem == path.parent.parent.name}
        own = [split for split in FIRST_SPLITS if split in there]
        return own + sorted(there.difference(own))

    def group(self, utterance: Utterance) -> str:
        return utterance.audio.path

    def read(self, split: str, out: Path) -> Split:
        txt = self.place / split / "txt"
        yaml_file = txt / f"{split}.yaml"
        files = [txt / f"{split}.en", txt / f"{split}.{self.tgt_lang}"]
        segments = read_segments(yaml_file)
        source, target = (read_lines(file, REMEDY) for file in files)
        if not len(segments) == len(source) == len(target):
            raise PrepError(
                f"{yaml_file} has {len(segments)} segments, {files[0]} {len(source)} lines and "
                f"{files[1]} {len(target)}; they have to agree, unpack the corpus again"
            )
        for line, fields in segments:
            if missing := [key for key in ("duration", "offset", "wav") if not fields.get(key)]:
                names = ", ".join(missing)
                raise PrepError(
                    f"{yaml_file}:{line}: the segment has no {names}; unpack the corpus again"
                )
        if not segments:
            raise PrepError(f"{yaml_file}: holds no segment; unpack the corpus again")
        wav_root = txt.parent / "wav"
        wavs = {f["wav"]: os.path.abspath(wav_root / f["wav"]) for _, f in segments}
        headers = audio_headers(wavs.values(), f"{split}: wav headers")
        number_in_talk: Counter[str] = Counter()

        def utterances() -> Iterator[Utterance]:
            for (line, fields), src_text, tgt_text in zip(segments, source, target, strict=True):
                where, wav = f"{yaml_file}:{line}", wavs[fields["wav"]]
                info = headers[wav]
                if isinstance(info, AudioError):
                    raise PrepError(f"{where}: {info}")
                start, frames, moved = locate(where, fields, wav, info, self.max_clip_seconds)
                # Counted in the whole corpus, so that an id does not depend on what is left out.
                stem = os.path.splitext(os.path.basename(fields["wav"]))[0]
                number = number_in_talk[stem]
                number_in_talk[stem] += 1
                yield Utterance(
                    where=where,
                    id=f"{stem}_{number}",
                    audio=Segment(wav, start, frames),
                    frames=frames,
                    seconds=frames / info.rate,
                    src_text=src_text,
                    tgt_text=tgt_text,
                    speaker=fields.get("speaker_id", ""),
                    note="ends moved to the end of the wav" if moved else "",
                )

        return Split(utterances(), len(segments))
