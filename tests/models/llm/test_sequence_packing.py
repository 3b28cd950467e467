"""Sentences in one row: where they lie, attention over a sentence's own past, and what the LLM is fed."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lst_fairseq.models.llm.sequence_packing import PackedRows, packed_attention, packs
from tests.support.helpers import batch_of, build
from tests.support.llms import family_config

MASK = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
LENGTHS = [4, 2, 6]


def test_where_sentences_lie() -> None:
    packed = PackedRows(MASK)
    assert packed.lengths.tolist() == LENGTHS and packed.starts.tolist() == [0, 4, 6] and packed.width == 6
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5]]
    content = torch.arange(18.0).view(3, 6, 1)
    assert packed.pack(content)[0, :, 0].tolist() == content[MASK][:, 0].tolist()


def test_side_by_side_and_back() -> None:
    torch.manual_seed(2)
    packed, row = PackedRows(MASK), torch.randn(1, 2, sum(LENGTHS), 3)
    sentences = packed.side_by_side(row)
    assert sentences.shape == (3, 2, 6, 3)
    for number, (sentence, part) in enumerate(zip(sentences, row[0].split(LENGTHS, dim=1), strict=True)):
        assert torch.equal(sentence[:, : LENGTHS[number]], part)
    assert torch.equal(packed.in_a_row(sentences), row.transpose(1, 2))


def test_a_row_that_is_filled_up() -> None:
    """The sentences lie where they lie without, and what comes behind repeats the first position."""
    torch.manual_seed(2)
    plain, filled = PackedRows(MASK), PackedRows(MASK, multiple=8)
    content = torch.randn(3, 6, 5)
    row = filled.pack(content)
    assert torch.equal(row[:, :12], plain.pack(content)) and torch.equal(row[0, 12:], content[0, :1].expand(4, -1))
    assert filled.positions.tolist() == [[*plain.positions[0].tolist(), 0, 0, 0, 0]]
    heads = row.unsqueeze(1)
    for way in ("side_by_side", "ending_together"):
        assert torch.equal(getattr(filled, way)(heads), getattr(plain, way)(heads[:, :, :12]))
    back = filled.in_a_row(filled.side_by_side(heads))
    assert torch.equal(back, heads.transpose(1, 2))
    assert PackedRows(MASK, multiple=4).positions.size(1) == 12


def plain_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None, scaling: float) -> Tensor:
    """One sentence [H, L, D] over its past, by the definition."""
    group = query.size(0) // key.size(0)
    output = torch.zeros_like(query)
    for head in range(query.size(0)):
        for place in range(query.size(1)):
            first = 0 if window is None else max(0, place - window + 1)
            keys, values = (t[head // group, first : place + 1] for t in (key, value))
            output[head, place] = (keys @ query[head, place] * scaling).softmax(dim=0) @ values
    return output


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_over_the_own_past(groups: int, window: int | None) -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 8) for heads in (4, groups, groups))
    settings = {"packed": PackedRows(MASK), "scaling": 0.4, "sliding_window": window}
    got, _ = packed_attention(torch.nn.Module(), query, key, value, None, **settings)
    parts = zip(*(t[0].split(LENGTHS, dim=1) for t in (query, key, value)), strict=True)
    expected = torch.cat([plain_attention(q, k, v, window, 0.4) for q, k, v in parts], dim=1)
    torch.testing.assert_close(got, expected.transpose(0, 1).unsqueeze(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("family", "attention", "expected"),
    [("llama 3", "sdpa", True), ("gemma 3", "sdpa", True), ("llama 3", "eager", False), ("bloom", "eager", False)],
)
def test_which_llms_pack(family: str, attention: str, expected: bool) -> None:
    llm = AutoModelForCausalLM.from_config(family_config(family), attn_implementation=attention)
    arguments = {"position_ids", "logits_to_keep", "kwargs"}
    assert packs(llm, arguments) == expected
    assert not packs(llm, arguments - {"kwargs"})
    llm.config.layer_types = ["full_attention", "chunked_attention"]  # hides more than a window does
    assert not packs(llm, arguments)


@pytest.mark.parametrize("arch", ["lst_tiny", "lst_7b"])
def test_the_llm_is_fed_no_padding_and_learns_the_same(arch: str, corpus: Path, backbones: dict[str, str]) -> None:
    """Loss and gradients are those of sentences side by side; with gradient checkpointing (lst_7b) too."""
    cfg, task, model = build(corpus, backbones, train_modules="adapter,llm", arch=arch, adapter_norm="embedding")
    task.load_dataset("train")
    sample = batch_of(task, "train", [0, 4, 5, 7, 11])
    criterion = task.build_criterion(cfg.criterion)
    shapes: list[tuple[int, int]] = []
    model.decoder.llm.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    results = [loss_and_gradients(model.train(), criterion, sample)]
    with mock.patch.object(model.decoder, "packs", False):
        results.append(loss_and_gradients(model, criterion, sample))
    n_positions = sum(task.dataset("train").num_tokens(i) for i in sample["id"].tolist())
    assert shapes[0] == (1, n_positions) and shapes[1][0] == 5 and shapes[1][0] * shapes[1][1] > 1.2 * n_positions
    (packed_loss, packed), (padded_loss, padded) = results
    torch.testing.assert_close(packed_loss, padded_loss, rtol=1e-6, atol=0)
    for name, gradient in padded.items():
        torch.testing.assert_close(packed[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()), msg=name)


def loss_and_gradients(model: Any, criterion: Any, sample: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss, _, _ = criterion(model, sample)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
