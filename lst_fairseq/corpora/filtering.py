"""A part of a manifest's segments: by word error rate of a CTC head, or any, the same ones each time."""

import hashlib
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import regex

from lst_fairseq.corpora.preparation import PrepError, is_train
from lst_fairseq.corpora.transcription import Recognition
from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.data.manifest import Row, read_manifest, unescaped
from lst_fairseq.evaluation.languages import is_spaceless, script_language
from lst_fairseq.utils.arguments import UsageError, at_least, check_apart, finite, positive
from lst_fairseq.utils.files import atomic_text
from lst_fairseq.utils.flags import setting
from lst_fairseq.utils.text_files import read_text

COLUMNS = ("id", "wer", "transcript", "audio", "decoder")
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)

_APOSTROPHES = regex.compile("[\u2018\u2019\u02bc\uff07`]")
_WORD_CHARACTER = r"[\p{L}\p{M}\p{N}]"
# All but letters, combining marks, digits and apostrophes within a word separates words.
_SEPARATORS = regex.compile(
    rf"(?:[^\p{{L}}\p{{M}}\p{{N}}']|(?<!{_WORD_CHARACTER})'|'(?!{_WORD_CHARACTER}))+"
)


def normalise(text: str) -> str:
    """A text as it is compared: lower case, one kind of apostrophe, and words with single spaces between them."""
    text = _APOSTROPHES.sub("'", unicodedata.normalize("NFC", text).lower())
    return _SEPARATORS.sub(" ", text).strip()


def error_rate(reference: str, transcript: str, language: str = "") -> float | None:
    """Error rate of two texts after :func:`normalise`; None where the reference has no word.

    Of words, or of characters where the language writes no spaces; empty stands for what the reference's script says.
    """
    reference, transcript = normalise(reference), normalise(transcript)
    if not reference:
        return None
    if by_characters(reference, language):
        return jiwer.cer(reference.replace(" ", ""), transcript.replace(" ", ""))
    return jiwer.wer(reference, transcript)


def by_characters(reference: str, language: str) -> bool:
    """Whether a transcript is compared character by character."""
    return is_spaceless(language or script_language([reference]))


def unit(rows: Sequence[Row]) -> str:
    """What the error rates of rows count, in words."""
    found = {by_characters(normalise(row.src_text), row.src_lang) for row in rows}
    return {(False,): "word", (True,): "character"}.get(tuple(found), "word or character")


def length(row: Row) -> int:
    """Words of a row's transcript, or characters where these are compared."""
    text = normalise(row.src_text)
    return len(text.replace(" ", "")) if by_characters(text, row.src_lang) else len(text.split())


def stored_transcripts(path: Path, key: str) -> dict[tuple[str, str], str]:
    """(id, audio) -> transcript, of what this decoder wrote. A last line that was cut short is taken off the file."""
    if not path.exists():
        return {}
    text = read_text(path, "")
    lines = text.split("\n")
    if tuple(lines[0].split("\t")) != COLUMNS and text:
        raise PrepError(f"{path}:1: not a file of word error rates; --wers names another one")
    if lines[-1]:
        with atomic_text(path) as file:
            file.write("".join(f"{line}\n" for line in lines[:-1]))
    fields = (line.split("\t") for line in lines[1:-1])
    return {
        (name, audio): transcript
        for name, _, transcript, audio, decoder in fields
        if decoder == key
    }


def measure(rows: Sequence[Row], recognition: Recognition, path: Path) -> dict[str, float | None]:
    """Error rate of each row by its id; what is not in the file yet is decoded and appended to it."""
    transcriber = recognition.load()
    stored = stored_transcripts(path, transcriber.key)
    missing = [row for row in rows if (row.id, str(row.segment)) not in stored]
    if stored:
        done = len(rows) - len(missing)
        print(f"{path}: {done} of {len(rows)} segments decoded already", file=sys.stderr)
    is_new = not path.exists() or not path.stat().st_size
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        if is_new:
            file.write("\t".join(COLUMNS) + "\n")
        for batch in recognition.transcripts(transcriber, missing):
            for row, transcript in batch:
                audio, rate = str(row.segment), error_rate(row.src_text, transcript, row.src_lang)
                stored[row.id, audio] = transcript
                shown = "" if rate is None else f"{rate:.4f}"
                file.write(f"{row.id}\t{shown}\t{transcript}\t{audio}\t{transcriber.key}\n")
            file.flush()
    # From the transcripts, since src_text may be another one by now.
    return {
        row.id: error_rate(row.src_text, stored[row.id, str(row.segment)], row.src_lang)
        for row in rows
    }


def choose(rates: dict[str, float], max_wer: float | None, max_examples: int | None) -> set[str]:
    """Ids of the segments to keep: those up to ``max_wer``, and of these the ones with the lowest rates."""
    kept = [name for name, rate in rates.items() if max_wer is None or rate <= max_wer]
    if max_examples is not None:
        # Stable: of equals the first in the manifest.
        kept = sorted(kept, key=rates.__getitem__)[:max_examples]
    return set(kept)


def write_lines(manifest: Path, out: Path, lines: set[int]) -> None:
    """Copy the header and the given lines of a manifest, with all their columns."""
    # Of a file with backslashes before its quotes a part need not show that it is one.
    text = unescaped(read_text(manifest, ""))[0].split("\n")
    with atomic_text(out) as file:
        for number, line in enumerate(text, start=1):
            if number == 1 or number in lines:
                file.write(line.removesuffix("\r") + "\n")


