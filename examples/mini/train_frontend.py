"""Train the mini speech encoder: a small w2v-BERT 2.0 with CTC over characters, saved as `save_pretrained` does.

    python examples/mini/train_frontend.py --corpus data/mini/en-de --out backbones/frontend --updates 1500
    python examples/mini/train_frontend.py --corpus data/digits/en-de --extra-split train_synthetic --init \\
        backbones/frontend --out backbones/digits-frontend --updates 800 --lr 1e-3 --warp 0.25

OUT holds model.safetensors (fp16), config.json, the CTC processor and results.json with the character and word error
rates on dev, tst-COMMON and tst-HE. While training, OUT/checkpoint.pt is written every few minutes; the same command
goes on from it. A finished OUT is left alone.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from grammar import normalise
from must_c import Segment, read_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a checkout that is not installed
from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.data.lengths import padded_batches
from lst_fairseq.models.frontends.log_mel import kaldi_log_mel

CHARACTERS = "' abcdefghijklmnopqrstuvwxyz"
BLANK = 0
VOCABULARY = {"<pad>": BLANK, "<unk>": 1} | {"|" if c == " " else c: i for i, c in enumerate(CHARACTERS, start=2)}
EVALUATION_SPLITS = ("dev", "tst-COMMON", "tst-HE")
#: (model, waveforms [B, T], lengths [B], rng to mask with or None, whether in bfloat16) to log-probabilities
#: [B, frames, characters] and frames [B].
Recognise = Callable[[nn.Module, Tensor, Tensor, random.Random | None, bool], tuple[Tensor, Tensor]]


# ------------------------------------------------------------------------------------------------------------- audio
def load(segment: Segment) -> np.ndarray:
    """float32 [samples] of a segment, 16 kHz mono."""
    with soundfile.SoundFile(segment.wav) as wav:
        if (wav.samplerate, wav.channels) != (SAMPLE_RATE, 1):
            raise SystemExit(f"{segment.wav}: {wav.samplerate} Hz, {wav.channels} channels; 16 kHz mono is needed")
        wav.seek(round(segment.start * SAMPLE_RATE))
        return wav.read(round(segment.seconds * SAMPLE_RATE), dtype="float32")


def augment(waveform: np.ndarray, warp: float, noise_share: float, rng: np.random.Generator) -> np.ndarray:
    """Another voice in another room: speed, pitch and formants changed by up to `warp`, band limit, noise in a share.

    Gain and a stationary filter would change nothing: the features are normalised per utterance and mel bin.
    """
    rate = SAMPLE_RATE * (1 + warp) ** rng.uniform(-1, 1)
    if rng.random() < 0.3:  # nothing above 3.5 to 7 kHz
        limited = 2 * rng.uniform(3_500, 7_000)
        waveform, rate = soxr.resample(waveform, rate, limited, quality="MQ"), limited
    waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="MQ")
    if noise_share < 1 and rng.random() >= noise_share:
        return waveform
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    if rng.random() < 0.5:  # a darker noise
        noise[1:] += rng.uniform(0.3, 0.9) * noise[:-1]
    level = np.sqrt(np.square(waveform).mean() / np.square(noise).mean()) * 10 ** (-rng.uniform(15, 40) / 20)
    return waveform + level * noise


class Segments(Dataset):
    """Waveforms and character ids of segments; `augmentation` is (warp, noise share) or None."""

    def __init__(self, segments: list[Segment], augmentation: tuple[float, float] | None, seed: int) -> None:
        self.segments, self.augmentation, self.seed = segments, augmentation, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
        """key: (epoch, index), so that a resumed training hears what an uninterrupted one does."""
        epoch, index = key
        segment = self.segments[index]
        waveform = load(segment)
        if self.augmentation is not None:
            waveform = augment(waveform, *self.augmentation, np.random.default_rng((self.seed, epoch, index)))
        return waveform, [VOCABULARY["|" if c == " " else c] for c in normalise(segment.english)]


def collate(samples: list[tuple[np.ndarray, list[int]]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Waveforms [B, T], their lengths [B], targets (all in a row) [sum], their lengths [B]."""
    lengths = torch.tensor([len(waveform) for waveform, _ in samples])
    waveforms = torch.zeros(len(samples), int(lengths.max()))
    for row, (waveform, _) in zip(waveforms, samples, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    targets = torch.tensor([i for _, target in samples for i in target])
    return waveforms, lengths, targets, torch.tensor([len(target) for _, target in samples])


def make_batches(segments: list[Segment], batch_seconds: float, rng: random.Random | None) -> list[list[int]]:
    """Indices in batches of similar length, at most `batch_seconds` with padding; shuffled if there is an rng."""
    jitter = [segment.seconds * (rng.uniform(0.9, 1.1) if rng else 1.0) for segment in segments]
    order = sorted(range(len(segments)), key=jitter.__getitem__)
    batches = padded_batches(order, [segment.seconds for segment in segments], batch_seconds)
    if rng:
        rng.shuffle(batches)
    return batches


# ------------------------------------------------------------------------------------------------------------- model
def new_model(args: argparse.Namespace) -> Wav2Vec2BertForCTC:
    if args.init:
        return Wav2Vec2BertForCTC.from_pretrained(args.init, dtype=torch.float32, trust_remote_code=False)
    config = Wav2Vec2BertConfig(
        vocab_size=len(VOCABULARY),
        pad_token_id=BLANK,
        bos_token_id=None,
        eos_token_id=None,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=args.ffn,
        conv_depthwise_kernel_size=args.kernel,
        position_embeddings_type="rotary",  # the fastest on a CPU, by a quarter
        apply_spec_augment=False,
        layerdrop=0.0,
        conformer_conv_dropout=0.0,
        final_dropout=0.0,
        add_adapter=False,
    )
    return Wav2Vec2BertForCTC(config)


def mask_features(features: Tensor, lengths: Tensor, rng: random.Random) -> Tensor:
    """A light SpecAugment: in each utterance up to 10 of 80 mel bins and up to 5 frames become their mean, 0."""
    features = features.clone()
    bins = features.shape[-1] // 2  # two frames are stacked
    stacked = features.view(*features.shape[:2], 2, bins)
    for row, length in zip(stacked, lengths.tolist(), strict=True):
        first, width = rng.randrange(bins), rng.randrange(11)
        row[:, :, first : first + width] = 0.0
        first, width = rng.randrange(max(1, length)), rng.randrange(6)
        row[first : first + width] = 0.0
    return features


def recognise(
    model: Wav2Vec2BertForCTC, waveforms: Tensor, lengths: Tensor, rng: random.Random | None, bf16: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, frames, characters] float32 and frames [B]; features are masked if there is an rng."""
    features, frames = kaldi_log_mel(waveforms, lengths)
    if rng is not None:
        features = mask_features(features, frames, rng)
    mask = (torch.arange(features.shape[1], device=features.device) < frames[:, None]).long()
    with torch.autocast(features.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_features=features, attention_mask=mask).logits
    return logits.float().log_softmax(-1), frames


def edit_distance(hypothesis: list, reference: list) -> int:
    """Insertions, deletions and substitutions between two sequences."""
    row = list(range(len(reference) + 1))
    for i, left in enumerate(hypothesis, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(reference, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@torch.inference_mode()
def error_rates(
    model: nn.Module, segments: list[Segment], device: torch.device, recognise: Recognise = recognise
) -> dict[str, float]:
    """Character and word error rates in per cent, greedy decoding."""
    model.eval()
    names = {i: " " if name == "|" else name for name, i in VOCABULARY.items()}
    counts = np.zeros(4)  # character errors, characters, word errors, words
    for batch in make_batches(segments, 80.0, None):
        data = Segments(segments, None, 0)
        waveforms, lengths, _, _ = collate([data[0, index] for index in batch])
        scores, frames = recognise(model, waveforms.to(device), lengths, None, False)
        best = scores.argmax(-1).cpu()
        for index, ids, length in zip(batch, best, frames.tolist(), strict=True):
            ids = torch.unique_consecutive(ids[:length]).tolist()
            hypothesis = " ".join("".join(names[i] for i in ids if i > 1).split())
            reference = normalise(segments[index].english)
            errors = edit_distance(list(hypothesis), list(reference))
            word_errors = edit_distance(hypothesis.split(), reference.split())
            counts += (errors, len(reference), word_errors, len(reference.split()))
    model.train()
    return {"cer": round(100 * counts[0] / counts[1], 2), "wer": round(100 * counts[2] / counts[3], 2)}


def save(model: Wav2Vec2BertForCTC, out: Path, results: dict) -> None:
    """Weights in fp16 (half the size), to be computed with in fp32; the processor; results.json last, it says done."""
    model.half().save_pretrained(out)
    model.float()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    # from_pretrained computes in the type named here.
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    (out / "vocab.json").write_text(json.dumps(VOCABULARY), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(out / "vocab.json"), pad_token="<pad>", bos_token=None, eos_token=None)
    extractor = SeamlessM4TFeatureExtractor()
    Wav2Vec2BertProcessor(extractor, tokenizer).save_pretrained(out)
    extractor.save_pretrained(out)  # the processor keeps it in its own file, where not every reader looks
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- training
def learning_rate(update: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then linear decay to a hundredth."""
    warm = args.warmup * args.updates
    if update < warm:
        return args.lr * (update + 1) / warm
    return args.lr * max(0.01, (args.updates - update) / (args.updates - warm))


def batches_from(segments: list[Segment], args: argparse.Namespace, update: int) -> list[list[tuple[int, int]]]:
    """The batches of updates `update` to the last, as keys of Segments."""
    keys, epoch = [], 0
    while len(keys) < args.updates:
        rng = random.Random(f"{args.seed}/{epoch}")
        batches = make_batches(segments, args.batch_seconds, rng)
        keys += [[(epoch, index) for index in batch] for batch in batches]
        epoch += 1
    return keys[update : args.updates]


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train(
    args: argparse.Namespace,
    device: torch.device,
    model: nn.Module,
    recognise: Recognise = recognise,
) -> dict:
    """Train the model; a few figures of the training."""
    splits = ("train", *args.extra_split)
    segments = [s for corpus in args.corpus for split in splits for s in read_split(corpus, split)]
    model.to(device).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    parameters = sum(p.numel() for p in model.parameters())
    hours = sum(s.seconds for s in segments) / 3600
    print(f"{len(segments)} segments, {hours:.1f} h; {parameters / 1e6:.2f} M parameters; on {device}", flush=True)

    checkpoint, update, spent = args.out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        update, spent = state["update"], state["cpu_seconds"]
        print(f"going on from update {update}", flush=True)

    batches = batches_from(segments, args, update)
    loader = DataLoader(
        Segments(segments, (args.warp, args.noise), args.seed),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=args.workers,
    )
    started, saved, total, count = cpu_seconds(), time.monotonic(), 0.0, 0
    for waveforms, lengths, targets, target_lengths in loader:
        rng = random.Random(f"{args.seed}/mask/{update}")
        scores, frames = recognise(model, waveforms.to(device), lengths, rng, args.bf16)
        loss = F.ctc_loss(
            scores.transpose(0, 1),
            targets.to(device),
            frames,
            target_lengths.to(device),
            BLANK,
            reduction="sum",
            zero_infinity=True,
        ) / len(targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, args)
        optimizer.step()
        total, count, update = total + loss.item(), count + 1, update + 1
        if update % args.log_every == 0 or update == args.updates:
            elapsed = spent + cpu_seconds() - started
            print(f"update {update}/{args.updates} loss {total / count:.4f} cpu {elapsed:.0f} s", flush=True)
            total, count = 0.0, 0
        if time.monotonic() - saved > 60 * args.save_minutes:
            elapsed = spent + cpu_seconds() - started
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"update": update, "cpu_seconds": elapsed}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").rename(checkpoint)
            saved = time.monotonic()
    figures = {
        "parameters": parameters,
        "updates": args.updates,
        "segments": len(segments),
        "hours": round(hours, 2),
        "seed": args.seed,
        "cpu_seconds": round(spent + cpu_seconds() - started),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    return figures


def training_arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser of everything but a new model's size."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, nargs="+", required=True, metavar="ROOT/en-LANG", help="in MuST-C's layout"
    )
    parser.add_argument(
        "--extra-split", nargs="*", default=[], metavar="SPLIT", help="train on these splits of each corpus, too"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model goes")
    parser.add_argument("--init", type=Path, metavar="DIR", help="start from this trained encoder, not from nothing")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (default 2e-3)")
    parser.add_argument("--warmup", type=float, default=0.08, help="share of the updates (default 0.08)")
    parser.add_argument("--batch-seconds", type=float, default=80.0, help="speech in a batch (default 80)")
    parser.add_argument(
        "--warp", type=float, default=0.15, help="change of speed and pitch by up to this share (default 0.15)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.7,
        metavar="SHARE",
        help="share of utterances to which noise is added (default 0.7); a model that never heard digital silence, "
        "whose log-mel values are far from all others, fails on recordings with some in them",
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load audio (default 0: none)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50, metavar="UPDATES")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="between checkpoints (default 3)")
    return parser


