"""The made-up corpus and backbones of benchmarks/training.py: lengths as MuST-C's, a frontend that costs nothing."""

import argparse
import random
from pathlib import Path

import numpy as np
import soundfile
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaTokenizer, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from benchmarks.startup import sentence, words
from lst_fairseq.data.manifest import write_manifest
from lst_fairseq.data.prompt import INSTRUCTIONS, LST_TEMPLATE, language_name

RATE = 16_000
#: Training segments of MuST-C En-De: 6.4 s on average (408 h, 229,703 segments); words an utterance are close to a
#: lognormal distribution. --max-source-seconds leaves out what is longer than 30 s.
WORDS_LOG_MEAN, WORDS_LOG_DEVIATION = 2.6, 0.6
SECONDS_A_WORD = 0.37
LONGEST = 30.0
#: Llama's tokens for a German sentence by words of the English one.
TOKENS_A_WORD = 2.0
SUBWORDS = 2_000


def write_corpus(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """train.tsv with its wav files, a frontend, and an LLM's configuration and tokenizer, all in ``folder``.

    Args:
        folder: an empty one.
        args: sizes; see benchmarks/training.py.

    Returns:
        mean and largest seconds of speech, and mean target tokens.
    """
    rng, noise = random.Random(1), np.random.default_rng(1)
    vocabulary = words(rng)
    tokenizer = write_backbones(folder, [sentence(rng, vocabulary) for _ in range(2_000)], args)
    (folder / "wav").mkdir()
    rows, seconds, n_tokens = [], [], []
    for i in range(args.utterances):
        n_words = max(1, round(rng.lognormvariate(WORDS_LOG_MEAN, WORDS_LOG_DEVIATION)))
        seconds.append(min(LONGEST, 0.4 + n_words * SECONDS_A_WORD * rng.uniform(0.8, 1.2)))
        wanted = max(1, round(n_words * TOKENS_A_WORD * rng.uniform(0.8, 1.2)))
        ids = [token for _ in range(1 + wanted // 4) for token in tokenizer.encode(sentence(rng, vocabulary))[1:]]
        text = tokenizer.decode(ids[:wanted])
        n_tokens.append(len(tokenizer.encode(text, add_special_tokens=False)))
        n_frames, path = round(seconds[-1] * RATE), folder / "wav" / f"{i}.wav"
        soundfile.write(path, 0.1 * noise.standard_normal(n_frames), RATE)
        row = {"id": str(i), "audio": str(path), "n_frames": n_frames, "src_text": "", "tgt_text": text}
        rows.append({**row, "speaker": "", "src_lang": "en", "tgt_lang": "de", "task": "st"})
    write_manifest(folder / "train.tsv", rows)
    return {
        "seconds": sum(seconds) / len(seconds),
        "longest": max(seconds),
        "target": sum(n_tokens) / len(n_tokens),
    }


def write_backbones(folder: Path, texts: list[str], args: argparse.Namespace) -> LlamaTokenizer:
    """FOLDER/frontend with --features features at 50 Hz, and FOLDER/llm without weights; returns the tokenizer."""
    encoder = Wav2Vec2Config(
        hidden_size=args.features,
        num_hidden_layers=1,
        num_attention_heads=8,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=9,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    Wav2Vec2Model(encoder).save_pretrained(folder / "frontend")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "frontend")
    # The prompt takes as many tokens as it would with Llama's own vocabulary only if its words are frequent.
    prompt = LST_TEMPLATE.format(speech="", instruction=INSTRUCTIONS["st"][0])
    prompt = prompt.format(src_lang=language_name("en"), tgt_lang=language_name("de"))
    tokenizer = LlamaTokenizer().train_new_from_iterator([*texts, *[prompt] * 500], vocab_size=SUBWORDS)
    tokenizer.save_pretrained(folder / "llm")
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=2048,
    ).save_pretrained(folder / "llm")
    # Weights are asked for; the benchmark makes random ones where they are needed.
    save_file({}, folder / "llm" / "model.safetensors")
    return tokenizer
