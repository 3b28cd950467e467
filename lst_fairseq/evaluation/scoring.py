"""A split's translations scored: the content of a score file, and the lines that tell of it."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

logger = logging.getLogger(__name__)

#: Entries of a score file that are worked out here.
RESULTS = (
    *("name", *Score.__dataclass_fields__, "wer", "wer_raw", "cer", "cer_raw", "comet"),
    *("durations", "full_signature", "tokenize", "after", "model", "sentences"),
)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How a split is scored, and what is known of its system.

    Attributes:
        name: of the system.
        log: what fairseq-generate logged: the model's description of itself, and its speed.
        extra: more entries of the score file, none of ``RESULTS``. The signature takes ``corpus``,
            ``split``, ``beam`` and ``lenpen`` from there.
        tokenize: sacreBLEU's tokeniser of BLEU; None: the one for the target language.
        target_lang: language code of segments whose manifest names none.
        after: score what follows the last such marker of hypothesis and reference; None: all.
        rate: of the manifest's ``n_frames``, in Hz; None: as each audio file's header says.
        comet: a COMET model, to score with this too.
        comet_python: interpreter that has COMET.
    """

    name: str
    log: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    tokenize: str | None = None
    target_lang: str = ""
    after: str | None = None
    rate: int | None = None
    comet: Path | None = None
    comet_python: str = sys.executable


def read_translated(manifest: Path, output: Path) -> tuple[list[Row], list[str]]:
    """A manifest's rows, and a hypothesis for each of them.

    Args:
        manifest: that was translated; its audio need not be there.
        output: fairseq-generate's generate-SUBSET.txt.

    Raises:
        ManifestError: the manifest cannot be read.
        ScoreError: the output cannot, or has too few or too many hypotheses.
    """
    rows = read_manifest(manifest, check_audio=False).rows
    generated = read_generated(output)
    try:
        return rows, in_order(generated, len(rows))
    except ScoreError as error:
        raise ScoreError(f"{output} for {manifest}: {error}") from None


def triples(rows: Sequence[Row], hypotheses: Sequence[str], count: int) -> Iterator[str]:
    """Source, hypothesis and reference of ``count`` segments, spread evenly; four lines each."""
    count = min(count, len(rows))
    for index in (i * len(rows) // count for i in range(count)):
        row = rows[index]
        yield (
            f"[{row.id}]\n  source      {row.src_text}\n  hypothesis  {hypotheses[index]}\n"
            f"  reference   {row.tgt_text}"
        )


def score_file(
    manifest: Path, rows: Sequence[Row], hypotheses: Sequence[str], options: ScoringOptions
) -> dict[str, Any]:
    """Everything that goes into a score file, as :func:`read_scores` of ``comparison`` reads it.

    Transcripts, where all rows have the task asr, get error rates too. Warns of hypotheses without
    the marker, which count as empty, and of durations that are guessed.

    Args:
        manifest: that was translated.
        rows: all of its segments.
        hypotheses: one for each of them.
        options: how to score.

    Raises:
        ScoreError: the language, the tokeniser, the log or COMET does not do.
    """
    hypotheses, references = _marked(rows, hypotheses, options.after)
    language, tokenize = _tokenizer(manifest, rows, references, options)
    result = score(hypotheses, references, tokenize, language)
    content: dict[str, Any] = {"name": options.name, **asdict(result), "tokenize": tokenize}
    transcripts = all(row.task == "asr" for row in rows)
    sources = [row.src_text for row in rows]
    if transcripts:
        content |= transcript_error_rates(hypotheses, references, language)
    if options.comet:
        content["comet"] = comet_score(
            options.comet, options.comet_python, sources, hypotheses, references
        )
    seconds, assumed = segment_seconds(manifest, rows, options.rate)
    if assumed:
        logger.warning(
            f"durations of {assumed} segments taken at 16 kHz: their audio is not here (see --rate)"
        )
    content["durations"] = by_duration(
        hypotheses, references, seconds, tokenize, transcripts, language
    )
    model = read_signature(options.log) if options.log else None
    speed = read_speed(options.log) if options.log else None
    settings = {"split": manifest.stem, **options.extra}
    depends = {**settings, "system": options.name, "after": options.after}
    content["full_signature"] = full_signature(result.signature, len(rows), depends, model)
    optional = {"after": options.after, "model": model, "segments_per_second": speed}
    content |= {key: value for key, value in optional.items() if value}
    content |= settings
    content["sentences"] = {
        "ids": [row.id for row in rows],
        "sources": sources,
        "references": references,
        "hypotheses": hypotheses,
    }
    return content


def score_lines(content: Mapping[str, Any], comet: str = "") -> list[str]:
    """What there is to say of a score file: its scores, BLEU by duration, and the whole signature.

    Args:
        content: as :func:`score_file` returned it.
        comet: name of the COMET model, if the split was scored with one.
    """
    found = Score(*(content[key] for key in Score.__dataclass_fields__))
    lines = [found.line(content["name"])]
    for key in ("wer", "cer"):
        if key in content:
            raw = f"{content[f'{key}_raw']:.2f} as it is"
            rates = f"{content[key]:.2f} lower case without punctuation, {raw}"
            lines.append(f"  {key.upper()} = {rates}")
    if "comet" in content:
        lines.append(f"  COMET = {content['comet']:.4f} ({comet})")
    parts = (
        f"{name} s {each['bleu']:.2f} ({each['segments']} segments)"
        for name, each in content["durations"].items()
    )
    lines.append(f"  BLEU by duration: {', '.join(parts)}")
    return [*lines, f"  signature: {content['full_signature']}"]


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
