#!/usr/bin/env python3
"""Recognise the segments of a manifest with a speech encoder's own CTC head: a TSV file of id and transcript.

    python scripts/transcribe.py --manifest data/tst-COMMON.tsv --speech-encoder models/wav2vec2-large-960h-lv60-self \\
        --out transcripts/tst-COMMON.tsv
    python scripts/transcribe.py --manifest data/tst-COMMON.tsv --speech-encoder wav2vec_vox_960h_pl.pt \\
        --out transcripts/tst-COMMON.tsv

Greedy, every segment, in the manifest's order; examples/mustc/cascade.sh translates it.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.data.manifest import read_manifest
from lst_fairseq.models.pretrained import ctc_source
from lst_fairseq.utils.arguments import device_name, positive, positive_number
from lst_fairseq.utils.files import atomic_text, file_errors_in_one_line


@file_errors_in_one_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="segments to recognise")
    parser.add_argument(
        "--speech-encoder", required=True, help="model with a CTC head: directory, hub id in the cache, or fairseq .pt"
    )
    parser.add_argument("--out", type=Path, required=True, help="TSV file to write")
    parser.add_argument("--dict", type=Path, help="dictionary of a .pt (default: dict.ltr.txt beside it)")
    parser.add_argument(
        "--batch-seconds", type=positive_number, default=160.0, help="of audio at once, padded (default: 160)"
    )
    parser.add_argument("--workers", type=positive, default=8, help="threads that read audio (default: 8)")
    parser.add_argument("--device", type=device_name, help="cuda, cpu, ... (default: a GPU if there is one)")
    parser.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    args = parser.parse_args(argv)
    try:
        ctc_source(args.speech_encoder, args.dict)
        rows = [row for row in read_manifest(args.manifest).rows if not row.is_text]
        # PyTorch and transformers take seconds, which a wrong path need not wait for.
        from lst_fairseq.corpora.recognition import Transcriber, make_batches, read_ahead

        transcriber = Transcriber(args.speech_encoder, args.dict, args.device, args.fp16)
        transcripts: dict[str, str] = {}
        with tqdm(total=len(rows), unit="seg") as progress:
            for batch, waveforms in read_ahead(make_batches(rows, args.batch_seconds), args.workers):
                texts = transcriber.transcribe(waveforms)
                transcripts.update(zip((row.id for row in batch), texts, strict=True))
                progress.update(len(batch))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(args.out) as file:
        file.write("id\ttranscript\n")
        file.writelines(f"{row.id}\t{transcripts[row.id]}\n" for row in rows)


if __name__ == "__main__":
    main()
