"""fairseq S2T manifests (TSV): reading with every check that a header allows, and writing.

A manifest is UTF-8 text, tab separated, without quoting, one line a segment, with a header line. Columns:
``id``, ``audio`` (``a.wav`` or ``a.wav:offset:frames``), ``n_frames``, ``tgt_text`` and, where known, ``src_text``,
``speaker``, ``src_lang``, ``tgt_lang``, ``task``. Other columns are ignored. A line whose ``audio`` is empty and whose
``n_frames`` is 0 is text only: its ``src_text`` is translated instead of speech.

fairseq's own preparation (``save_df_to_tsv``) puts a backslash before each quote and backslash; :func:`unescaped` takes
them off a file that is written so throughout.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from lst_fairseq.data.audio import AudioError, AudioInfo, Segment, audio_info, check_audio, segment_samples
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.text_files import Unreadable, read_data

logger = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("id", "audio", "n_frames", "tgt_text")
COLUMNS = ("id", "audio", "n_frames", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang", "task")

#: The segment of a line that is text only.
NO_AUDIO = Segment("")

_ESCAPED = re.compile(r'\\(["\\])')
_BREAKS_A_LINE = re.compile(r"\s*[\t\r\n]\s*")


class ManifestError(ValueError):
    """A manifest that cannot be used as it is; the message begins ``FILE:LINE: `` and ends with the remedy."""


@dataclass(slots=True)
class Row:
    """One line of a manifest."""

    line: int  # line number in the file, the header being line 1
    id: str
    segment: Segment  # NO_AUDIO where the line is text only
    n_samples: int  # at 16 kHz, from the audio file's header; 0 of text only; -1 where audio was not checked
    src_text: str
    tgt_text: str  # may be empty: what to do then is up to the dataset
    speaker: str
    src_lang: str
    tgt_lang: str
    task: str

    @property
    def is_text(self) -> bool:
        """Whether the line has no audio, so that ``src_text`` takes the place of the speech."""
        return not self.segment.path


@dataclass(slots=True)
class Manifest:
    """A manifest's usable rows in file order, and how many were left out for which reason."""

    path: str
    rows: list[Row]
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> rows; only with skip_bad_audio


def read_manifest(
    path: str | Path, audio_root: str | Path = "", check_audio: bool = True, skip_bad_audio: bool = False
) -> Manifest:
    """Read a manifest and check every line of it.

    Args:
        path: the TSV file; a byte order mark and Windows line ends are tolerated, blank lines ignored.
        audio_root: folder that relative audio paths are joined to.
        check_audio: read each audio file's header once, fill in ``n_samples``, and refuse missing or broken files and
            segments beyond the end of their file.
        skip_bad_audio: leave those rows out instead, count them in ``skipped`` and say so in one warning. It is still
            an error where no row with audio is left: the audio root is wrong then.

    Raises ManifestError, naming file and line, for anything else that is wrong with the file or a line of it.
    """
    path = str(path)
    columns, lines = _split(path)
    rows: list[Row] = []
    n_frames: list[int] = []
    first_line: dict[str, int] = {}
    shared: dict[str, str] = {}  # speakers and languages repeat: keep each once
    at = {column: position for position, column in enumerate(columns)}
    at_id, at_audio, at_frames, at_target = (at[column] for column in REQUIRED_COLUMNS)
    at_source = at.get("src_text", -1)
    at_repeating = [at.get(column, -1) for column in ("speaker", "src_lang", "tgt_lang", "task")]
    parse_segment = _segment_parser(audio_root)
    for number, text in lines:
        fields = text.split("\t")
        if len(fields) != len(columns):
            raise ManifestError(
                f"{path}:{number}: {len(fields)} fields where the header has {len(columns)} ({', '.join(columns)}); "
                "fields are separated by single tabs and hold no tab or line break themselves"
            )
        fields.append("")  # what position -1, a missing optional column, stands for
        name = fields[at_id]
        if not name.strip():
            raise ManifestError(f"{path}:{number}: empty id; give every line an id of its own")
        if first_line.setdefault(name, number) != number:
            raise ManifestError(
                f"{path}:{number}: id {name!r} was used on line {first_line[name]} already; give every line its own"
            )
        try:
            n_frames.append(int(fields[at_frames]))
        except ValueError:
            raise ManifestError(
                f"{path}:{number}: n_frames is {fields[at_frames]!r}, not a whole number; write the segment's length "
                "in samples of the audio file's own rate"
            ) from None
        audio, source = fields[at_audio], fields[at_source]
        try:
            segment = parse_segment(audio) if audio.strip() else _text_only(source, n_frames[-1])
        except AudioError as error:
            raise ManifestError(f"{path}:{number}: {error}") from error
        repeating = [shared.setdefault(fields[position], fields[position]) for position in at_repeating]
        n_samples = -1 if segment.path else 0
        rows.append(Row(number, name, segment, n_samples, source, fields[at_target], *repeating))
    if not rows:
        raise ManifestError(f"{path}:1: holds no segment, only a header; prepare the data again")
    if not check_audio:
        return Manifest(path, rows)
    return _check_audio(path, rows, n_frames, skip_bad_audio)


