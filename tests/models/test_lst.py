"""Loss, gradients and logits of a mixed batch equal plain transformers, one sentence at a time."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_layers import GradientCheckpointingLayer

from lst_fairseq.models.config import train_modules
from tests.conftest import save_llama
from tests.support.helpers import batch_of, build
from tests.support.reference import (
    alone,
    plain_logits,
    plain_loss,
    plain_prefix,
    plain_prompt,
    targets_of,
    waveforms_of,
)

MIXED = (0, 4, 5, 7, 11)  # train segments whose speech and targets have very different lengths
CRITERIA = {"lst_cross_entropy": {}, "label_smoothed_cross_entropy": {"label_smoothing": 0.0}}


def prepared(corpus: Path, backbones: dict[str, str], *extra: str, **settings: Any) -> tuple[Any, Any, Any]:
    """(criterion, model, mixed batch)"""
    cfg, task, model = build(corpus, backbones, *extra, **settings)
    task.load_dataset("train")
    return task.build_criterion(cfg.criterion), model, batch_of(task, "train", MIXED)


@pytest.fixture(scope="module")
def stage2(corpus: Path, backbones: dict[str, str]) -> tuple[Any, Any, Any]:
    return prepared(corpus, backbones, train_modules="adapter,llm")


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_batch_loss(model: Any, sample: dict[str, Any]) -> Tensor:
    targets = targets_of(sample, model.decoder.dictionary.pad())
    return sum(plain_loss(model, waveform, target) for waveform, target in zip(waveforms_of(sample), targets))


def assert_equal_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Within 1e-5 of each parameter's largest gradient."""
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item(), msg=name)


def test_the_batch_is_mixed(stage2: tuple[Any, Any, Any]) -> None:
    _, model, sample = stage2
    assert len(set(sample["net_input"]["src_lengths"].tolist())) == len(MIXED)
    assert len({len(t) for t in targets_of(sample, model.decoder.dictionary.pad())}) >= 4


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_plain_transformers(
    criterion: str, tied: bool, corpus: Path, backbones: dict[str, str], tmp_path: Path
) -> None:
    """Of every trained parameter, in stage 2; and nothing else has a gradient."""
    save_llama(tmp_path, tied=tied)
    directories = {**backbones, "llama": str(tmp_path)}
    settings = {"criterion": criterion, **CRITERIA[criterion], "train_modules": "adapter,llm"}
    loss_function, model, sample = prepared(corpus, directories, **settings)
    model.train()
    loss, sample_size, log = loss_function(model, sample)
    expected = plain_batch_loss(model, sample)
    assert sample_size == log["ntokens"] == sum(len(t) for t in targets_of(sample, model.decoder.dictionary.pad()))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    got = gradients(model, loss)
    assert got.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert_equal_gradients(got, gradients(model, expected))


@pytest.mark.parametrize("prompt", ["{speech} Deutsch:", "USER: {speech}", "{speech}"])
def test_loss_and_gradients_for_other_prompts(prompt: str, corpus: Path, backbones: dict[str, str]) -> None:
    """Stage 1: only adapter and markers have a gradient."""
    loss_function, model, sample = prepared(corpus, backbones, prompt=prompt)
    loss, _, _ = loss_function(model.train(), sample)
    expected = plain_batch_loss(model, sample)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    got = gradients(model, loss)
    assert all(name.startswith(("encoder.adapter.", "encoder.markers.")) for name in got)
    assert_equal_gradients(got, gradients(model, expected))


