"""Linear maps on weights laid out for oneDNN: the same function, for a search, and only where they can be."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lst_fairseq.models.llm import onednn_weights
from lst_fairseq.models.llm.onednn_weights import PackedLinears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


class Scaled(nn.Linear):
    """A linear map that is more than one."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden)


def packed(model: nn.Module) -> list[nn.Module]:
    """The modules that run on laid out weights."""
    with PackedLinears(model):
        return [module for module in model.modules() if "forward" in vars(module)]


def linear(n_inputs: int = 37, n_outputs: int = 50, bias: bool = False) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(n_inputs, n_outputs, bias=bias)


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_weights, "SMALLEST", 0)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(1,), (3, 2), (64, 1), (1, 300)])
def test_the_same_function(rows: tuple[int, ...], bias: bool) -> None:
    module = linear(bias=bias)
    hidden = torch.randn(*rows, 37)
    wanted = module(hidden)
    with PackedLinears(module):
        got = module(hidden)
    assert "forward" not in vars(module)
    assert got.shape == wanted.shape and got.is_contiguous()
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_few_numbers_of_rows() -> None:
    """Since each costs memory; and few rows in vain."""
    numbers = {n: onednn_weights._prepared(n) for n in range(1, 4097)}
    assert all(n <= padded <= max(16, n * 9 / 8 + 15) for n, padded in numbers.items())
    assert all(padded <= n * 9 / 8 for n, padded in numbers.items() if n > 128)
    assert len(set(numbers.values())) < 80 and numbers[17 * 128] == 17 * 128


@torch.no_grad()
def test_onednn_meets_few_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    module, met = linear(), set()
    pad = onednn_weights.F.pad
    monkeypatch.setattr(onednn_weights.F, "pad", lambda *args: met.add(len(pad(*args))) or pad(*args))
    with PackedLinears(module):
        for n_rows in range(64, 0, -1):
            assert len(module(torch.randn(n_rows, 1, 37))) == n_rows
    assert met == {16, 32, 48, 64}


@torch.no_grad()
def test_inputs_that_do_not_lie_in_a_row() -> None:
    module = linear()
    hidden = torch.randn(37, 5, 2).permute(2, 1, 0)
    with PackedLinears(module):
        got = module(hidden)
    torch.testing.assert_close(got, module(hidden), atol=1e-6, rtol=0)


@torch.no_grad()
def test_each_search_has_the_weights_as_they_are() -> None:
    """Also where they changed without PyTorch's count of versions, as fairseq's optimisers change them."""
    module, hidden = linear(), torch.randn(4, 37)
    with PackedLinears(module):
        module(hidden)
    module.weight.data.mul_(3)
    with PackedLinears(module):
        got = module(hidden)
    torch.testing.assert_close(got, module(hidden), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_model_is_as_it_was_after_an_error() -> None:
    module = linear()
    with pytest.raises(RuntimeError), PackedLinears(module):
        module(torch.randn(4, 36))
    assert "forward" not in vars(module) and list(module.state_dict()) == ["weight"]


@torch.no_grad()
def test_hooks_still_run() -> None:
    module = linear()
    seen = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with PackedLinears(module):
        module(torch.randn(4, 37))
    assert seen == [(4, 50)]


@torch.no_grad()
def test_copies_take_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(linear(8, 10), linear(8, 40), linear(8, 20), linear(8, 10))
    monkeypatch.setattr(onednn_weights, "LIMIT", 4 * 8 * 30)
    assert packed(model) == [model[0], model[2]]


@torch.no_grad()
def test_small_weights_are_left_to_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(linear(8, 10), linear(8, 11))
    monkeypatch.setattr(onednn_weights, "SMALLEST", 88)
    assert packed(model) == [model[1]]


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: linear().to(torch.bfloat16), id="bfloat16"),
        pytest.param(lambda: linear().to("meta"), id="another device"),
        pytest.param(lambda: Scaled(8, 10), id="a class of its own"),
        pytest.param(lambda: nn.Conv1d(8, 10, 1), id="convolution"),
    ],
)
def test_other_modules_are_left_alone(make: Callable[[], nn.Module]) -> None:
    assert packed(make()) == []


def test_gradients_are_left_alone() -> None:
    module = linear()
    with PackedLinears(module):
        assert module(torch.randn(4, 37)).requires_grad


@torch.no_grad()
def test_onednn_can_be_switched_off() -> None:
    module = linear()
    with torch.backends.mkldnn.flags(enabled=False):
        assert packed(module) == []
    assert packed(module) == [module]
