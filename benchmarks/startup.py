#!/usr/bin/env python3
"""How long training takes to start from a large manifest: reading it, tokenising it, and cutting it into batches.

    python benchmarks/startup.py --lines 230000 --json startup.json

Makes a manifest of segments of talks, whose wav files are headers in front of nothing (sparse), a tokenizer trained on
the manifest's own text, and tiny models; then loads the training split twice, without and with the cache of tokens.
Loading is what fairseq-train does before its first update, apart from building the models.
"""

import argparse
import itertools
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

RATE = 16_000
SEGMENTS_A_TALK = 90
VOCABULARY = 8_000  # words
SUBWORDS = 4_000
BATCHES = 10  # that are read after the start
#: Too small to matter.
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(rng: random.Random) -> list[str]:
    """Made-up words with a few syllables each."""
    syllables = [c + v for c in "bdfghklmnprstwz" for v in ("a", "e", "i", "o", "u", "ä", "ö", "ü", "ei", "au")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(VOCABULARY)]


def sentence(rng: random.Random, vocabulary: list[str]) -> str:
    """Some twenty words, of which a few are frequent, as in a language."""
    chosen = (vocabulary[int(VOCABULARY * rng.random() ** 4)] for _ in range(rng.randint(4, 36)))
    return " ".join(chosen).capitalize() + "."


def write_header(path: Path, frames: int) -> None:
    """A 16 kHz mono wav of zeros that takes no room on the disk."""
    size = 2 * frames
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", size
    )
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def write_corpus(folder: Path, n_lines: int, shortest: float = 0.5, longest: float = 19.0) -> list[str]:
    """train.tsv of that many lines, of segments of ``shortest`` to ``longest`` seconds; returns some of its texts."""
    from lst_fairseq.data.manifest import write_manifest

    rng = random.Random(1)
    vocabulary = words(rng)
    (folder / "wav").mkdir()

    def rows() -> Iterator[dict[str, object]]:
        offset = SEGMENTS_A_TALK * 20 * RATE
        talk = folder
        for i in range(n_lines):
            if i % SEGMENTS_A_TALK == 0:
                talk, offset = folder / "wav" / f"ted_{i // SEGMENTS_A_TALK}.wav", 0
                write_header(talk, SEGMENTS_A_TALK * 20 * RATE)
            frames = int(rng.uniform(shortest, longest) * RATE)
            yield {
                "id": f"ted_{i}",
                "audio": f"{talk}:{offset}:{frames}",
                "n_frames": frames,
                "src_text": sentence(rng, vocabulary),
                "tgt_text": sentence(rng, vocabulary),
                "speaker": f"spk.{i // SEGMENTS_A_TALK}",
                "src_lang": "en",
                "tgt_lang": "de",
                "task": "st",
            }
            offset += frames

    write_manifest(folder / "train.tsv", rows())
    return [sentence(rng, vocabulary) for _ in range(min(20_000, 10 * n_lines))]


def write_models(
    folder: Path, texts: list[str], encoder: Mapping[str, int] = SMALL, llm: Mapping[str, int] = SMALL
) -> None:
    """A byte-level tokenizer as Llama 3 and Qwen have it, and a speech encoder and an LLM of these sizes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers import Wav2Vec2Config as EncoderConfig
    from transformers import Wav2Vec2FeatureExtractor as FeatureExtractor
    from transformers import Wav2Vec2Model as Encoder

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SUBWORDS, special_tokens=list(special.values()), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "llm")
    LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **llm)).save_pretrained(folder / "llm")
    shape = {"conv_dim": (encoder["hidden_size"] // 2,) * 7, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    Encoder(EncoderConfig(**encoder, **shape)).save_pretrained(folder / "encoder")
    FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "encoder")


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Store and print how long a block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    print(f"{name:40} {seconds[name]:8.2f} s", flush=True)


def build(folder: Path, *flags: str) -> tuple[Any, Any]:
    """The task over a folder's manifest and models, and its model, as fairseq-train builds them."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import lst_fairseq

    lst_fairseq.register()

    arguments = [str(folder), "--cpu", "--task", "lst_st", "--arch", "lst_tiny", "--target-lang", "de", *flags]
    arguments += ["--speech-encoder", str(folder / "encoder"), "--llm", str(folder / "llm")]
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model)


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step, from the folder's manifest and models."""
    from lst_fairseq.data.manifest import read_manifest

    task, _ = build(folder)
    seconds: dict[str, float] = {}
    with timed("reading and checking the manifest", seconds):
        read_manifest(folder / "train.tsv")
    for name in ("loading, nothing cached", "loading, tokens cached"):
        with timed(name, seconds):
            task.load_dataset("train")
    with timed("batches of an epoch", seconds):
        iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=4_000)
        batches = iterator.frozen_batches
    print(f"{len(task.dataset('train')):,} segments, {len(batches):,} batches")
    with timed(f"reading {BATCHES} batches after that", seconds):
        for _ in itertools.islice(iterator.next_epoch_itr(shuffle=False), BATCHES):
            pass
    return seconds


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=230_000, help="lines of the manifest (default: 230,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the seconds to this file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, write_corpus(folder, args.lines))
        seconds = measure(folder)
        cache = sum(file.stat().st_size for file in folder.glob(".train.*.npz"))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{cache / 1e6:.0f} MB of cached tokens, {megabytes:,.0f} MB of memory at most")
    if args.json:
        result = {"lines": args.lines, "seconds": seconds, "cache_bytes": cache, "peak_mib": round(megabytes)}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
