"""Backbones through the whole plugin: files that are gone, half-precision LLMs, ways to compute attention."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lst_fairseq.generation.translator import DecodingOptions, Translator
from tests.models.frontends.test_frontend_fairseq import save_hubert
from tests.support.helpers import batch_of, build, read_tsv
from tests.support.running import run_train


def translations(checkpoint: Path, corpus: Path) -> list[list[int]]:
    audio = [row["audio"] for row in read_tsv(corpus / "test.tsv")]
    translator = Translator(checkpoint, options=DecodingOptions(beam=2, max_len_b=6))
    return [t.tokens for t in translator.translate(audio)]


def test_a_fairseq_frontend_that_was_trained_needs_no_file(corpus, backbones, tmp_path):
    """And one that was not says what is missing."""
    save_hubert(tmp_path)
    directories = {**backbones, "wav2vec2": str(tmp_path / "hubert_config.pt")}
    trained = run_train(corpus, directories, tmp_path / "a", train_modules="frontend,adapter", max_update=2).path()
    frozen = run_train(corpus, directories, tmp_path / "b", max_update=1).path()
    expected = translations(trained, corpus)
    assert len(translations(frozen, corpus)) == 5
    (tmp_path / "hubert_config.pt").unlink()
    assert translations(trained, corpus) == expected
    with pytest.raises(ValueError, match=r"hubert_config\.pt: no such "):
        translations(frozen, corpus)


@pytest.mark.parametrize("modules", ["adapter", "adapter,lora"])
def test_a_frozen_llm_in_bfloat16(modules, corpus, backbones):
    """What is trained stays in fp32, and its gradients are close to those of the LLM in fp32."""
    gradients = {}
    for dtype in ("float32", "bfloat16"):
        cfg, task, model = build(corpus, backbones, train_modules=modules, llm_dtype=dtype, lora_dropout=0.0)
        task.load_dataset("train")
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        weight = model.decoder.llm.model.layers[0].mlp.up_proj
        assert getattr(weight, "base_layer", weight).weight.dtype == getattr(torch, dtype)
        loss, *_ = task.build_criterion(cfg.criterion)(model, batch_of(task, "train", [0, 4, 7]))
        loss.backward()
        gradients[dtype] = torch.cat([p.grad.flatten() for p in trained.values()])
    difference = gradients["bfloat16"] - gradients["float32"]
    assert 0 < difference.norm() < 0.1 * gradients["float32"].norm()


def test_an_llm_that_is_trained_is_not_loaded_in_half_precision(corpus, backbones):
    with pytest.raises(ValueError, match=r"--llm-dtype bfloat16 is for an LLM that keeps its weights: .*give --bf16"):
        build(corpus, backbones, train_modules="adapter,llm", llm_dtype="bfloat16")
    with pytest.raises(ValueError, match="--llm-dtype int8: unknown; known: float32, bfloat16, float16, auto"):
        build(corpus, backbones, llm_dtype="int8")


def test_attention_implementations_agree(corpus, backbones):
    logits = []
    for name in ("eager", "sdpa"):
        _, task, model = build(corpus, backbones, attn_implementation=name)
        assert model.decoder.llm.config._attn_implementation == name
        task.load_dataset("dev")
        sample = batch_of(task, "dev", range(5))
        # Beyond a row's own target, logits are of no use.
        logits.append(logits_of(model, sample)[sample["target"].ne(task.target_dictionary.pad())])
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"--attn-implementation flash .*eager, sdpa, flash_attention_2"):
        build(corpus, backbones, attn_implementation="flash")


@torch.no_grad()
def logits_of(model: Any, sample: dict[str, Any]) -> torch.Tensor:
    return model(**sample["net_input"])[0]
