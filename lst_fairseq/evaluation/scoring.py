"""A split's translations scored: the content of a score file, and the lines that tell of it."""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU

from lst_fairseq.data.manifest import Row, read_manifest
from lst_fairseq.evaluation.languages import (
    LANGUAGE_NEUTRAL,
    LanguageError,
    language_of,
    tokenizer_for,
)
from lst_fairseq.evaluation.metrics import (
    Score,
    ScoreError,
    after_marker,
    bleu_metric,
    by_duration,
    comet_score,
    full_signature,
    in_order,
    read_generated,
    read_signature,
    read_speed,
    score,
    segment_seconds,
    transcript_error_rates,
)
from lst_fairseq.utils.arguments import UsageError, at_least
from lst_fairseq.utils.flags import setting

logger = logging.getLogger(__name__)

#: Entries of a score file that are worked out here.
RESULTS = (
    *("name", *Score.__dataclass_fields__, "wer", "wer_raw", "cer", "cer_raw", "comet"),
    *("durations", "full_signature", "tokenize", "after", "model", "sentences"),
)


def parse_extra(text: str) -> tuple[str, object]:
    """``key=value`` as a pair; the value is a number where it reads as one."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How a split is scored, and what is known of its system.

    The signature takes ``corpus``, ``split``, ``beam`` and
    ``lenpen`` from there.

    Raises:
        UsageError: a marker that is blank, no sample rate, no such tokeniser, or an entry of
            ``extra`` that is one of ``RESULTS``.
    """

    name: str | None = setting("name of the system", None, unset="the hypotheses' file")
    log: Path | None = setting(
        "what fairseq-generate logged: the model's description of itself, and its speed", None
    )
    extra: Mapping[str, Any] | Sequence[tuple[str, Any]] = setting(
        "more entries for the JSON file", (), type=parse_extra, nargs="+", metavar="KEY=VALUE"
    )
    tokenize: str | None = setting(
        "tokeniser of BLEU", None, choices=sorted(BLEU.TOKENIZERS), unset="by the target language"
    )
    target_lang: str = setting(
        "language of segments whose manifest names none in tgt_lang", "", metavar="CODE"
    )
    after: str | None = setting(
        "score what follows the last MARKER of hypothesis and reference", None, metavar="MARKER"
    )
    rate: int | None = setting(
        "sample rate of n_frames", None, metavar="HZ", unset="as each audio file's header says"
    )
    comet: Path | None = setting("score with this COMET model too", None, metavar="MODEL_DIR")
    comet_python: str | None = setting(
        "interpreter that has COMET", None, metavar="PYTHON", unset="this one"
    )

    triples: int = setting("source/hypothesis/reference triples to show", 0, metavar="N")

    def __post_init__(self) -> None:
        at_least(0, triples=self.triples)
        if taken := sorted({*dict(self.extra)}.intersection(RESULTS)):
            raise UsageError(f"{taken[0]!r} is a result of its own; choose another key")
        if self.tokenize not in (None, *BLEU.TOKENIZERS):
            known = ", ".join(sorted(BLEU.TOKENIZERS))
            raise UsageError(f"--tokenize {self.tokenize}: unknown; choose one of {known}")
        if self.after is not None and not self.after.strip():
            raise UsageError("--after: give a text that is not blank, such as ' => '")
        if self.rate is not None and self.rate < 1:
            raise UsageError(f"--rate {self.rate}: give samples a second, such as 16000")


