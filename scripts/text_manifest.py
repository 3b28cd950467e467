#!/usr/bin/env python3
"""Manifests of text alone from manifests of speech: the transcript takes the place of the audio, the task is `mt`.

    python scripts/text_manifest.py --manifests results/mustc-de/data --out text --splits train dev tst-COMMON
    python scripts/text_manifest.py --manifests results/mustc-de/data --out cascade --splits tst-COMMON \\
        --transcripts transcripts      # transcripts/tst-COMMON.tsv, by scripts/transcribe.py

For training an LLM on the corpus's text pairs (the upper bound of what speech can give) and for cascades. The data
configuration is copied along. Every segment has to have a transcript; one that recognition left empty becomes "...",
since no test segment may be lost.
"""

import argparse
import csv
import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.corpora.preparation import PrepError, read_text
from lst_fairseq.data.manifest import COLUMNS, ManifestError, read_manifest, write_manifest
from lst_fairseq.utils.files import file_errors_in_one_line

NOTHING_RECOGNISED = "..."


def read_transcripts(path: Path) -> dict[str, str]:
    """Columns ``id`` and ``transcript`` of a TSV file."""
    try:
        text = read_text(path, "recognise that split first")
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["id"]: row["transcript"] or "" for row in rows}
    except (PrepError, csv.Error) as error:
        raise ManifestError(str(error)) from None
    except KeyError as error:
        raise ManifestError(f"{path}:1: no column {error}; it has to have id and transcript") from None


def write_text(manifest: Path, out: Path, transcripts: dict[str, str] | None) -> int:
    """Write the text manifest of one split; returns its number of segments.

    Raises:
        ManifestError: a segment has no transcript, named.
    """
    rows = []
    for row in read_manifest(manifest, check_audio=False).rows:
        text = row.src_text
        if transcripts is not None:
            if row.id not in transcripts:
                raise ManifestError(f"{manifest}:{row.line}: no transcript of {row.id}; recognise the whole split")
            text = transcripts[row.id].strip() or NOTHING_RECOGNISED
        elif not text.strip():
            raise ManifestError(f"{manifest}:{row.line}: {row.id} has no src_text; give --transcripts")
        columns = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
        rows.append({**columns, "audio": "", "n_frames": 0, "src_text": text, "task": "mt"})
    write_manifest(out, rows)
    return len(rows)


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="folder with SPLIT.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the text manifests")
    parser.add_argument("--splits", nargs="+", default=["train", "dev", "tst-COMMON"])
    parser.add_argument("--transcripts", type=Path, help="folder with SPLIT.tsv, recognised (default: src_text)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for split in args.splits:
            found = read_transcripts(args.transcripts / f"{split}.tsv") if args.transcripts else None
            print(f"{split}: {write_text(args.manifests / f'{split}.tsv', args.out / f'{split}.tsv', found)} segments")
    except ManifestError as error:
        sys.exit(f"error: {error}")
    if (args.manifests / "config.yaml").is_file():
        shutil.copy(args.manifests / "config.yaml", args.out / "config.yaml")


if __name__ == "__main__":
    main()