def run(
    args: argparse.Namespace,
    new_model: Callable[[argparse.Namespace], nn.Module],
    recognise: Recognise,
    save: Callable[[nn.Module, Path, dict], None],
) -> None:
    """Train, measure and save a model, unless that is done already."""
    if (args.out / "results.json").exists():
        print(f"{args.out} is finished: {(args.out / 'results.json').read_text(encoding='utf-8')}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(args)
    results = train(args, device, model, recognise)
    # With several corpora, the error rates are those of the first.
    for split in EVALUATION_SPLITS:
        results[split] = error_rates(model, read_split(args.corpus[0], split), device, recognise)
    save(model, args.out, results)
    (args.out / "checkpoint.pt").unlink(missing_ok=True)
    print(json.dumps(results, indent=1))


def main() -> None:
    parser = training_arguments(__doc__)
    size = parser.add_argument_group("size of a new encoder")
    size.add_argument("--hidden", type=int, default=192)
    size.add_argument("--layers", type=int, default=4)
    size.add_argument("--heads", type=int, default=4)
    size.add_argument("--ffn", type=int, default=384)
    size.add_argument("--kernel", type=int, default=15, help="of the depthwise convolutions")
    run(parser.parse_args(), new_model, recognise, save)


if __name__ == "__main__":
    main()
