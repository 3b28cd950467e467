#!/usr/bin/env python3
"""Check manifests: missing audio, segments beyond its end, suspicious texts, duplicates, training data in test data.

    python scripts/check_manifest.py data/mustc-de/train.tsv data/mustc-de/dev.tsv data/mustc-de/tst-COMMON.tsv
    python scripts/check_manifest.py data/mustc-de                    # every .tsv in the folder
    python scripts/check_manifest.py --audio-root /corpora --json report.json --show 20 my/train.tsv my/dev.tsv

A manifest is tab separated with the columns id, audio (PATH or PATH:OFFSET:FRAMES, empty for text alone), n_frames,
tgt_text and, where known, src_text, speaker, src_lang, tgt_lang, task. Every kind of finding is counted, and the first
lines of each are named. Manifests whose name begins with "train" are compared with the others, by audio and by text.

    error    training or decoding would stop, or the scores would be void (train and test share audio)
    warning  worth a look: much of it is normal in small numbers ("OK." is "OK." in most languages)
    note     handled when the data is read

Audio is refused as training would: missing, cut short, more than the header tells of. Mono wav costs a header a file;
compressed files are read to their end, and segments of several channels decoded: --headers-only leaves that out.

Exit status: 1 if there is any error, else 0.
"""

import argparse
import html
import json
import math
import os
import re
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.preparation import PrepError, is_train, read_text
from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, AudioInfo, Segment, in_opposite_phase, segment_samples
from lst_fairseq.data.manifest import COLUMNS, REQUIRED_COLUMNS, audio_headers, unescaped
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line

LEVELS = ("error", "warning", "note")
TOLD_BEFORE = ("beyond the end", "empty segment")
OPPOSITE_PHASE = "channels in opposite phase, of which the loudest is read alone"
#: Ratios of lengths mean nothing where the longer text has fewer characters.
SHORT_TEXT = 20
# Control characters without the tab, which no field can hold, and what has no width or turns the writing direction.
_CONTROLS = "\x00-\x08\x0a-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_MAYBE_SUSPICIOUS = re.compile(f"[{_CONTROLS}\ufffd<&]")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:#\d+|#[xX][0-9A-Fa-f]+|[A-Za-z]\w{1,30});")
_WORD = re.compile(r"\w")


@dataclass(slots=True)
class Finding:
    """One kind of finding in one manifest."""

    level: str
    kind: str
    count: int = 0
    lines: list[str] = field(default_factory=list)  # the first ones, as "FILE:LINE: detail"


@dataclass(slots=True)
class Line:
    """What is kept of a line for comparisons."""

    number: int
    segment: Segment | None  # None: text alone, or it could not be read
    src_text: str
    tgt_text: str


class Report:
    """The findings in one manifest, in the order in which they were met.

    Args:
        path: the manifest.
        show: how many lines to name of each kind.
    """

    def __init__(self, path: Path, show: int):
        self.path = path
        self.show = show
        self.segments = 0
        self.seconds = 0.0
        self.files = 0
        self.findings: dict[str, Finding] = {}
        self.lines: list[Line] = []

    def add(self, level: str, kind: str, number: int, detail: str = "") -> None:
        """Count one more finding of a kind."""
        finding = self.findings.setdefault(kind, Finding(level, kind))
        finding.count += 1
        if len(finding.lines) < self.show:
            finding.lines.append(f"{self.path}:{number}" + (f": {detail}" if detail else ""))

    def count(self, level: str) -> int:
        """Findings of a level."""
        return sum(finding.count for finding in self.findings.values() if finding.level == level)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "manifest": str(self.path),
            "segments": self.segments,
            "hours": round(self.seconds / 3600, 4),
            "audio_files": self.files,
            "findings": [
                {"level": f.level, "kind": f.kind, "count": f.count, "lines": f.lines} for f in self.sorted_findings()
            ],
        }

    def sorted_findings(self) -> list[Finding]:
        """Errors first, then by number."""
        return sorted(self.findings.values(), key=lambda f: (LEVELS.index(f.level), -f.count))


