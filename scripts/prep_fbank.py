#!/usr/bin/env python3
"""Filterbank features, vocabulary and settings for fairseq's own speech_to_text task, from manifests of audio segments.

    python scripts/prep_fbank.py --manifests results/mustc-de/data --out results/mustc-de/baseline/data
    python scripts/prep_fbank.py --manifests data --out fbank --splits train dev tst-COMMON tst-HE --vocab-size 1000

What fairseq's recipe for MuST-C does, without torchaudio: 80 log-mel bins of the 16-bit scaled waveform, one .npy a
segment in an uncompressed zip a split, which fairseq reads by byte offset; normalisation per utterance and SpecAugment
as transforms in config.yaml; a sentencepiece unigram vocabulary of the training targets. As there, training segments
shorter than 5 or longer than 3,000 frames are left out, and counted; of other splits every segment is kept, in order.
Splits that are there already are kept. Needs kaldi-native-fbank.
"""

import argparse
import io
import os
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import sentencepiece
import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from lst_fairseq.data.audio import SAMPLE_RATE, AudioError, Segment, read_segment
from lst_fairseq.data.manifest import ManifestError, Row, atomic_text, read_manifest, write_manifest

BINS = 80
MIN_FRAMES, MAX_FRAMES = 5, 3000  # of a training segment, as in fairseq's recipe
WINDOW, SHIFT = SAMPLE_RATE * 25 // 1000, SAMPLE_RATE // 100  # samples
COPIED_COLUMNS = ("id", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang", "task")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # fairseq's Dictionary has these of its own, in this order


def fbank(waveform: np.ndarray) -> np.ndarray:
    """Log-mel features ``[frames, 80]`` (float32; 25 ms windows, 10 ms apart) of a 16 kHz waveform ``[T]`` in [-1, 1].

    A waveform too short for MIN_FRAMES, on which the baseline's convolutions would fail, is lengthened by silence.
    """
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0  # as torchaudio's, which fairseq calls; kaldi's own default is noise
    options.mel_opts.num_bins = BINS
    options.use_energy = False
    shortest = WINDOW + (MIN_FRAMES - 1) * SHIFT
    waveform = np.pad(waveform, (0, max(0, shortest - len(waveform))))
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, waveform * 2**15)  # kaldi's scale: 16-bit integers
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)]).astype(np.float32)


def encoded_fbank(segment: Segment) -> tuple[bytes, int]:
    """The features of a segment as the bytes of a .npy file, and their number of frames."""
    features = fbank(read_segment(segment))
    buffer = io.BytesIO()
    np.save(buffer, features)
    return buffer.getvalue(), len(features)


class StoredZip:
    """An uncompressed zip that tells where in the file each entry's bytes lie."""

    def __init__(self, path: Path):
        self.file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def add(self, name: str, data: bytes) -> int:
        """Append an entry and return the offset of its bytes: they are the last ones written."""
        self.file.writestr(zipfile.ZipInfo(name), data)
        return self.file.fp.tell() - len(data)

    def __enter__(self) -> "StoredZip":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def prepare_split(split: str, rows: list[Row], out: Path, workers: int) -> None:
    """Write OUT/SPLIT.zip, then OUT/SPLIT.tsv, which is there only once the zip is whole."""
    is_train = split.startswith("train")
    archive = out / f"{split}.zip"
    partial = out / f"{split}.zip.partial"
    kept: list[dict[str, object]] = []
    with StoredZip(partial) as stored, ProcessPoolExecutor(workers) as pool:
        features = pool.map(encoded_fbank, [row.segment for row in rows], chunksize=16)
        for row, (data, frames) in zip(rows, tqdm(features, split, len(rows), unit="seg"), strict=True):
            if is_train and not MIN_FRAMES <= frames <= MAX_FRAMES:
                continue
            start = stored.add(f"{row.line}.npy", data)
            columns = {name: getattr(row, name) for name in COPIED_COLUMNS}
            kept.append({**columns, "audio": f"{archive.resolve()}:{start}:{len(data)}", "n_frames": frames})
    os.replace(partial, archive)
    write_manifest(out / f"{split}.tsv", kept)
    if len(kept) < len(rows):
        count = f"{len(rows) - len(kept)} of {len(rows)}"
        print(f"{split}: left out {count} segments, outside {MIN_FRAMES} to {MAX_FRAMES} frames")


def prepare_vocabulary(texts: list[str], size: int, out: Path) -> None:
    """Train OUT/spm.model on the targets and write its pieces as OUT/dict.txt, fairseq's Dictionary."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.writelines(text + "\n" for text in texts)
        file.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=file.name,
            model_prefix=str(out / "spm"),
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus may not have so many pieces
            character_coverage=1.0,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    pieces = (model.id_to_piece(i) for i in range(len(model)))
    with atomic_text(out / "dict.txt") as file:
        file.writelines(f"{piece} 1\n" for piece in pieces if piece not in SPECIAL)


def data_config(out: Path, time_mask: int) -> dict[str, object]:
    """fairseq's S2TDataConfig: its recipe's, with the SpecAugment policy "LibriSpeech basic"."""
    return {
        "vocab_filename": "dict.txt",
        "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": str((out / "spm.model").resolve())},
        "input_channels": 1,
        "input_feat_per_channel": BINS,
        "shuffle": False,
        "specaugment": {
            "time_wrap_W": 0,
            "freq_mask_N": 1,
            "freq_mask_F": 27,
            "time_mask_N": 1,
            "time_mask_T": time_mask,
            "time_mask_p": 1.0,
        },
        "feature_transforms": {"*": ["utterance_cmvn"], "_train": ["utterance_cmvn", "specaugment"]},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifests", type=Path, required=True, help="folder with SPLIT.tsv, from prep_mustc.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--splits", nargs="+", default=["train", "dev", "tst-COMMON"], help="with train")
    parser.add_argument("--vocab-size", type=int, default=8000, help="sentencepiece pieces (default: 8000)")
    parser.add_argument("--time-mask", type=int, default=100, help="SpecAugment's longest mask (default: 100 frames)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if "train" not in args.splits:
        parser.error("--splits: train has to be among them, its targets make the vocabulary")

    args.out.mkdir(parents=True, exist_ok=True)
    try:
        manifests = {split: read_manifest(args.manifests / f"{split}.tsv").rows for split in args.splits}
        for split, rows in manifests.items():
            if (args.out / f"{split}.tsv").exists():
                print(f"{split}: there already")
            else:
                prepare_split(split, rows, args.out, args.workers)
    except (ManifestError, AudioError) as error:
        sys.exit(f"error: {error}")
    prepare_vocabulary([row.tgt_text for row in manifests["train"]], args.vocab_size, args.out)
    with atomic_text(args.out / "config.yaml") as file:
        yaml.safe_dump(data_config(args.out, args.time_mask), file, sort_keys=False)


if __name__ == "__main__":
    main()
