"""Features, vocabulary and settings for fairseq's own speech_to_text task, from manifests of audio segments.

What fairseq's recipe for MuST-C does, without torchaudio: 80 log-mel bins of the 16-bit scaled waveform, one .npy a
segment in an uncompressed zip a split, which fairseq reads by byte offset; normalisation per utterance and SpecAugment
as transforms in config.yaml; a sentencepiece unigram vocabulary of the training targets.
"""

import csv
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from tqdm import tqdm

from lst_fairseq import register
from lst_fairseq.corpora.preparation import is_train
from lst_fairseq.data.audio import SAMPLE_RATE, Segment, read_segment
from lst_fairseq.data.manifest import ManifestError, Row, read_manifest, write_manifest
from lst_fairseq.models.pretrained import model_source
from lst_fairseq.utils.arguments import UsageError, positive
from lst_fairseq.utils.files import atomic_text, replacing
from lst_fairseq.utils.flags import setting

if TYPE_CHECKING:
    from lst_fairseq.models.frontends import SpeechFrontend

BINS = 80
MIN_FRAMES, MAX_FRAMES = 5, 3000  # of a training segment, as in fairseq's recipe
WINDOW, SHIFT = SAMPLE_RATE * 25 // 1000, SAMPLE_RATE // 100  # samples
ENCODED_AT_ONCE = 8  # segments that a speech encoder takes in one batch
COPIED_COLUMNS = ("id", "src_text", "tgt_text", "speaker", "src_lang", "tgt_lang", "task")
#: fairseq's Dictionary has these of its own, in this order.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """What fairseq's own task is to be trained on."""

    vocab_size: int = setting("sentencepiece pieces", 8000, type=positive)
    time_mask: int = setting("SpecAugment's longest mask, in frames", 100)
    asr_vocab_size: int | None = setting(
        "also prepare ASR, with so many pieces", None, type=positive, metavar="N"
    )
    speech_encoder: str | None = setting(
        "its output instead of filterbanks (as --task lst_st)", None, metavar="PATH"
    )
    workers: int | None = setting("processes", None, type=positive, unset="one a core")