def rows(report: Report) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of every line that can be split into columns; the others are findings."""
    try:
        text = read_text(report.path, "prepare the data first or check the path")
    except PrepError as error:
        report.add("error", "cannot be read", 1, str(error).removeprefix(f"{report.path}: "))
        return
    lines = check_backslashes(report, text).split("\n")
    names = lines[0].removesuffix("\r").split("\t")
    missing = [column for column in REQUIRED_COLUMNS if column not in names]
    doubled = [column for column, times in Counter(names).items() if times > 1]
    if missing or doubled:
        problem = f"no column {', '.join(missing)}" if missing else f"column {', '.join(doubled)} twice"
        report.add("error", "bad header", 1, f"{problem}; found: {', '.join(names)}; columns are {', '.join(COLUMNS)}")
        return
    for number, line in enumerate(lines[1:], start=2):
        line = line.removesuffix("\r")
        if not line.strip(" "):
            continue
        fields = line.split("\t")
        if len(fields) == len(names):
            yield number, dict(zip(names, fields, strict=True))
        else:
            report.add("error", "wrong number of fields", number, f"{len(fields)} where the header has {len(names)}")


def check_backslashes(report: Report, text: str) -> str:
    """Findings about backslashes before quotes and backslashes; returns the text as it is read, without them or not."""
    plain, changed = unescaped(text)
    lines = text.split("\n")
    for number in changed:
        kind = "a backslash before each quote and backslash, taken off when it is read"
        report.add("note", kind, number, lines[number - 1])
    if not changed and "\\" in text:
        for number, line in enumerate(lines, start=1):
            if '\\"' in line:
                report.add("warning", "a backslash before a quote, but not before each in the file", number, line)
            elif "\\\\" in line:
                report.add("warning", "a backslash before a backslash", number, line)
    return plain


def check_text(report: Report, number: int, column: str, text: str) -> None:
    """Findings in a text that is not empty."""
    if not _WORD.search(text):
        report.add("warning", f"{column} without a word", number, repr(text))
    if not _MAYBE_SUSPICIOUS.search(text):
        return
    if found := _CONTROL.search(text):
        report.add("warning", f"{column} with control characters", number, f"{found[0]!r} in {text!r}")
    if "\ufffd" in text:
        report.add("warning", f"{column} with replacement characters (decoded wrongly once)", number, repr(text))
    if (found := _MARKUP.search(text)) and (found[0][0] == "<" or html.unescape(found[0]) != found[0]):
        report.add("warning", f"{column} with HTML", number, f"{found[0]} in {text!r}")


def check_texts(report: Report, number: int, row: dict[str, str]) -> None:
    """Findings in source and target, each by itself and against each other."""
    source, target = row.get("src_text", "").strip(), row["tgt_text"].strip()
    if target:
        check_text(report, number, "tgt_text", target)
    else:
        report.add("warning", "empty tgt_text", number)
    if source and source != target:
        check_text(report, number, "src_text", source)
    elif not source and not row["audio"].strip():
        report.add("error", "neither audio nor src_text", number)
    elif not source and "src_text" in row:
        report.add("warning", "empty src_text", number)
    same_language = row.get("src_lang", "") == row.get("tgt_lang", "") != ""
    if source == target and _WORD.search(target) and row.get("task") != "asr" and not same_language:
        report.add("warning", "tgt_text equal to src_text", number, repr(target))


def check_lengths(report: Report, factor: float) -> None:
    """Lines whose ratio of target to source is more than ``factor`` away from the manifest's median."""
    both = [line for line in report.lines if line.src_text and line.tgt_text and line.src_text != line.tgt_text]
    long = [line for line in both if max(len(line.src_text), len(line.tgt_text)) >= SHORT_TEXT]
    if not long:
        return
    usual = median(len(line.tgt_text) / len(line.src_text) for line in long)
    for line in long:
        ratio = len(line.tgt_text) / len(line.src_text)
        if not usual / factor <= ratio <= usual * factor:
            detail = f"{len(line.src_text)} characters to {len(line.tgt_text)}, the median ratio is {usual:.2f}"
            report.add("warning", f"length ratio more than {factor:g} times off the median", line.number, detail)


