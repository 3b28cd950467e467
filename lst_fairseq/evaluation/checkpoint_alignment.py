"""Alignment of checkpoints on a manifest's segments: figures, pictures, and the files of both."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lst_fairseq.data.data_cfg import LstDataConfig
from lst_fairseq.data.manifest import ManifestError, Row, read_manifest
from lst_fairseq.evaluation.alignment import (
    attention_over_speech,
    encode,
    measure,
    nearest_tokens,
    spread_rows,
)
from lst_fairseq.evaluation.alignment_options import AlignmentOptions
from lst_fairseq.evaluation.report.alignment import heat_map, page, token_strip
from lst_fairseq.evaluation.report.files import write_texts
from lst_fairseq.generation.translator import DecodingOptions, Translator
from lst_fairseq.models.llm.families import embedding_outputs


def measured(
    checkpoints: Sequence[Path], data: Path, split: str, options: AlignmentOptions
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Figures and pictures of one checkpoint after the other.

    Args:
        checkpoints: of fairseq-train, or exported.
        data: folder of the manifests.
        split: the manifest in it.
        options: what to measure on.

    Yields:
        What ``measure`` of ``alignment`` returns, with ``checkpoint``, its name; and its pictures
        as ``page`` of ``report.alignment`` takes them.

    Raises:
        ManifestError: fewer than two segments with audio and a transcript.
        CheckpointError: a checkpoint cannot be used.
        ValueError: the LLM has no such layer.
    """
    root = LstDataConfig(data / "config.yaml").audio_root
    manifest = data / f"{split}.tsv"
    rows = spread_rows(read_manifest(manifest, root).rows, options.segments)
    if len(rows) < 2:
        raise ManifestError(
            f"{manifest}: fewer than two segments with audio and a transcript (src_text)"
        )
    for checkpoint, name in zip(checkpoints, names(checkpoints), strict=True):
        translator = Translator(
            checkpoint,
            speech_encoder=options.speech_encoder,
            llm=options.llm,
            device=options.device,
            options=DecodingOptions(beam=1, max_len_b=options.max_len),
        )
        yield _look(translator, name, rows, options)


def names(checkpoints: Sequence[Path]) -> list[str]:
    """A short name for each: its folder's, with the file's where that is not checkpoint_last."""
    found: list[str] = []
    for path in checkpoints:
        name = path.absolute().parent.name
        if path.stem != "checkpoint_last":
            name += f"/{path.stem.removeprefix('checkpoint_')}"
        found.append(name if name not in found else str(path))
    return found


def write_alignment(
    folder: Path,
    split: str,
    checkpoints: Sequence[Mapping[str, Any]],
    pictures: Sequence[Mapping[str, Any]],
) -> list[Path]:
    """Write the figures of all checkpoints, and a page with their pictures.

    Args:
        folder: made where there is none.
        split: that was measured on.
        checkpoints, pictures: as :func:`measured` gives them, one checkpoint after the other.

    Returns:
        Paths of alignment.json and alignment.html.
    """
    content = {"split": split, "checkpoints": checkpoints}
    title = f"Alignment of speech and text, {split}"
    texts = {
        "alignment.json": json.dumps(content, indent=1) + "\n",
        "alignment.html": page(title, checkpoints, pictures),
    }
    return write_texts(folder, texts)


def _look(
    translator: Translator, name: str, rows: Sequence[Row], options: AlignmentOptions
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of one checkpoint, and its pictures."""
    utterances = list(encode(translator, rows, options.batch_size))
    figures = {"checkpoint": name, **measure(utterances, options.candidates, options.seed)}
    vocabulary = embedding_outputs(translator.model.decoder.llm).float().cpu()
    dictionary, pictures = translator.task.target_dictionary, []
    for row in spread_rows(rows, options.pictures):
        utterance = next(each for each in utterances if each.id == row.id)
        seconds = utterance.seconds
        values, ids = nearest_tokens(utterance.speech, vocabulary)
        pieces = [dictionary.string([token]) for token in ids.tolist()]
        attention = attention_over_speech(translator, row, options.layer)
        pictures.append(
            {
                "checkpoint": name,
                "id": row.id,
                "transcript": row.src_text,
                "translation": attention.text,
                "strip": token_strip(pieces, values.tolist(), seconds),
                "attention": heat_map(attention.pieces, attention.weights.tolist(), seconds),
            }
        )
    return figures, pictures
