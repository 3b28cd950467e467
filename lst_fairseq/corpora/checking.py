"""Manifests looked over: missing audio, segments beyond its end, odd texts, duplicates, training data in test data."""

import html
import math
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Literal

from tqdm import tqdm

from lst_fairseq.corpora.findings import LEVELS, Line, Report
from lst_fairseq.corpora.preparation import PrepError, is_train, stored_audio_root
from lst_fairseq.data.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioInfo,
    Segment,
    in_opposite_phase,
    segment_samples,
)
from lst_fairseq.data.manifest import COLUMNS, REQUIRED_COLUMNS, audio_headers, unescaped
from lst_fairseq.utils.arguments import UsageError
from lst_fairseq.utils.text_files import Unreadable, read_text

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


def rows(report: Report) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of every line that can be split into columns; the others are findings."""
    try:
        text = read_text(report.path, "prepare the data first or check the path")
    except Unreadable as error:
        report.add("error", "cannot be read", 1, error.reason)
        return
    lines = check_backslashes(report, text).split("\n")
    names = lines[0].removesuffix("\r").split("\t")
    missing = [column for column in REQUIRED_COLUMNS if column not in names]
    doubled = [column for column, times in Counter(names).items() if times > 1]
    if missing or doubled:
        problem = (
            f"no column {', '.join(missing)}" if missing else f"column {', '.join(doubled)} twice"
        )
        report.add(
            "error",
            "bad header",
            1,
            f"{problem}; found: {', '.join(names)}; columns are {', '.join(COLUMNS)}",
        )
        return
    for number, line in enumerate(lines[1:], start=2):
        line = line.removesuffix("\r")
        if not line.strip(" "):
            continue
        fields = line.split("\t")
        if len(fields) == len(names):
            yield number, dict(zip(names, fields, strict=True))
        else:
            report.add(
                "error",
                "wrong number of fields",
                number,
                f"{len(fields)} where the header has {len(names)}",
            )


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
                report.add(
                    "warning",
                    "a backslash before a quote, but not before each in the file",
                    number,
                    line,
                )
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
        report.add(
            "warning", f"{column} with control characters", number, f"{found[0]!r} in {text!r}"
        )
    if "\ufffd" in text:
        report.add(
            "warning",
            f"{column} with replacement characters (decoded wrongly once)",
            number,
            repr(text),
        )
    if (found := _MARKUP.search(text)) and (
        found[0][0] == "<" or html.unescape(found[0]) != found[0]
    ):
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
    both = [
        line
        for line in report.lines
        if line.src_text and line.tgt_text and line.src_text != line.tgt_text
    ]
    long = [line for line in both if max(len(line.src_text), len(line.tgt_text)) >= SHORT_TEXT]
    if not long:
        return
    usual = median(len(line.tgt_text) / len(line.src_text) for line in long)
    for line in long:
        ratio = len(line.tgt_text) / len(line.src_text)
        if not usual / factor <= ratio <= usual * factor:
            detail = f"{len(line.src_text)} characters to {len(line.tgt_text)}, the median ratio is {usual:.2f}"
            report.add(
                "warning",
                f"length ratio more than {factor:g} times off the median",
                line.number,
                detail,
            )


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
                report.add(
                    "warning", "duplicate segment", number, f"{audio}, first on line {first}"
                )
            try:
                segment = Segment.parse(audio, audio_root)
            except AudioError as error:
                report.add("error", error.reason, number, repr(audio))
        elif stated.get(number):
            report.add("error", "n_frames of text alone is not 0", number, row["n_frames"])
        check_texts(report, number, row)
        report.lines.append(
            Line(number, segment, row.get("src_text", "").strip(), row["tgt_text"].strip())
        )
    if not report.segments and not report.findings:
        report.add("error", "no segment", 1, "only a header; prepare the data again")
    check_lengths(report, factor)
    return stated


def check_audio(report: Report, stated: dict[int, int], headers_only: bool) -> None:
    """Findings in the audio files, or in their headers alone."""
    paths = {line.segment.path for line in report.lines if line.segment}
    headers = audio_headers(
        sorted(paths), f"{report.path.name}: audio files", whole_files=not headers_only
    )
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

    lines = [
        line for line in report.lines if line.segment and _channels(headers[line.segment.path]) > 1
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = tqdm(
            pool.map(cancels, lines),
            f"{report.path.name}: channels",
            len(lines),
            delay=2,
            leave=False,
        )
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
        # How many start before the segment ends.
        before = bisect_left(self.starts.get(path, []), end)
        if not before:
            return None
        furthest, number = self.furthest[path][before - 1]
        return number if furthest > start else None


def span(segment: Segment) -> tuple[str, int, float]:
    """File, first sample, and the sample after the last."""
    end = math.inf if segment.frames == -1 else segment.offset + segment.frames
    return os.path.normpath(segment.path), segment.offset, end


def compare_with_train(train: Report, others: list[Report]) -> None:
    """Add to the other reports what they share with the training data: audio is an error, a pair of texts a warning."""
    spans = Spans(train.lines)
    pairs = {
        (line.src_text, line.tgt_text): line.number
        for line in reversed(train.lines)
        if line.tgt_text
    }
    for other in others:
        for line in other.lines:
            if line.segment and (number := spans.meets(line.segment)):
                detail = f"{line.segment}, as in {train.path}:{number}"
                other.add("error", "audio that is also in the training data", line.number, detail)
            if number := pairs.get((line.src_text, line.tgt_text)):
                detail = f"{line.tgt_text!r}, as in {train.path}:{number}"
                other.add(
                    "warning",
                    "pair of texts that is also in the training data",
                    line.number,
                    detail,
                )


def find_manifests(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named."""
    manifests = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        found = [path]
        if path.is_dir():  # where `lst filter` may have left its word error rates
            tables = sorted(path.glob("*.tsv"))
            found = [table for table in tables if not table.name.endswith(".wer.tsv")]
        if not found:
            raise PrepError(
                f"{path}: holds no manifest (*.tsv); prepare the data first or check the path"
            )
        manifests += found
    return list(dict.fromkeys(manifests))