def read_columns(path: str | Path) -> list[dict[str, str]]:
    """A manifest's lines with all their columns as they stand, checked as :func:`read_manifest` does but for audio."""
    read_manifest(path, check_audio=False)
    columns, lines = _split(str(path))
    return [dict(zip(columns, text.split("\t"), strict=True)) for _, text in lines]


def unescaped(text: str) -> tuple[str, list[int]]:
    """A manifest's text without the backslashes that Python's csv module writes before quotes and backslashes.

    It is taken to be written so where there is such a quote, and no quote or backslash without one before it; else it
    stays as it is, since a backslash may be part of the texts. (Texts in which every quote has a backslash, such as
    code, and which were written by :func:`write_manifest`, cannot be told from these.)

    Returns the text, and the numbers of the lines that have lost backslashes, the first being 1.
    """
    if '\\"' not in text:
        return text, []
    without = _ESCAPED.sub("", text)
    if '"' in without or "\\" in without:
        return text, []
    changed = [number for number, line in enumerate(text.split("\n"), start=1) if "\\" in line]
    return _ESCAPED.sub(r"\1", text), changed


def _segment_parser(root: str | Path) -> Callable[[str], Segment]:
    """``Segment.parse`` for many segments of few files: each path is checked and joined to the root once."""
    joined: dict[str, str] = {}

    def parse(audio: str) -> Segment:
        path, *numbers = audio.rsplit(":", 2)
        is_part = len(numbers) == 2 and numbers[0].isdecimal() and numbers[1].isdecimal()
        if is_part and path in joined:
            return Segment(joined[path], int(numbers[0]), int(numbers[1]))
        segment = Segment.parse(audio, root)
        if is_part:
            joined[path] = segment.path
        return segment

    return parse


def _text_only(source: str, n_frames: int) -> Segment:
    """NO_AUDIO, if an empty ``audio`` means that the line is text only."""
    if not source.strip():
        raise AudioError(
            "neither audio nor src_text; give PATH or PATH:OFFSET:FRAMES in the column audio, or, for a line that is "
            "text only, its source text in the column src_text"
        )
    if n_frames != 0:
        raise AudioError(
            f"no audio, and n_frames is {n_frames}; a line that is text only has n_frames 0, any other needs its audio"
        )
    return NO_AUDIO


