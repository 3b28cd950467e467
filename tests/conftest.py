"""Tiny backbones with the real classes, saved by the real code, and a tiny corpus; all seeded, nothing downloaded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist runs a test on each core

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

import lst_fairseq
from tests.support.helpers import SENTENCES, write_tsv
from tests.support.speech_models import save_speech_model

lst_fairseq.register()
torch.set_num_threads(1)

SAMPLE_RATE = 16_000


def save_wav2vec2(path: Path, do_normalize: bool = True) -> None:
    torch.manual_seed(11)
    config = Wav2Vec2Config(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=9,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        feat_proj_dropout=0.1,
        mask_time_prob=0.05,
    )
    Wav2Vec2ForCTC(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=True).save_pretrained(path)


def save_wav2vec2_bert(path: Path) -> None:
    torch.manual_seed(12)
    config = Wav2Vec2BertConfig(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_depthwise_kernel_size=5,
        add_adapter=False,
    )
    Wav2Vec2BertForCTC(config).save_pretrained(path)
    from transformers import SeamlessM4TFeatureExtractor

    SeamlessM4TFeatureExtractor().save_pretrained(path)


def save_whisper(path: Path, window_seconds: int = 2) -> None:
    """A Whisper whose window is shorter than 30 s, so that tests are fast and windows are crossed."""
    torch.manual_seed(13)
    config = WhisperConfig(
        vocab_size=20,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=50 * window_seconds,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperForConditionalGeneration(config).save_pretrained(path)
    WhisperFeatureExtractor(feature_size=80, chunk_length=window_seconds).save_pretrained(path)


def save_llama(path: Path, n_unused: int = 3, seed: int = 14, tied: bool = True, **settings: Any) -> None:
    """A Llama with grouped-query attention, and more output ids than its tokenizer has tokens."""
    tokenizer = LlamaTokenizer().train_new_from_iterator(SENTENCES, vocab_size=70)
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer) + n_unused,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": tied,
            "initializer_range": 0.2,
            **settings,
        }
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of tiny pretrained models."""
    root = tmp_path_factory.mktemp("backbones")
    save_wav2vec2(root / "wav2vec2")
    save_wav2vec2_bert(root / "wav2vec2_bert")
    save_whisper(root / "whisper")
    save_llama(root / "llama")
    save_llama(root / "llama_other", seed=15)
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture(scope="session")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Directory of a tiny speech encoder of a kind that support/speech_models.py has, saved when first asked for."""
    directories: dict[str, str] = {}

    def directory(kind: str) -> str:
        if kind not in directories:
            directories[kind] = save_speech_model(kind, tmp_path_factory.mktemp("speech") / kind)
        return directories[kind]

    return directory


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests train (12 segments), dev (5) and test (5) over two long wav files, with durations of 0.5 to 2 s."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(3)
    for split, count in (("train", 12), ("dev", 5), ("test", 5)):
        talk = (0.1 * rng.standard_normal(30 * SAMPLE_RATE)).astype(np.float32)
        soundfile.write(root / f"{split}.wav", talk, SAMPLE_RATE)
        rows, offset = [], 1000
        for i in range(count):
            frames = int(rng.integers(SAMPLE_RATE // 2, 2 * SAMPLE_RATE))
            audio = f"{root / f'{split}.wav'}:{offset}:{frames}"
            rows.append({"id": f"{split}_{i}", "audio": audio, "n_frames": frames, "tgt_text": SENTENCES[i]})
            offset += frames + 500
        write_tsv(root / f"{split}.tsv", rows)
    (root / "config.yaml").write_text("use_audio_input: true\ntarget_lang: de\n", encoding="utf-8")
    return root