def score_split(
    manifest: Path,
    output: Path,
    options: ScoringOptions | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Everything that goes into a score file, as :func:`read_scores` of ``comparison`` reads it.

    Transcripts, where all rows have the task asr, get error rates too. Warns of hypotheses without
    the marker, which count as empty, and of durations that are guessed.

    Args:
        manifest: that was translated; its audio need not be there.
        output: fairseq-generate's generate-SUBSET.txt.
        options: how to score.
        say: is given a line for each score as soon as it is there.

    Raises:
        ManifestError: the manifest cannot be read.
        ScoreError: the output cannot, or has too few or too many hypotheses; or the language, the
            tokeniser, the log or COMET does not do.
    """
    manifest, output, options = Path(manifest), Path(output), options or ScoringOptions()
    name = options.name or output.stem
    rows, hypotheses = _translated(manifest, output)
    _say_triples(rows, hypotheses, options.triples, say)
    model = read_signature(options.log) if options.log else None
    speed = read_speed(options.log) if options.log else None
    hypotheses, references = _marked(rows, hypotheses, options.after)
    language, tokenize = _tokenizer(manifest, rows, references, options)
    result = score(hypotheses, references, tokenize, language)
    content: dict[str, Any] = {"name": name, **asdict(result), "tokenize": tokenize}
    say(result.line(name))
    transcripts = all(row.task == "asr" for row in rows)
    sources = [row.src_text for row in rows]
    if transcripts:
        content |= _error_rates(hypotheses, references, language, say)
    if options.comet:
        python = options.comet_python or sys.executable
        content["comet"] = comet_score(options.comet, python, sources, hypotheses, references)
        say(f"  COMET = {content['comet']:.4f} ({options.comet.name})")
    seconds, assumed = segment_seconds(manifest, rows, options.rate)
    if assumed:
        where = "their audio is not here (see --rate)"
        logger.warning(f"durations of {assumed} segments taken at 16 kHz: {where}")
    durations = by_duration(hypotheses, references, seconds, tokenize, transcripts, language)
    content["durations"] = durations
    say(f"  BLEU by duration: {_in_words(durations)}")
    settings = {"split": manifest.stem, **dict(options.extra)}
    depends = {**settings, "system": name, "after": options.after}
    content["full_signature"] = full_signature(result.signature, len(rows), depends, model)
    say(f"  signature: {content['full_signature']}")
    optional = {"after": options.after, "model": model, "segments_per_second": speed}
    content |= {key: value for key, value in optional.items() if value} | settings
    content["sentences"] = {
        "ids": [row.id for row in rows],
        "sources": sources,
        "references": references,
        "hypotheses": hypotheses,
    }
    return content


def _translated(manifest: Path, output: Path) -> tuple[list[Row], list[str]]:
    """A manifest's rows, and a hypothesis for each of them."""
    rows = read_manifest(manifest, check_audio=False).rows
    generated = read_generated(output)
    try:
        return rows, in_order(generated, len(rows))
    except ScoreError as error:
        raise ScoreError(f"{output} for {manifest}: {error}") from None


def _say_triples(
    rows: Sequence[Row], hypotheses: Sequence[str], count: int, say: Callable[[str], object]
) -> None:
    """Source, hypothesis and reference of ``count`` segments, spread evenly; four lines each."""
    count = min(count, len(rows))
    for index in (i * len(rows) // count for i in range(count)):
        row = rows[index]
        say(
            f"[{row.id}]\n  source      {row.src_text}\n  hypothesis  {hypotheses[index]}\n"
            f"  reference   {row.tgt_text}"
        )


def _in_words(durations: Mapping[str, Mapping[str, Any]]) -> str:
    parts = durations.items()
    return ", ".join(f"{s} s {each['bleu']:.2f} ({each['segments']} segments)" for s, each in parts)


def _error_rates(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    say: Callable[[str], object],
) -> dict[str, float]:
    rates = transcript_error_rates(hypotheses, references, language)
    for key in ("wer", "cer"):
        if key in rates:
            figures = f"{rates[key]:.2f} lower case without punctuation"
            say(f"  {key.upper()} = {figures}, {rates[f'{key}_raw']:.2f} as it is")
    return rates


def _marked(
    rows: Sequence[Row], hypotheses: Sequence[str], after: str | None
) -> tuple[Sequence[str], list[str]]:
    """Hypotheses and references, each from the marker on; a reference without it is whole."""
    references = [row.tgt_text for row in rows]
    if not after:
        return hypotheses, references
    hypotheses, without = after_marker(hypotheses, after)
    if without:
        logger.warning(f"{without} of {len(rows)} hypotheses lack {after!r}: scored as empty")
    ends = zip(references, after_marker(references, after)[0], strict=True)
    return hypotheses, [end if after.strip() in text else text for text, end in ends]


def _tokenizer(
    manifest: Path, rows: Sequence[Row], references: Sequence[str], options: ScoringOptions
) -> tuple[str, str]:
    """The references' language, empty where it is not known, and sacreBLEU's tokeniser for it."""
    codes = [row.tgt_lang or (row.src_lang if row.task == "asr" else "") for row in rows]
    if options.tokenize:
        bleu_metric(options.tokenize)  # where it cannot be had, that comes first
    try:
        # Characters and pieces of words fit any language.
        if options.tokenize in LANGUAGE_NEUTRAL and len(set(codes)) > 1:
            return "", options.tokenize
        language = language_of(codes, references, options.target_lang)
        return language, tokenizer_for(language, options.tokenize)
    except LanguageError as error:
        raise ScoreError(f"{manifest}: {error}") from None