def read(report: Report, audio_root: str, factor: float) -> dict[int, int]:
    """Fill in ``report.lines`` with all findings that need no audio; returns line number -> n_frames."""
    ids: dict[str, int] = {}
    segments: dict[tuple[str, ...], int] = {}
    stated: dict[int, int] = {}
    for number, row in rows(report):
        report.segments += 1
        name, audio = row["id"], row["audio"]
        if not name.strip():
            report.add("error", "empty id", number)
        elif (first := ids.setdefault(name, number)) != number:
            report.add("error", "duplicate id", number, f"{name!r}, first on line {first}")
        segment = None
        try:
            stated[number] = int(row["n_frames"])
        except ValueError:
            report.add("error", "n_frames is no whole number", number, repr(row["n_frames"]))
        if audio.strip():
            key = (audio, row.get("tgt_lang", ""), row.get("task", ""))
            if (first := segments.setdefault(key, number)) != number:
                report.add("warning", "duplicate segment", number, f"{audio}, first on line {first}")
            try:
                segment = Segment.parse(audio, audio_root)
            except AudioError as error:
                report.add("error", error.reason, number, repr(audio))
        elif stated.get(number):
            report.add("error", "n_frames of text alone is not 0", number, row["n_frames"])
        check_texts(report, number, row)
        report.lines.append(Line(number, segment, row.get("src_text", "").strip(), row["tgt_text"].strip()))
    if not report.segments and not report.findings:
        report.add("error", "no segment", 1, "only a header; prepare the data again")
    check_lengths(report, factor)
    return stated


def check_audio(report: Report, stated: dict[int, int], headers_only: bool) -> None:
    """Findings in the audio files, or in their headers alone."""
    paths = {line.segment.path for line in report.lines if line.segment}
    headers = audio_headers(sorted(paths), f"{report.path.name}: audio files", whole_files=not headers_only)
    report.files = len(paths)
    for line in report.lines:
        if line.segment is None:
            continue
        header = headers[line.segment.path]
        try:
            if isinstance(header, AudioError):
                raise header
            report.seconds += segment_samples(line.segment, header) / SAMPLE_RATE
        except AudioError as error:
            # The message says which file or segment, what is wrong and what to do.
            report.add("error", error.reason, line.number, str(error))
            continue
        if header.rate != SAMPLE_RATE:
            kind = f"{header.rate} Hz, resampled to {SAMPLE_RATE} Hz when it is read"
            report.add("note", kind, line.number, line.segment.path)
        frames = _frames(line.segment, header)
        if line.number in stated and stated[line.number] != frames:
            detail = f"{stated[line.number]}, the audio has {frames}"
            report.add("warning", "n_frames disagrees with the audio", line.number, detail)
    if not headers_only:
        check_phase(report, headers)


def check_phase(report: Report, headers: dict[str, AudioInfo | AudioError]) -> None:
    """Findings in segments of several channels, which are decoded for it."""

    def cancels(line: Line) -> bool | AudioError:
        try:
            return in_opposite_phase(line.segment)
        except AudioError as error:
            return error

    lines = [line for line in report.lines if line.segment and _channels(headers[line.segment.path]) > 1]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = tqdm(pool.map(cancels, lines), f"{report.path.name}: channels", len(lines), delay=2, leave=False)
        for line, found in zip(lines, results, strict=True):
            if found is True:
                report.add("warning", OPPOSITE_PHASE, line.number, str(line.segment))
            elif isinstance(found, AudioError) and found.reason not in TOLD_BEFORE:
                report.add("error", found.reason, line.number, str(found))


def _channels(header: AudioInfo | AudioError) -> int:
    return header.channels if isinstance(header, AudioInfo) else 0


def _frames(segment: Segment, header: AudioInfo) -> int:
    return header.frames - segment.offset if segment.frames == -1 else segment.frames


