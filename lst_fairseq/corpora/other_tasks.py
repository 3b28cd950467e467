"""Manifests of other tasks from manifests of speech translation: translation of text, and transcription."""

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lst_fairseq.data.manifest import (
    COLUMNS,
    ManifestError,
    read_columns,
    read_manifest,
    write_manifest,
)
from lst_fairseq.utils.arguments import check_apart
from lst_fairseq.utils.text_files import read_text

NOTHING_RECOGNISED = "..."


def write_text_manifests(
    manifests: Path,
    out: Path,
    splits: Sequence[str],
    transcripts: Path | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Write OUT/SPLIT.tsv of text alone: the transcript takes the place of the audio, the task is ``mt``.

    The data configuration is copied along. A segment that recognition left empty becomes "...", since
    no test segment may be lost.

    Args:
        manifests: folder with SPLIT.tsv.
        out: folder for the text manifests, made where there is none.
        splits: which of them.
        transcripts: folder with SPLIT.tsv of ``lst transcribe``; src_text by default.
        say: is given a line for each split.

    Raises:
        ManifestError, Unreadable: a segment has no transcript, named, or a file cannot be read; then
            nothing is written.
        UsageError: ``out`` is ``manifests``.
    """
    check_apart(manifests, out, "--out")
    made = {}
    for split in splits:
        found = read_transcripts(transcripts / f"{split}.tsv") if transcripts else None
        made[split] = text_rows(manifests / f"{split}.tsv", found)
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in made.items():
        say(f"{split}: {write_manifest(out / f'{split}.tsv', rows)} segments")
    if (manifests / "config.yaml").is_file():
        shutil.copy(manifests / "config.yaml", out / "config.yaml")


def read_transcripts(path: Path) -> dict[str, str]:
    """Columns ``id`` and ``transcript`` of a TSV file."""
    text = read_text(path, "recognise that split first")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        return {row["id"]: row["transcript"] or "" for row in rows}
    except csv.Error as error:
        raise ManifestError(f"{path}: {error}; recognise that split again") from None
    except KeyError as error:
        raise ManifestError(
            f"{path}:1: no column {error}; it has to have id and transcript"
        ) from None


def text_rows(manifest: Path, transcripts: dict[str, str] | None) -> list[dict[str, object]]:
    """The rows of one split's text manifest.

    Raises:
        ManifestError: a segment has no transcript, named.
    """
    rows = []
    for row in read_manifest(manifest, check_audio=False).rows:
        text = row.src_text
        if transcripts is not None:
            if row.id not in transcripts:
                raise ManifestError(
                    f"{manifest}:{row.line}: no transcript of {row.id}; recognise the whole split"
                )
            text = transcripts[row.id].strip() or NOTHING_RECOGNISED
        elif not text.strip():
            raise ManifestError(
                f"{manifest}:{row.line}: {row.id} has no src_text; give --transcripts"
            )
        columns = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
        rows.append({**columns, "audio": "", "n_frames": 0, "src_text": text, "task": "mt"})
    return rows


def write_transcription(manifest: Path, out: Path) -> tuple[int, int]:
    """Write a manifest of transcription: the transcript becomes the target, the task is ``asr``.

    Segments without a transcript are left out.

    Returns:
        How many segments it has, and how many ``manifest`` had.

    Raises:
        ManifestError: no segment has a transcript.
        UsageError: ``out`` is ``manifest``.
    """
    check_apart(manifest, out, "--out")
    rows = read_columns(manifest)
    kept = [
        {**row, "tgt_text": row["src_text"], "tgt_lang": row.get("src_lang") or "", "task": "asr"}
        for row in rows
        if (row.get("src_text") or "").strip()
    ]
    if not kept:
        raise ManifestError(
            f"{manifest}: no segment has a transcript, which the column src_text has to hold"
        )
    write_manifest(out, kept)
    return len(kept), len(rows)