def audio_headers(
    paths: Iterable[str], label: str = "audio headers", whole_files: bool = False
) -> dict[str, AudioInfo | AudioError]:
    """Read the header of each distinct file once, many at a time: path -> header, or the error that reading it gave.

    Shows progress under ``label`` when it takes longer than two seconds. With ``whole_files`` compressed files are read
    to their end as well (:func:`~lst_fairseq.data.audio.check_audio`).
    """

    def read(path: str) -> AudioInfo | AudioError:
        try:
            return check_audio(path) if whole_files else audio_info(path)
        except AudioError as error:
            return error

    distinct = list(dict.fromkeys(paths))
    # More threads than cores: on a network file system the time goes into waiting.
    with ThreadPoolExecutor(max_workers=16) as pool:
        results = tqdm(pool.map(read, distinct), label, len(distinct), unit="file", delay=2, leave=False)
        return dict(zip(distinct, results, strict=True))


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows (mappings with the names in COLUMNS; optional ones may be missing) and return their number.

    A tab or line break inside a text becomes one space, with the whitespace around it. The file appears whole or not
    at all: an interrupted run leaves an earlier one as it was.

    Raises:
        ManifestError: a column is missing, or an id or path cannot stand in a line as it is.
    """
    count = 0
    with atomic_text(path) as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in rows:
            if missing := [column for column in REQUIRED_COLUMNS if column not in row]:
                raise ManifestError(f"{path}:{count + 2}: cannot write a row without {', '.join(missing)}: {dict(row)}")
            for column in ("id", "audio"):
                _check_name(str(row[column]), f"{path}:{count + 2}: {column}")
            file.write("\t".join(_one_line(str(row.get(column, ""))) for column in COLUMNS) + "\n")
            count += 1
    return count


def _check_name(text: str, where: str) -> None:
    """Refuse an id or a path that would be another one when it is read again."""
    if _BREAKS_A_LINE.search(text):
        raise ManifestError(
            f"{where}: {text!r} has a tab or line break in it, which no line of a manifest can hold; rename the "
            "file or folder"
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ManifestError(f"{where}: {text!r} is not UTF-8; rename the file or folder") from None


def _one_line(text: str) -> str:
    # Only what would break the table: other whitespace (no-break spaces, U+2028) belongs to the reference text.
    return _BREAKS_A_LINE.sub(" ", text) if "\t" in text or "\n" in text or "\r" in text else text


def _split(path: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Header columns, and (line number, text) of each further line that is not blank."""
    try:
        data = read_data(path, "prepare the data first or check the path", "manifest")
    except Unreadable as error:
        raise ManifestError(f"{path}:1: {error.reason}") from None
    try:
        text, changed = unescaped(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}:{number}: not UTF-8 text ({error.reason}); save the manifest as UTF-8") from None
    if changed:
        logger.info("%s: a backslash before each quote and backslash, taken off %d lines", path, len(changed))
    # Split at \n alone: str.splitlines and text mode would also split at \x85, U+2028 or a lone \r in a sentence.
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    columns = lines[0].split("\t")
    missing = [column for column in REQUIRED_COLUMNS if column not in columns]
    doubled = [column for column, times in Counter(columns).items() if times > 1]
    if missing or doubled:
        problem = f"no column {', '.join(missing)}" if missing else f"column {', '.join(doubled)} stands there twice"
        raise ManifestError(
            f"{path}:1: {problem}; found: {', '.join(columns) or 'nothing'}; the first line names the columns, "
            f"separated by tabs, at least {', '.join(REQUIRED_COLUMNS)}"
        )
    return columns, [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip(" ")]


def _check_audio(path: str, rows: list[Row], n_frames: list[int], skip_bad_audio: bool) -> Manifest:
    """Fill in ``n_samples`` from the headers, and refuse or leave out the rows whose audio cannot be used."""
    spoken = (row.segment.path for row in rows if not row.is_text)
    headers = audio_headers(spoken, f"{os.path.basename(path)}: audio headers")
    good: list[Row] = []
    n_spoken = 0  # of the good ones
    bad: list[tuple[Row, AudioError]] = []
    disagreeing: list[str] = []
    for row, stated in zip(rows, n_frames, strict=True):
        if row.is_text:
            good.append(row)
            continue
        header = headers[row.segment.path]
        try:
            if isinstance(header, AudioError):
                raise header
            row.n_samples = segment_samples(row.segment, header)
        except AudioError as error:
            bad.append((row, error))
            continue
        good.append(row)
        n_spoken += 1
        actual = header.frames - row.segment.offset if row.segment.frames == -1 else row.segment.frames
        if abs(stated - actual) > 0.01 * actual:
            disagreeing.append(f"line {row.line}: {stated} instead of {actual}")
    if bad and not (skip_bad_audio and n_spoken):
        row, error = bad[0]
        remedy = f"; --skip-bad-audio leaves such segments out ({len(bad)} of {len(rows)})" if n_spoken else ""
        raise ManifestError(f"{path}:{row.line}: {error}{remedy}") from error
    skipped = Counter(error.reason for _, error in bad)
    if bad:
        # Reversed, so that the first of each reason stays.
        examples = {error.reason: f"line {row.line}, {row.segment}" for row, error in reversed(bad)}
        reasons = "; ".join(f"{times} {reason} ({examples[reason]})" for reason, times in skipped.most_common())
        logger.warning("%s: skipped %d of %d segments: %s", path, len(bad), len(rows), reasons)
    if disagreeing:
        logger.warning(
            "%s: n_frames of %d segments is more than 1 %% off the audio's own length, which is used instead (%s)",
            path,
            len(disagreeing),
            disagreeing[0],
        )
    return Manifest(path, good, skipped)
