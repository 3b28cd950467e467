"""A model's linear maps on a CPU, faster while a beam search lasts: their weights are laid out for oneDNN.

PyTorch multiplies fp32 matrices by MKL, which reads the weights as they lie. oneDNN, which comes with PyTorch too,
takes them in blocks that suit the processor: so ``torch.compile`` runs a frozen model's linear maps. The blocks are a
second copy of the weights. They are made anew for each search, which costs no more than reading the weights twice, so
that they are never older than the weights, and are given up with it.
"""

from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Bytes of weights that are laid out at most; the model's other linear maps stay as they are.
LIMIT = 2 << 30
#: Prefixes run in multiples of so many positions: see :func:`_prepared`.
PREFIX_MULTIPLE = 128
#: Weights below this number take less time by MKL: a call of oneDNN begins with some 30 microseconds.
SMALLEST = 2**17


class PackedLinears:
    """A context in which a model's linear maps run on weights laid out for oneDNN.

    Nothing changes for anything but plain fp32 ``Linear`` layers of some size in the CPU's memory, while gradients are
    recorded, and where oneDNN is missing or switched off (``torch.backends.mkldnn.flags(enabled=False)``).

    Args:
        model: whose weights as they are now serve until the object is given up.
    """

    def __init__(self, model: nn.Module):
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        if torch.is_grad_enabled() or not _has_onednn():
            return
        left = LIMIT
        for module in model.modules():
            if _is_plain(module) and module.weight.nbytes <= left:
                left -= module.weight.nbytes
                self._forwards.append((module, _packed(module)))

    @property
    def prefix_multiple(self) -> int:
        """A row of prefixes should have a multiple of so many positions."""
        return PREFIX_MULTIPLE if self._forwards else 1

    def __enter__(self) -> "PackedLinears":
        for module, forward in self._forwards:
            vars(module)["forward"] = forward  # past nn.Module.__setattr__, which takes longer than the rest of it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, _ in self._forwards:
            del vars(module)["forward"]


def _has_onednn() -> bool:
    mkldnn = torch.backends.mkldnn
    # The operators are PyTorch's own, for torch.compile: another build or a later version may lack them.
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    return mkldnn.is_available() and mkldnn.enabled and all(hasattr(torch.ops.mkldnn, name) for name in operators)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a large ``Linear`` of a plain parameter (sharded ones have types of their own)."""
    if type(module) is not nn.Linear or "forward" in vars(module) or module.weight.numel() < SMALLEST:
        return False
    weight = module.weight
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32


def _packed(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A ``Linear``'s forward on a copy of its weights, for inputs [..., K] of two dimensions or more."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
    multiply, bias = torch.ops.mkldnn._linear_pointwise.default, linear.bias

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        n_rows = len(rows)
        missing = _prepared(n_rows) - n_rows
        if missing:
            rows = F.pad(rows, (0, 0, 0, missing))
        return multiply(rows, weight, bias, "none", [], "")[:n_rows].unflatten(0, hidden.shape[:-1])

    return forward


def _prepared(n_rows: int) -> int:
    """The number of rows that so many are filled up to, an eighth more at most where there are many.

    oneDNN keeps half a megabyte for each number that it meets (and each shape of weights), and a search meets one
    after the other as its sentences end. So there are eight between a power of two and the next, beside the multiples
    that prefixes come in.
    """
    if n_rows % PREFIX_MULTIPLE == 0:
        return n_rows
    step = max(16, (1 << n_rows.bit_length()) // 16)
    return -(-n_rows // step) * step