@torch.no_grad()
def test_logits_alone_in_a_batch_and_by_transformers(stage2: tuple[Any, Any, Any]) -> None:
    _, model, sample = stage2
    pad = model.decoder.dictionary.pad()
    batch_logits, extra = model(**sample["net_input"])
    assert set(extra) == {"attn", "speech", "speech_lengths"} and extra["attn"] is None
    waveforms, targets = waveforms_of(sample), targets_of(sample, pad)
    for row, (logits, waveform, target) in enumerate(zip(batch_logits, waveforms, targets)):
        by_itself, _ = model(**alone(sample, row, pad)["net_input"])
        expected = plain_logits(model, plain_prefix(model, waveform), [target[:-1].tolist()])
        torch.testing.assert_close(logits[: len(target)], by_itself[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(by_itself, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_label_smoothing_equals_torch(stage2: tuple[Any, Any, Any]) -> None:
    loss_function, model, sample = stage2
    pad = model.decoder.dictionary.pad()
    plain, _, _ = loss_function(model, sample)
    logits, _ = model(**sample["net_input"])
    loss_function.label_smoothing = 0.2
    try:
        loss, _, log = loss_function(model, sample)
        each, _, _ = loss_function(model, sample, reduce=False)
    finally:
        loss_function.label_smoothing = 0.0
    expected = F.cross_entropy(
        logits.transpose(1, 2), sample["target"], ignore_index=pad, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(each, expected[sample["target"].ne(pad)], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log["nll_loss"], plain, rtol=1e-6, atol=0)


@torch.no_grad()
def test_accuracy_and_perplexity(stage2: tuple[Any, Any, Any]) -> None:
    """Over two batches of different sizes, as the trainer aggregates them; half of the targets are made right."""
    loss_function, model, sample = stage2
    pad = model.decoder.dictionary.pad()
    logits, _ = model(**sample["net_input"])
    target, best = sample["target"].clone(), logits.argmax(dim=-1)
    target[:, ::2] = torch.where(target[:, ::2].ne(pad), best[:, ::2], pad)
    kept = target.ne(pad)
    n_right, n_tokens = int((best.eq(target) & kept).sum()), int(kept.sum())
    nll = F.cross_entropy(logits[kept], target[kept], reduction="sum")
    logs = [loss_function(model, {**sample, "target": target})[2], loss_function(model, alone(sample, 1, pad))[2]]
    assert logs[0]["n_correct"] == n_right and logs[0]["ntokens"] == n_tokens and 0.4 < n_right / n_tokens < 0.9
    torch.testing.assert_close(logs[0]["nll_loss"], nll, rtol=1e-6, atol=0)
    with metrics.aggregate() as together:
        type(loss_function).reduce_metrics(logs)
    values = together.get_smoothed_values()
    n_all = n_tokens + logs[1]["ntokens"]
    nll_all = (nll + logs[1]["nll_loss"]).item() / n_all
    assert values["accuracy"] == pytest.approx(100 * (n_right + int(logs[1]["n_correct"])) / n_all, abs=0.01)
    assert values["nll_loss"] == values["loss"] == pytest.approx(nll_all / math.log(2), abs=1e-3)
    assert values["ppl"] == pytest.approx(math.exp(nll_all), rel=1e-2)
    assert "skipped_audio" not in values


@torch.no_grad()
def test_validation_says_how_much_of_the_adapters_outputs_varies(stage2: tuple[Any, Any, Any]) -> None:
    """Within each batch, weighted by its mean square, by the outputs for one sentence at a time."""
    loss_function, model, sample = stage2
    batches = [sample, alone(sample, 1, model.decoder.dictionary.pad())]
    before, after = map(len, plain_prompt(model))
    within, whole = 0.0, 0.0
    for batch in batches:
        outputs = [plain_prefix(model, waveform)[before + 1 : -(after + 1)] for waveform in waveforms_of(batch)]
        vectors = torch.cat(outputs).double().numpy()
        within += ((vectors - vectors.mean(axis=0)) ** 2).sum()
        whole += (vectors**2).sum()
    with metrics.aggregate() as together:
        for batch in batches:
            type(loss_function).reduce_metrics([loss_function(model.eval(), batch)[2]])
    value = together.get_smoothed_values()["adapter_variation"]
    assert value == pytest.approx(100 * within / whole, abs=0.05) and 5 < value < 95
    assert "speech_squares" not in loss_function(model.train(), sample)[2]


@torch.no_grad()
def test_a_collapsed_adapter_is_said_once_a_validation(
    stage2: tuple[Any, Any, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_function, model, sample = stage2
    monkeypatch.setattr("lst_fairseq.criterions.lst_cross_entropy._ENOUGH_VECTORS", 2)
    loss_function(model.eval(), sample)
    assert not caplog.messages
    loss_function(model.train(), sample)
    weight = model.encoder.adapter.projection.weight
    monkeypatch.setattr(weight, "data", torch.zeros_like(weight))  # what is left is the bias
    for said in (1, 2):
        for mode in (model.eval, model.eval, model.train):
            loss_function(mode(), sample)
        assert len(caplog.messages) == said and "of its outputs' mean square 0.0 % varies" in caplog.messages[-1]


def test_sentence_average(stage2: tuple[Any, Any, Any]) -> None:
    loss_function, model, sample = stage2
    loss_function.sentence_avg = True
    try:
        _, sample_size, log = loss_function(model, sample)
    finally:
        loss_function.sentence_avg = False
    assert sample_size == log["sample_size"] == len(MIXED)


class VocabularyRows(TorchDispatchMode):
    """The most rows [rows, V] of any tensor that is made while it is active."""

    def __init__(self, n_words: int):
        super().__init__()
        self.n_words, self.most = n_words, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.size(-1) == self.n_words:
                self.most = max(self.most, tensor.numel() // self.n_words)
        return result


def test_logits_exist_for_target_positions_only(stage2: tuple[Any, Any, Any]) -> None:
    """Forward and backward: no tensor as wide as the vocabulary has a row for a prompt or speech position, or for the
    padding of a target."""
    loss_function, model, sample = stage2
    with VocabularyRows(len(model.decoder.dictionary)) as seen:
        loss, _, _ = loss_function(model, sample)
        loss.backward()
    assert seen.most == sample["ntokens"] < sample["target"].numel()


@pytest.mark.parametrize("modules", ["adapter", "adapter,llm"])
def test_gradient_checkpointing(modules: str, corpus: Path, backbones: dict[str, str]) -> None:
    """Equal loss and gradients, and each layer runs a second time in the backward pass, in both stages."""
    settings = {"train_modules": modules, "adapter_norm": "embedding"}
    loss_function, model, sample = prepared(corpus, backbones, **settings)
    expected_loss, _, _ = loss_function(model.train(), sample)
    expected = gradients(model, expected_loss)
    _, saving, _ = prepared(corpus, backbones, "--llm-gradient-checkpointing", **settings)
    runs = []
    for module in saving.decoder.llm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.input_layernorm.register_forward_hook(lambda *_: runs.append(1))
    loss, _, _ = loss_function(saving.train(), sample)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=0)
    assert len(runs) == 2
    assert_equal_gradients(gradients(saving, loss), expected)
    assert len(runs) == 4
    assert not any(module.training for module in saving.eval().modules())


def test_a_frozen_llm_has_no_dropout(corpus: Path, backbones: dict[str, str], tmp_path: Path) -> None:
    """With and without gradient checkpointing, whose layers must be in training mode."""
    save_llama(tmp_path, attention_dropout=0.5)
    for flags in ([], ["--llm-gradient-checkpointing"]):
        loss_function, model, sample = prepared(corpus, {**backbones, "llama": str(tmp_path)}, *flags)
        in_eval, _, _ = loss_function(model.eval(), sample)
        in_training, _, _ = loss_function(model.train(), sample)
        assert torch.equal(in_eval, in_training)
    _, trained, _ = prepared(corpus, {**backbones, "llama": str(tmp_path)}, train_modules="adapter,llm")
    assert not torch.equal(loss_function(trained.train(), sample)[0], loss_function(trained.eval(), sample)[0])


@pytest.mark.parametrize("value", ["encoder", "adapter,decoder", ",", ""])
def test_wrong_train_modules(value: str) -> None:
    with pytest.raises(ValueError, match=r"--train-modules.*valid are frontend, adapter, lora, llm"):
        train_modules(value)


def test_train_modules_in_any_order() -> None:
    assert train_modules(" llm, adapter") == train_modules("adapter,llm,llm") == ["adapter", "llm"]


def test_markers_start_at_the_mean_embedding(stage2: tuple[Any, Any, Any]) -> None:
    _, model, _ = stage2
    mean = model.decoder.llm.get_input_embeddings().weight.mean(dim=0)
    torch.testing.assert_close(model.encoder.markers.start, mean)
    torch.testing.assert_close(model.encoder.markers.end, mean)
