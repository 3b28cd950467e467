#!/usr/bin/env python3
"""A part of a manifest's segments, the same ones each time; or a manifest of transcription from one of translation.

    python scripts/select_manifest.py --manifest data/train.tsv --out data/train_10.tsv --fraction 0.1
    python scripts/select_manifest.py --manifest data/train.tsv --out data/train_asr.tsv --asr

Which segments are kept depends on their ids and --seed alone, so that a smaller part lies within a larger one. With
--asr the transcript (src_text) becomes the target and the task `asr`; segments without a transcript are left out and
counted. Train on both with --train-subset train,train_asr.
"""

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.data.manifest import ManifestError, read_columns, write_manifest
from lst_fairseq.utils.files import file_errors_in_one_line

Rows = list[dict[str, str]]


def part(rows: Rows, fraction: float, seed: int) -> Rows:
    """``fraction`` of the rows, rounded, at least one, in their order: those whose ids hash lowest with the seed."""
    count = max(1, round(fraction * len(rows)))
    order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{seed}/{rows[i]['id']}".encode()).digest())
    return [rows[i] for i in sorted(order[:count])]


def transcription(rows: Rows) -> Rows:
    """The rows that have a transcript, with it as the target."""
    spoken = [row for row in rows if (row.get("src_text") or "").strip()]
    return [
        {**row, "tgt_text": row["src_text"], "tgt_lang": row.get("src_lang") or "", "task": "asr"} for row in spoken
    ]


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to read")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the segments to keep (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="another seed keeps others (default: %(default)s)")
    parser.add_argument("--asr", action="store_true", help="the transcript as the target")
    args = parser.parse_args(argv)
    if not 0 < args.fraction <= 1:
        parser.error(f"--fraction {args.fraction}: give a number above 0, up to 1")
    try:
        rows = read_columns(args.manifest)
        kept = part(rows, args.fraction, args.seed)
        if args.asr:
            kept = transcription(kept)
        if not kept:
            raise ManifestError(f"{args.manifest}: no segment has a transcript; --asr needs the column src_text")
        write_manifest(args.out, kept)
    except ManifestError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {len(kept)} of {len(rows)} segments")


if __name__ == "__main__":
    main()
