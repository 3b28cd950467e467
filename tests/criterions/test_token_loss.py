"""The loss of tokens against PyTorch's, in each type, and how many tensors as wide as the vocabulary it makes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lst_fairseq.criterions import token_loss as module
from lst_fairseq.criterions.token_loss import token_loss

ROWS, WORDS = 7, 33


def logits_and_target(dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return (scale * torch.randn(ROWS, WORDS)).to(dtype), torch.randint(WORDS, (ROWS,))


@pytest.mark.parametrize("chunk", [1, 2 * WORDS, 3 * WORDS + 1, 10**6])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradient_equal_torch(
    dtype: torch.dtype, smoothing: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token with a weight of its own; the gradient within a rounding of the logits' type."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    logits, target = logits_and_target(dtype)
    weights = torch.linspace(-1, 2, ROWS)
    theirs = logits.double().requires_grad_()
    expected = F.cross_entropy(theirs, target, label_smoothing=smoothing, reduction="none")
    (expected * weights.double()).sum().backward()
    source = logits.clone().requires_grad_()
    loss, nll, best = token_loss(source * 1, target, smoothing)
    (loss * weights).sum().backward()
    assert loss.dtype == nll.dtype == torch.float32 and not nll.requires_grad
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    plain = F.cross_entropy(theirs, target, reduction="none")
    torch.testing.assert_close(nll.double(), plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(best, logits.argmax(dim=1))
    torch.testing.assert_close(source.grad.double(), theirs.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_large_logits_do_not_overflow() -> None:
    logits, target = logits_and_target(torch.float32, scale=3000.0)
    expected = F.cross_entropy(logits.double(), target, reduction="none")
    torch.testing.assert_close(token_loss(logits, target)[0].double(), expected, rtol=1e-6, atol=0)


def test_no_token_at_all() -> None:
    """A batch whose audio is all broken: no loss, and a gradient of no rows."""
    logits = torch.zeros(0, WORDS, requires_grad=True)
    loss, nll, best = token_loss(logits * 1, torch.zeros(0, dtype=torch.long))
    loss.sum().backward()
    assert loss.shape == nll.shape == best.shape == (0,) and logits.grad.shape == (0, WORDS)


def test_a_second_backward_pass_is_an_error() -> None:
    logits, target = logits_and_target(torch.float32)
    loss = token_loss(logits.requires_grad_() * 1, target)[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class WideTensors(TorchDispatchMode):
    """Elements of all tensors with the vocabulary's width that are made while it is active, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.size(-1) == WORDS:
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = storage  # kept, so that no other one gets its number
        return result

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_the_only_tensor_of_their_size(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside them there are a few chunks of one row; PyTorch's own way makes at least twice as much."""
    monkeypatch.setattr(module, "CHUNK", WORDS)
    logits, target = logits_and_target(dtype)
    source = logits.requires_grad_() * 1
    with WideTensors() as ours:
        torch.autograd.grad(token_loss(source, target)[0].sum(), source)
    storage = source.untyped_storage()._cdata
    others = [s.nbytes() for number, s in ours.storages.items() if number != storage]
    assert max(others) == 4 * WORDS < source.nbytes
    source = logits.requires_grad_() * 1
    with WideTensors() as theirs:
        lprobs = F.log_softmax(source.float(), dim=-1)
        torch.autograd.grad(lprobs.gather(1, target.unsqueeze(1)).sum(), source)
    assert max(s.nbytes() for s in theirs.storages.values()) >= source.nbytes
    assert theirs.bytes >= 2 * source.nbytes