def summary(rows: Sequence[Row], rates: dict[str, float], kept: set[str]) -> str:
    """Error rate of all words or characters, counts and hours by threshold, and what was kept."""
    hours = {row.id: row.n_samples / SAMPLE_RATE / 3600 for row in rows}
    lengths = {row.id: length(row) for row in rows}
    overall = sum(rate * lengths[name] for name, rate in rates.items()) / sum(lengths.values())
    lines = [
        f"{unit(rows)} error rate {overall:.2%} of {len(rates)} segments, {sum(map(hours.get, rates)):.2f} h"
    ]
    for threshold in THRESHOLDS:
        names = [name for name, rate in rates.items() if rate <= threshold]
        lines.append(
            f"  up to {threshold:4.0%}: {len(names):8d} segments {sum(map(hours.get, names)):9.2f} h"
        )
    lines.append(f"kept {len(kept)} segments, {sum(map(hours.get, kept)):.2f} h")
    return "\n".join(lines)


def part(rows: Sequence[Row], fraction: float, seed: int) -> set[int]:
    """Lines of a fraction of the rows, rounded, at least one: those whose ids hash lowest with the seed.

    They depend on the ids and the seed alone, so that a smaller part lies within a larger one.
    """
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.id}".encode()).digest())
    return {row.line for row in by_hash[: max(1, round(fraction * len(rows)))]}


def check_fraction(fraction: float) -> None:
    """Raise a UsageError unless a fraction is above 0 and at most 1."""
    if not 0 < fraction <= 1:
        raise UsageError(f"--fraction {fraction}: give a number above 0, up to 1")


def select_part(manifest: Path, out: Path, fraction: float, seed: int = 1) -> str:
    """Write a manifest of a fraction of another's segments, the same ones each time.

    Args:
        manifest, out: to read and to write.
        fraction: above 0, at most 1.
        seed: another one keeps others.

    Returns:
        A line that says how many it has.
    """
    check_fraction(fraction)
    check_apart(manifest, out, "--out")
    rows = read_manifest(manifest, check_audio=False).rows
    lines = part(rows, fraction, seed)
    write_lines(manifest, out, lines)
    return f"{out}: {len(lines)} of {len(rows)} segments"


@dataclass(frozen=True, kw_only=True)
class WerLimits:
    """Which training segments are kept by their error rates; all of them by default.

    Raises:
        UsageError: a folder that no manifest can name, or no number of segments.
    """

    max_wer: float | None = setting(
        "keep segments up to this rate, such as 0.3", None, type=finite, metavar="R"
    )
    max_examples: int | None = setting(
        "keep the N segments with the lowest rates", None, type=positive, metavar="N"
    )
    wers: Path | None = setting(
        "word error rates, from which a run that was interrupted goes on",
        None,
        metavar="FILE",
        unset="OUT with .wer.tsv",
    )
    audio_root: str = setting("folder that relative audio paths are joined to", "")
    skip_bad_audio: bool = setting("leave out and count segments with broken audio", False)

    def __post_init__(self) -> None:
        if self.max_examples is not None:
            at_least(1, max_examples=self.max_examples)
        if any(character in self.audio_root for character in "\t\r\n"):
            raise UsageError(
                f"--audio-root {self.audio_root!r}: has a tab or line break in it; rename the folder"
            )

    @property
    def is_set(self) -> bool:
        """Whether anything is left out by them."""
        return self.max_wer is not None or self.max_examples is not None


def filter_by_wer(
    manifest: Path,
    out: Path,
    recognition: Recognition,
    limits: WerLimits | None = None,
    *,
    fraction: float = 1.0,
    seed: int = 1,
) -> str:
    """Write a manifest of the training segments whose transcript a CTC head agrees with.

    Segments without a transcript are left out, lines without audio are kept.

    Args:
        manifest, out: to read and to write.
        recognition: the CTC head.
        limits: what is kept; without any every segment is.
        fraction, seed: of what is left, as :func:`select_part` does.

    Returns:
        Lines that say what was found and kept.

    Raises:
        UsageError: not training data, no such fraction, or ``out`` is ``manifest``.
        ManifestError, PrepError, ValueError: the manifest or the model cannot be used.
    """
    limits = limits or WerLimits()
    check_fraction(fraction)
    if limits.is_set and not is_train(manifest.stem):
        raise UsageError(
            f"--manifest {manifest}: only training data is filtered, whose name begins with train"
        )
    check_apart(manifest, out, "--out")
    recognition.check()
    rows = read_manifest(manifest, limits.audio_root, skip_bad_audio=limits.skip_bad_audio).rows
    spoken = [row for row in rows if not row.is_text]
    usable = [row for row in spoken if normalise(row.src_text)]
    if not usable:
        raise PrepError(f"{manifest}: no segment has a transcript; the column src_text is needed")
    rates = measure(usable, recognition, limits.wers or out.with_suffix(".wer.tsv"))
    kept = choose(rates, limits.max_wer, limits.max_examples)
    left = [row for row in rows if row.is_text or not limits.is_set or row.id in kept]
    lines = part(left, fraction, seed) if left else set()
    write_lines(manifest, out, lines)
    report = f"{summary(usable, rates, kept)}\n{out}: {len(lines)} of {len(rows)} lines"
    if limits.is_set:
        by_rate = f"{len(usable) - len(kept)} by {unit(usable)} error rate"
        untranscribed = f"{len(spoken) - len(usable)} without a transcript"
        report += f"; left out: {by_rate}, {untranscribed}"
    if len(lines) < len(left):
        report += f"; {fraction:g} of the {len(left)} that are left"
    return report
