"""The adapter is fairseq's subsampler and a linear layer, and padding never reaches a real frame."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from torch import Tensor, nn

from lst_fairseq.models.adapters import ADAPTERS, ConvAdapter, SpeechAdapter, build_adapter, register_adapter
from tests.helpers import batch_of, build

INPUT, WIDTH = 20, 16
LENGTHS = (37, 1, 2, 3, 4, 5, 8, 36, 40)


def settings(**changed: Any) -> Namespace:
    return Namespace(
        **{
            "adapter": "conv",
            "adapter_kernel_sizes": "3,3",
            "adapter_channels": 12,
            "adapter_norm": "none",
            **changed,
        }
    )


def adapter(**changed: Any) -> ConvAdapter:
    torch.manual_seed(5)
    embeddings = 0.1 * torch.randn(50, WIDTH)
    return build_adapter(settings(**changed), INPUT, embeddings).eval()


def features(lengths: tuple[int, ...] = LENGTHS, filling: float = 0.0) -> Tensor:
    """[B, N, INPUT], with ``filling`` beyond each row's length."""
    torch.manual_seed(6)
    batch = torch.full((len(lengths), max(lengths) + 3, INPUT), filling)
    for row, length in zip(batch, lengths):
        row[:length] = torch.randn(length, INPUT)
    return batch


@pytest.mark.parametrize("kernel_sizes", ["3,3", "5", "5,3,7", "1,3"])
@torch.no_grad()
def test_equals_fairseqs_subsampler_for_one_row(kernel_sizes: str) -> None:
    ours = adapter(adapter_kernel_sizes=kernel_sizes)
    theirs = Conv1dSubsampler(INPUT, 12, 12, [int(size) for size in kernel_sizes.split(",")])
    theirs.load_state_dict(ours.subsampler.state_dict())
    for length in (1, 2, 37, 40):
        row = features((length,))[:, :length]
        shorter, lengths = theirs(row, torch.tensor([length]))
        expected = nn.functional.linear(shorter.transpose(0, 1), ours.projection.weight, ours.projection.bias)
        got, got_lengths = ours(row, torch.tensor([length]))
        assert got_lengths.tolist() == lengths.tolist() == [expected.size(1)]
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize("kernel_sizes", ["3,3", "5,5,5"])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan")])
def test_padding_never_reaches_a_real_frame(norm: str, kernel_sizes: str, filling: float) -> None:
    """Nor a gradient: a row gives in a batch what it gives alone, whatever its padding holds."""
    module = adapter(adapter_norm=norm, adapter_kernel_sizes=kernel_sizes)
    batch = features(filling=filling).requires_grad_()
    got, lengths = module(batch, torch.tensor(LENGTHS))
    assert lengths.tolist() == module.output_lengths(torch.tensor(LENGTHS)).tolist()
    for row, length, n_features in zip(got, lengths.tolist(), LENGTHS):
        own = features()[LENGTHS.index(n_features)][None, :n_features]
        alone, alone_length = module(own, torch.tensor([n_features]))
        assert alone_length.tolist() == [length] == [alone.size(1)]
        torch.testing.assert_close(row[:length], alone[0], atol=1e-6, rtol=0)
    assert got.isfinite().all()  # a masked position holding NaN would make the LLM's whole row NaN
    sum(row[:length].sum() for row, length in zip(got, lengths)).backward()
    for row, n_features in zip(batch.grad, LENGTHS):
        assert row[:n_features].any() and not row[n_features:].any()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("kernel_sizes", ["3", "3,3", "7,3,1", "3,3,3,3"])
def test_output_lengths(kernel_sizes: str) -> None:
    """Each stride-2 convolution gives ceil(n / 2), hence at least one frame."""
    module = adapter(adapter_kernel_sizes=kernel_sizes)
    counts = torch.arange(1, 70)
    expected = counts
    for _ in kernel_sizes.split(","):
        expected = (expected + 1) // 2
    assert module.output_lengths(counts).tolist() == expected.tolist()
    for count in (1, 2, 3, 31, 32, 33):
        got, lengths = module(torch.randn(1, count, INPUT), torch.tensor([count]))
        assert got.size(1) == lengths.item() == expected[count - 1]


