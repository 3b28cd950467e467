#!/usr/bin/env python3
"""Write fairseq manifests for a MuST-C corpus (v1, v2 or v3: ROOT/en-LANG/data/SPLIT/{wav,txt}).

    python scripts/prep_mustc.py --data-root /data/MUST-C --tgt-lang de --out data/mustc-de
    python scripts/prep_mustc.py --data-root /data/MUST-C --tgt-lang fr --out data/mustc-fr --splits train dev \\
        --max-seconds 20
    python scripts/prep_mustc.py --data-root /data/MUST-C --tgt-lang es --out data/mustc-es \\
        --clean-speaker-labels --clean-stage-directions --max-length-ratio 3

Writes OUT/SPLIT.tsv for each split and OUT/config.yaml. Audio is not copied: a line names the talk's wav, the first
sample and the number of samples, from the YAML alone, and each wav's header is read once to check them. Only train is
ever filtered or cleaned, and each reason is counted; dev and test segments are all kept as they are. Running again
writes the same files again, each of them whole or not at all; 230,000 segments take less than a minute.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.cleaning import Cleaner, CleaningOptions, add_cleaning_arguments, cleaning_options
from lst_fairseq.corpora.preparation import PrepError, is_train, read_lines, read_text, write_config
from lst_fairseq.data.audio import AudioError, AudioInfo
from lst_fairseq.data.manifest import ManifestError, audio_headers, write_manifest
from lst_fairseq.utils.files import file_errors_in_one_line

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
        raise PrepError(f"{path}:{line}: not YAML ({getattr(error, 'problem', error)}); {remedy}") from None


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
        raise PrepError(f"{where}: offset {offset} and duration {duration} must not be negative; correct the line")
    over = start + frames - info.frames
    if over > max(1, max_clip_seconds * info.rate) or start >= info.frames:
        raise PrepError(
            f"{where}: the segment ends at {offset + duration:.3f} s, {over / info.rate:.3f} s after the end of {wav} "
            f"({info.frames / info.rate:.3f} s); is the wav cut short, or of another release? "
            "--max-clip-seconds allows for more"
        )
    return start, frames - max(0, over), over > 0


def prepare_split(data: Path, split: str, lang: str, out: Path, cleaning: CleaningOptions, max_clip: float) -> str:
    """Write OUT/SPLIT.tsv and return a line that says what is in it."""
    txt, wav_root = data / split / "txt", data / split / "wav"
    yaml_file, files = txt / f"{split}.yaml", [txt / f"{split}.en", txt / f"{split}.{lang}"]
    segments = read_segments(yaml_file)
    source, target = (read_lines(file, REMEDY) for file in files)
    if not len(segments) == len(source) == len(target):
        raise PrepError(
            f"{yaml_file} has {len(segments)} segments, {files[0]} {len(source)} lines and {files[1]} {len(target)}; "
            "they have to agree, unpack the corpus again"
        )
    for line, fields in segments:
        if missing := [key for key in ("duration", "offset", "wav") if not fields.get(key)]:
            raise PrepError(f"{yaml_file}:{line}: the segment has no {', '.join(missing)}; unpack the corpus again")
    if not segments:
        raise PrepError(f"{yaml_file}: holds no segment; unpack the corpus again")
    wavs = {fields["wav"]: os.path.abspath(wav_root / fields["wav"]) for _, fields in segments}
    headers = audio_headers(wavs.values(), f"{split}: wav headers")

    cleaner = Cleaner(cleaning) if is_train(split) else None
    number_in_talk: Counter[str] = Counter()
    seconds, clipped = 0.0, 0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal seconds, clipped
        texts = zip(segments, source, target, strict=True)
        for (line, fields), src_text, tgt_text in tqdm(texts, split, len(segments), unit="seg", delay=2, leave=False):
            where, wav = f"{yaml_file}:{line}", wavs[fields["wav"]]
            info = headers[wav]
            if isinstance(info, AudioError):
                raise PrepError(f"{where}: {info}")
            start, frames, moved = locate(where, fields, wav, info, max_clip)
            # Counted before anything is left out, so that a segment's id does not depend on the options.
            stem = os.path.splitext(os.path.basename(fields["wav"]))[0]
            number = number_in_talk[stem]
            number_in_talk[stem] += 1
            if cleaner is not None:
                cleaned = cleaner.clean(src_text, tgt_text, frames / info.rate)
                if cleaned is None:
                    continue
                src_text, tgt_text = cleaned
            elif not frames:
                raise PrepError(f"{where}: the segment has no samples, and of {split} nothing is left out; correct it")
            seconds += frames / info.rate
            clipped += moved
            yield {
                "id": f"{stem}_{number}",
                "audio": f"{wav}:{start}:{frames}",
                "n_frames": frames,
                "src_text": src_text,
                "tgt_text": tgt_text,
                "speaker": fields.get("speaker_id", ""),
                "src_lang": "en",
                "tgt_lang": lang,
                "task": "st",
            }

    kept = write_manifest(out / f"{split}.tsv", rows())
    report = f"{split}: {kept} segments, {len(wavs)} talks, {seconds / 3600:.2f} h"
    if clipped:
        report += f", {clipped} ends moved to the end of the wav"
    return report + (cleaner.summary(len(segments)) if cleaner else "")


def find_splits(data: Path, wanted: list[str] | None) -> list[str]:
    """Names of the splits to prepare: those wanted, or all that lie there, MuST-C's own first."""
    there = sorted(
        path.parent.parent.name for path in data.glob("*/txt/*.yaml") if path.stem == path.parent.parent.name
    )
    if missing := [split for split in wanted or [] if split not in there]:
        raise PrepError(f"{data}: no split {', '.join(missing)}; there are: {', '.join(there) or 'none'}")
    if not there:
        raise PrepError(f"{data}: no split (SPLIT/txt/SPLIT.yaml); unpack the corpus again")
    return wanted or sorted(there, key=lambda split: (FIRST_SPLITS.index(split) if split in FIRST_SPLITS else 9, split))


def find_data(root: Path, lang: str) -> Path:
    """ROOT/en-LANG/data, or an error that lists the languages there are."""
    data = root / f"en-{lang}" / "data"
    if not data.is_dir():
        there = sorted(path.parent.name.removeprefix("en-") for path in root.glob("en-*/data"))
        raise PrepError(
            f"{data}: no such folder; target languages in {root}: {', '.join(there) or 'none, is it the right folder?'}"
        )
    return data


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds en-LANG/")
    parser.add_argument("--tgt-lang", required=True, help="target language: any code for which en-CODE/ is there")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests and config.yaml")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all that are there)")
    parser.add_argument(
        "--max-clip-seconds",
        type=float,
        default=0.01,
        help="a segment may end this much after its wav (the YAML rounds); its end is moved then (%(default)s)",
    )
    add_cleaning_arguments(parser, min_seconds=0.1, max_seconds=30.0, drop_empty=True)
    args = parser.parse_args(argv)
    cleaning = cleaning_options(args, parser)
    try:
        data = find_data(args.data_root, args.tgt_lang)
        args.out.mkdir(parents=True, exist_ok=True)
        for split in find_splits(data, args.splits):
            report = prepare_split(data, split, args.tgt_lang, args.out, cleaning, args.max_clip_seconds)
            print(report, flush=True)
    except (PrepError, ManifestError) as error:
        sys.exit(f"error: {error}")
    write_config(args.out, args.tgt_lang)


if __name__ == "__main__":
    main()