class Spans:
    """Stretches of audio, to ask whether another one shares any of theirs."""

    def __init__(self, lines: list[Line]):
        found: dict[str, list[tuple[int, float, int]]] = {}
        for line in lines:
            if line.segment:
                path, start, end = span(line.segment)
                found.setdefault(path, []).append((start, end, line.number))
        #: For each file the starts, in order, and up to each the furthest end and its line.
        self.starts: dict[str, list[int]] = {}
        self.furthest: dict[str, list[tuple[float, int]]] = {}
        for path, spans in found.items():
            spans.sort()
            self.starts[path] = [start for start, _, _ in spans]
            self.furthest[path] = list(accumulate(((end, number) for _, end, number in spans), max))

    def meets(self, segment: Segment) -> int | None:
        """The line number of a stretch that overlaps the segment, if there is one."""
        path, start, end = span(segment)
        before = bisect_left(self.starts.get(path, []), end)  # stretches that start before the segment ends
        if not before:
            return None
        furthest, number = self.furthest[path][before - 1]
        return number if furthest > start else None


def span(segment: Segment) -> tuple[str, int, float]:
    """File, first sample, and the sample after the last."""
    end = math.inf if segment.frames == -1 else segment.offset + segment.frames
    return os.path.normpath(segment.path), segment.offset, end


def compare(train: Report, others: list[Report]) -> None:
    """Add to the other reports what they share with the training data: audio is an error, a pair of texts a warning."""
    spans = Spans(train.lines)
    pairs = {(line.src_text, line.tgt_text): line.number for line in reversed(train.lines) if line.tgt_text}
    for other in others:
        for line in other.lines:
            if line.segment and (number := spans.meets(line.segment)):
                detail = f"{line.segment}, as in {train.path}:{number}"
                other.add("error", "audio that is also in the training data", line.number, detail)
            if number := pairs.get((line.src_text, line.tgt_text)):
                detail = f"{line.tgt_text!r}, as in {train.path}:{number}"
                other.add("warning", "pair of texts that is also in the training data", line.number, detail)


def print_report(report: Report) -> None:
    """A manifest's findings for people."""
    audio = f", {report.seconds / 3600:.2f} h in {report.files} audio files" if report.files else ""
    print(f"{report.path}: {report.segments} segments{audio}")
    for finding in report.sorted_findings():
        print(f"  {finding.level}: {finding.kind}: {finding.count}")
        for line in finding.lines:
            print(f"      {line}")
        if finding.lines and finding.count > len(finding.lines):
            print(f"      and {finding.count - len(finding.lines)} more")


def find_manifests(paths: list[Path]) -> list[Path]:
    """The files named, and those in the folders named."""
    manifests = []
    for path in paths:
        found = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
        if not found:
            sys.exit(f"error: {path}: holds no manifest (*.tsv); prepare the data first or check the path")
        manifests += found
    return list(dict.fromkeys(manifests))


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST", help="files, or folders with .tsv files")
    parser.add_argument("--audio-root", default="", help="folder that relative audio paths are joined to")
    parser.add_argument("--no-audio", action="store_true", help="do not open audio files: texts, ids, overlap only")
    about = "neither read compressed files to their end nor decode those of several channels: much faster"
    parser.add_argument("--headers-only", action="store_true", help=about)
    parser.add_argument("--show", type=int, default=5, metavar="N", help="lines to name of each kind (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON too")
    parser.add_argument(
        "--max-length-ratio",
        type=float,
        default=3.0,
        metavar="R",
        help="target to source, in characters, at most so many times off the manifest's median (default: 3)",
    )
    args = parser.parse_args(argv)
    if args.max_length_ratio < 1:
        parser.error(f"--max-length-ratio {args.max_length_ratio:g}: has to be at least 1")
    reports = []
    for path in find_manifests(args.manifests):
        report = Report(path, args.show)
        stated = read(report, args.audio_root, args.max_length_ratio)
        if not args.no_audio:
            check_audio(report, stated, args.headers_only)
        reports.append(report)
    others = [report for report in reports if not is_train(report.path.stem)]
    for train in reports:
        if is_train(train.path.stem):
            compare(train, others)
    for report in reports:
        print_report(report)
    totals = {level: sum(report.count(level) for report in reports) for level in LEVELS}
    print(f"{len(reports)} manifests: {totals['error']} errors, {totals['warning']} warnings, {totals['note']} notes")
    if args.json:
        content = {
            **{f"{level}s": total for level, total in totals.items()},
            "manifests": [r.as_dict() for r in reports],
        }
        with atomic_text(args.json) as file:
            json.dump(content, file, ensure_ascii=False, indent=2)
            file.write("\n")
    return 1 if totals["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