@torch.no_grad()
def test_embedding_norm_gives_the_scale_of_the_embeddings() -> None:
    """The scale is that of the table it was built with, and travels with the state dict."""
    torch.manual_seed(5)
    embeddings = 0.02 * torch.randn(300, WIDTH)
    module = build_adapter(settings(adapter_norm="embedding", adapter_channels=64), INPUT, embeddings)
    assert module.scale.item() == pytest.approx(embeddings.std().item(), rel=1e-6)
    quiet, _ = module(features((40,)), torch.tensor([40]))
    loud, _ = module(100 * features((40,)), torch.tensor([40]))
    for speech in (quiet, loud):  # a fresh linear layer keeps about 1/3 of the variance
        assert 0.3 < (speech.std() / embeddings.std()).item() < 1.5
    other = build_adapter(settings(adapter_norm="embedding", adapter_channels=64), INPUT, 7 * embeddings)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(features((40,)), torch.tensor([40]))[0], quiet, atol=0, rtol=0)


def test_no_norm_has_no_scale() -> None:
    module = adapter(adapter_norm="none")
    assert module.scale.item() == 1 and isinstance(module.norm, nn.Identity)


@pytest.mark.parametrize("kernel_sizes", ["", "2,3", "0", "-1,3", "3,", "three", "3;3", "3.5"])
def test_wrong_kernel_sizes(kernel_sizes: str) -> None:
    with pytest.raises(ValueError, match=r"--adapter-kernel-sizes.*odd numbers joined by commas, such as 3,3"):
        adapter(adapter_kernel_sizes=kernel_sizes)


@pytest.mark.parametrize("channels", [0, -4, 7])
def test_wrong_channels(channels: int) -> None:
    """The gated linear unit halves them."""
    with pytest.raises(ValueError, match=f"--adapter-channels {channels}: give an even number"):
        adapter(adapter_channels=channels)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"--adapter cnn: unknown; known: .*conv"):
        adapter(adapter="cnn")
    with pytest.raises(ValueError, match="--adapter-norm layer: unknown; known: none, embedding"):
        adapter(adapter_norm="layer")


@pytest.fixture
def registered() -> Iterator[str]:
    """An adapter written by a user: the mean of each four frames and a linear layer."""

    @register_adapter("mean")
    class MeanAdapter(SpeechAdapter):
        def __init__(self, input_dim: int, output_dim: int):
            super().__init__()
            self.linear = nn.Linear(input_dim, output_dim)

        @classmethod
        def from_config(cls, cfg: Any, input_dim: int, embeddings: Tensor) -> "MeanAdapter":
            return cls(input_dim, embeddings.size(1))

        def output_lengths(self, lengths: Tensor) -> Tensor:
            return (lengths + 3).div(4, rounding_mode="floor")

        def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            pooled = nn.functional.avg_pool1d(features.transpose(1, 2), 4, ceil_mode=True).transpose(1, 2)
            return self.linear(pooled), self.output_lengths(lengths)

    yield "mean"
    del ADAPTERS["mean"]


def test_a_registered_adapter_is_selected_by_name(registered: str, corpus: Path, backbones: dict[str, str]) -> None:
    _, task, model = build(corpus, backbones, adapter=registered)
    assert type(model.encoder.adapter).__name__ == "MeanAdapter"
    task.load_dataset("test")
    sample = batch_of(task, "test", [0, 4])
    logits, _ = model(**sample["net_input"])
    assert logits.shape[:2] == sample["target"].shape and logits.isfinite().all()
    assert {key for key in model.state_dict() if "adapter" in key} == {
        "encoder.adapter.linear.weight",
        "encoder.adapter.linear.bias",
    }