def prepare_baseline(
    manifests: Path,
    out: Path,
    splits: Sequence[str] = ("train", "dev", "tst-COMMON"),
    options: BaselineOptions | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Write features, manifests, vocabulary and config.yaml into a folder; splits that are there are kept.

    As in fairseq's recipe, training segments shorter than 5 or longer than 3,000 frames are left out,
    and counted; of other splits every segment is kept, in order.

    Args:
        manifests: folder with SPLIT.tsv.
        out: folder for all that is made.
        splits: which of them; ``train``, whose targets make the vocabulary, among them.
        options: of features and vocabulary.
        say: is given a line on each split that is there already or loses segments.

    Raises:
        ManifestError, AudioError, ValueError: a split, its audio or the speech encoder cannot be used.
    """
    options = options or BaselineOptions()
    if "train" not in splits:
        raise UsageError("--splits: train has to be among them, its targets make the vocabulary")
    out.mkdir(parents=True, exist_ok=True)
    if options.speech_encoder:
        model_source(options.speech_encoder, "--speech-encoder")
    found = {split: read_manifest(manifests / f"{split}.tsv").rows for split in splits}
    frontend = load_frontend(options.speech_encoder) if options.speech_encoder else None
    for split, rows in found.items():
        if (out / f"{split}.tsv").exists():
            say(f"{split}: there already")
            continue
        with encoded([row.segment for row in rows], frontend, options.workers) as features:
            kept = write_split(split, rows, out, features)
        if kept < len(rows):
            count = f"{len(rows) - kept} of {len(rows)}"
            say(f"{split}: left out {count} segments, outside {MIN_FRAMES} to {MAX_FRAMES} frames")
    targets = {"": ([row.tgt_text for row in found["train"]], options.vocab_size)}
    if options.asr_vocab_size:
        write_transcripts("dev", out)
        targets["_asr"] = (write_transcripts("train", out), options.asr_vocab_size)
    width = frontend.output_dim if frontend is not None else BINS
    for suffix, (texts, size) in targets.items():
        write_vocabulary(texts, size, out, suffix)
        with atomic_text(out / f"config{suffix}.yaml") as file:
            config = data_config(out, options.time_mask, width, suffix)
            yaml.safe_dump(config, file, sort_keys=False)


@contextmanager
def encoded(
    segments: list[Segment], frontend: "SpeechFrontend | None", workers: int | None
) -> Iterator[Iterable[tuple[bytes, int]]]:
    """The features of each segment in order, as :func:`as_npy` gives them: filterbanks without a frontend."""
    if frontend is not None:
        yield encoded_by(frontend, segments)
        return
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        yield pool.map(encoded_fbank, segments, chunksize=16)


def fbank(waveform: np.ndarray) -> np.ndarray:
    """Log-mel features ``[frames, 80]`` (float32; 25 ms windows, 10 ms apart) of a 16 kHz waveform ``[T]`` in [-1, 1].

    A waveform too short for MIN_FRAMES, on which the baseline's convolutions would fail, is lengthened by silence.
    """
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    # As torchaudio's, which fairseq calls; kaldi's own default is noise.
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = BINS
    options.use_energy = False
    shortest = WINDOW + (MIN_FRAMES - 1) * SHIFT
    waveform = np.pad(waveform, (0, max(0, shortest - len(waveform))))
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, waveform * 2**15)  # kaldi's scale: 16-bit integers
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)]).astype(
        np.float32
    )


def encoded_fbank(segment: Segment) -> tuple[bytes, int]:
    """The features of a segment as the bytes of a .npy file, and their number of frames."""
    return as_npy(fbank(read_segment(segment)))


def as_npy(features: np.ndarray) -> tuple[bytes, int]:
    """Features ``[frames, width]`` as the bytes of a .npy file, and their number of frames."""
    buffer = io.BytesIO()
    np.save(buffer, features)
    return buffer.getvalue(), len(features)


def load_frontend(path: str) -> "SpeechFrontend":
    """A speech encoder for features, on a GPU if there is one."""
    # PyTorch and transformers take seconds, which filterbanks, or a wrong path, need not wait for.
    register()
    import torch

    from lst_fairseq.models.frontends import build_frontend

    return build_frontend(path).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def encoded_by(frontend: "SpeechFrontend", segments: list[Segment]) -> Iterator[tuple[bytes, int]]:
    """As :func:`encoded_fbank` of each segment in order, with a speech encoder's output for features."""
    import torch

    device = next(frontend.parameters()).device
    for start in range(0, len(segments), ENCODED_AT_ONCE):
        waveforms = [
            torch.from_numpy(read_segment(s)) for s in segments[start : start + ENCODED_AT_ONCE]
        ]
        batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
        with torch.inference_mode():
            features, lengths = frontend(
                batch, torch.tensor([len(w) for w in waveforms], device=device)
            )
        for row, length in zip(features.float().cpu(), lengths.tolist(), strict=True):
            # As many as the baseline's convolutions need at least; what is added is silence.
            yield as_npy(np.pad(row[:length].numpy(), ((0, max(0, MIN_FRAMES - length)), (0, 0))))


def write_split(
    split: str, rows: list[Row], out: Path, encoded: Iterable[tuple[bytes, int]]
) -> int:
    """Write OUT/SPLIT.zip, then OUT/SPLIT.tsv, which is there only once the zip is whole.

    ``encoded`` gives the features of each row in order, as :func:`as_npy` does. Returns how many
    segments it has.
    """
    archive = out / f"{split}.zip"
    kept: list[dict[str, object]] = []
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w") as stored:
        for row, (data, frames) in zip(
            rows, tqdm(encoded, split, len(rows), unit="seg"), strict=True
        ):
            if is_train(split) and not MIN_FRAMES <= frames <= MAX_FRAMES:
                continue
            stored.writestr(zipfile.ZipInfo(f"{row.line}.npy"), data)
            start = stored.fp.tell() - len(data)  # neither compressed nor followed by anything yet
            columns = {name: getattr(row, name) for name in COPIED_COLUMNS}
            kept.append(
                {**columns, "audio": f"{archive.resolve()}:{start}:{len(data)}", "n_frames": frames}
            )
    return write_manifest(out / f"{split}.tsv", kept)


def write_transcripts(split: str, out: Path) -> list[str]:
    """Write OUT/SPLIT_asr.tsv: the same features as OUT/SPLIT.tsv, with transcripts for targets; returns these."""
    with open(out / f"{split}.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    silent = [row["id"] for row in rows if not row["src_text"].strip()]
    if silent:
        raise ManifestError(
            f"{split}.tsv: {len(silent)} segments without src_text ({silent[0]} the first), which ASR needs"
        )
    write_manifest(
        out / f"{split}_asr.tsv",
        [{**row, "tgt_text": row["src_text"], "tgt_lang": row["src_lang"]} for row in rows],
    )
    return [row["src_text"] for row in rows]


def write_vocabulary(texts: list[str], size: int, out: Path, suffix: str = "") -> None:
    """Train OUT/spm.model on texts and write its pieces as OUT/dict.txt, fairseq's Dictionary; both with a suffix."""
    import sentencepiece

    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file,
    ):
        file.writelines(text + "\n" for text in texts)
        file.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=file.name,
            model_prefix=str(Path(folder, "spm")),
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
        for kind in ("vocab", "model"):
            with replacing(out / f"spm{suffix}.{kind}") as beside:
                shutil.copyfile(Path(folder, f"spm.{kind}"), beside)
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / f"spm{suffix}.model"))
    pieces = (model.id_to_piece(i) for i in range(len(model)))
    with atomic_text(out / f"dict{suffix}.txt") as file:
        file.writelines(f"{piece} 1\n" for piece in pieces if piece not in SPECIAL)


def data_config(
    out: Path, time_mask: int, width: int = BINS, suffix: str = ""
) -> dict[str, object]:
    """fairseq's S2TDataConfig: its recipe's, with the SpecAugment policy "LibriSpeech basic"."""
    return {
        "vocab_filename": f"dict{suffix}.txt",
        "bpe_tokenizer": {
            "bpe": "sentencepiece",
            "sentencepiece_model": str((out / f"spm{suffix}.model").resolve()),
        },
        "input_channels": 1,
        "input_feat_per_channel": width,
        "shuffle": False,
        "specaugment": {
            "time_wrap_W": 0,
            "freq_mask_N": 1,
            "freq_mask_F": 27,
            "time_mask_N": 1,
            "time_mask_T": time_mask,
            "time_mask_p": 1.0,
        },
        "feature_transforms": {
            "*": ["utterance_cmvn"],
            "_train": ["utterance_cmvn", "specaugment"],
        },
    }