def check_manifests(
    paths: Sequence[Path],
    *,
    audio_root: str | None = None,
    audio: Literal["whole", "headers", "none"] = "whole",
    max_length_ratio: float = 3.0,
    show: int = 5,
) -> list[Report]:
    """Everything that is wrong or odd about manifests, a report for each.

    Manifests whose name begins with "train" are compared with the others, by audio and by text.

    Args:
        paths: manifests, or folders of them.
        audio_root: folder that relative audio paths are joined to; None: what the config.yaml beside a
            manifest says, as training does.
        audio: ``whole`` reads compressed files to their end and decodes those of several channels,
            ``headers`` does not, ``none`` opens no audio file.
        max_length_ratio: target to source, in characters, at most so many times off the median.
        show: lines that are named of each kind of finding.

    Raises:
        PrepError: a folder has no manifest.
        YamlError, SettingsError: a config.yaml that cannot be read, or says no folder.
        UsageError: a ratio below 1, or another word for ``audio``.
    """
    if not max_length_ratio >= 1:
        raise UsageError(f"--max-length-ratio {max_length_ratio:g}: has to be at least 1")
    if audio not in (choices := ("whole", "headers", "none")):
        raise UsageError(f"audio {audio!r}: choose one of {', '.join(choices)}")
    reports = []
    for path in find_manifests(paths):
        report = Report(path, show)
        root = stored_audio_root(path.with_name("config.yaml")) if audio_root is None else audio_root
        stated = read(report, root, max_length_ratio)
        if audio != "none":
            check_audio(report, stated, audio == "headers")
        reports.append(report)
    others = [report for report in reports if not is_train(report.path.stem)]
    for train in reports:
        if is_train(train.path.stem):
            compare_with_train(train, others)
    return reports


def totals(reports: Sequence[Report]) -> dict[str, int]:
    """Findings of each level in all of them."""
    return {level: sum(report.count(level) for report in reports) for level in LEVELS}
