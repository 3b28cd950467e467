"""Low-rank updates: no change at first, the paper's seven maps, merging, and clear errors."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from lst_fairseq.models.llm.lora import add_lora, merge_lora


@pytest.fixture
def llm(backbones: dict[str, str]) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(backbones["llama"]).eval()


def logits(llm: LlamaForCausalLM) -> torch.Tensor:
    llm.eval()
    with torch.no_grad():
        return llm(torch.arange(24).view(2, 12)).logits


def draw(llm: LlamaForCausalLM) -> None:
    """Give the updates values, as training would."""
    torch.manual_seed(5)
    for name, parameter in llm.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def test_the_updates_are_those_of_the_paper(llm: LlamaForCausalLM) -> None:
    """Rank 16 on all seven linear maps of a Llama block, and nowhere else."""
    before = logits(llm)
    add_lora(llm, r=16, alpha=32, dropout=0.05, targets="all-linear")
    updates = {name for name, _ in llm.named_parameters() if ".lora_A." in name}
    maps = {name.split(".")[4] for name in updates}
    assert maps == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(updates) == 7 * len(llm.model.layers)
    assert all(p.size(0) == 16 for name, p in llm.named_parameters() if ".lora_A." in name)
    assert torch.equal(logits(llm), before)


def test_an_update_is_scaled_by_alpha_over_r(llm: LlamaForCausalLM) -> None:
    weight = llm.model.layers[0].self_attn.q_proj.weight.detach().clone()
    add_lora(llm, r=4, alpha=12, dropout=0.0, targets="q_proj")
    draw(llm)
    layer = llm.model.layers[0].self_attn.q_proj
    x = torch.randn(3, weight.size(1))
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), x @ (weight + 3 * update).T, atol=1e-5, rtol=0)


def test_merged_weights_give_the_same_logits(llm: LlamaForCausalLM, tmp_path: Path) -> None:
    """And are a plain model again, which transformers saves and loads."""
    add_lora(llm, r=4, alpha=8, dropout=0.1, targets="q_proj, v_proj, down_proj")
    before = logits(llm)
    draw(llm)
    expected = logits(llm)
    assert not torch.allclose(expected, before, atol=1e-2)
    merge_lora(llm)
    assert not any("lora" in name or "base_layer" in name for name, _ in llm.named_modules())
    torch.testing.assert_close(logits(llm), expected, atol=1e-4, rtol=0)
    llm.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(llm), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "--lora-r 0 .*give a rank from 1 on"),
        ({"alpha": 0}, "--lora-alpha 0 .*an alpha above 0"),
        ({"dropout": 1.0}, "--lora-dropout 1.0: .*a dropout from 0 to below 1"),
        ({"targets": "q_proj,query"}, "the LLM has no linear map query; give all-linear, or some of: .*q_proj"),
        ({"targets": " "}, r"no linear map \(none is named\)"),
    ],
)
def test_settings_that_cannot_serve(llm: LlamaForCausalLM, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(llm, **{"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear", **settings})
