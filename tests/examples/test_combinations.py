"""The whole recipe, from a corpus in MuST-C's layout to a score, on other backbones than the quickstart's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaTokenizer, Qwen2Tokenizer

from tests.models.frontends.test_frontend_fairseq import save_hubert
from tests.support.helpers import REPOSITORY, SENTENCES
from tests.support.llms import family_config
from tests.support.speech_models import save_bert, save_raw

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def hubert(root: Path) -> Path:
    save_hubert(root)
    return root / "hubert_config.pt"


def wav2vec2_ctc(root: Path) -> Path:
    save_raw(root / "frontend", "wav2vec2_large")
    return root / "frontend"


def w2v_bert(root: Path) -> Path:
    save_bert(root / "frontend")
    return root / "frontend"


def save_llm(root: Path, family: str, tokenizer: Any) -> Path:
    """A tiny LLM with its tokenizer, and room for long speech."""
    torch.manual_seed(31)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = family_config(family, vocab_size=len(tokenizer) + 5, max_position_embeddings=2048, **special)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    return root / "llm"


def qwen2(root: Path) -> Path:
    """Byte-level BPE without a begin of sentence, and a chat template."""
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(SENTENCES, vocab_size=300)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE
    return save_llm(root, "qwen2", tokenizer)


def sentencepiece_like(family: str) -> Callable[[Path], Path]:
    tokenizer = LlamaTokenizer().train_new_from_iterator(SENTENCES, vocab_size=70)
    return lambda root: save_llm(root, family, tokenizer)


COMBINATIONS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path], dict[str, str]]] = {
    "HuBERT .pt, qformer, Qwen2 with LoRA": (
        hubert,
        qwen2,
        {"ADAPTER": "qformer", "STAGE2_MODULES": "adapter,lora", "PROMPT": "chat"},
    ),
    "wav2vec 2.0 CTC, ctc, Mistral": (wav2vec2_ctc, sentencepiece_like("mistral"), {"ADAPTER": "ctc"}),
    "w2v-BERT 2.0, stack, Gemma 2": (w2v_bert, sentencepiece_like("gemma 2"), {"ADAPTER": "stack"}),
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small share of the mini corpus."""
    out = tmp_path_factory.mktemp("combinations") / "mini"
    sizes = ["--train", "16", "--dev", "3", "--test", "4", "--voices", "2", "--langs", "de", "--workers", "1"]
    subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "mini" / "make_corpus.py"), str(out), *sizes],
        check=True,
        capture_output=True,
    )
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_recipe_runs_to_a_score(name: str, mini: Path, tmp_path: Path) -> None:
    frontend, llm, settings = COMBINATIONS[name]
    work = tmp_path / "work"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "VIRTUAL_ENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "MUSTC_ROOT": str(mini),
        "SPEECH_ENCODER": str(frontend(tmp_path)),
        "LLM": str(llm(tmp_path)),
        "ARCH": "lst_tiny",
        "WORK": str(work),
        "SPLITS": "tst-COMMON",
        "STAGE1_UPDATES": "2",
        "STAGE2_UPDATES": "2",
        "BATCH": "4",
        "GLOBAL_BATCH": "4",
        "NUM_WORKERS": "0",
        "MAX_LEN_B": "10",
        "PRECISION": "fp32",
        **settings,
    }
    done = subprocess.run(
        ["bash", str(REPOSITORY / "examples" / "mustc" / "run.sh")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "LST two-stage" in done.stdout and ": BLEU = " in done.stdout
    (file,) = (work / "scores").glob("lst-two-stage*.tst-COMMON.json")
    score = json.loads(file.read_text(encoding="utf-8"))
    assert score["segments"] == 4 and score["model"]["adapter"] == settings["ADAPTER"]
    assert score["model"]["trained"] == settings.get("STAGE2_MODULES", "adapter,llm").split(",")
    assert score["model"]["prompt"]["template"].startswith(settings.get("PROMPT", "USER: {speech}"))
