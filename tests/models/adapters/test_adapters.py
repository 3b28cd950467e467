"""What holds for every adapter, and the convolutional one: padding never reaches a real frame, lengths are right."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from torch import Tensor, nn

from lst_fairseq.models.adapters import ADAPTERS, SpeechAdapter, build_adapter, register_adapter
from lst_fairseq.models.frontends.base import SpeechFrontend
from tests.support.helpers import batch_of, build

INPUT, WIDTH, BLANK = 20, 16, 2
LENGTHS = (37, 1, 2, 3, 4, 5, 8, 36, 40)
EVERY = ("conv", "stack", "ctc", "qformer")


def settings(**changed: Any) -> Namespace:
    return Namespace(
        **{
            "adapter": "conv",
            "adapter_kernel_sizes": "3,3",
            "adapter_channels": 12,
            "adapter_norm": "none",
            "adapter_stack": 5,
            "adapter_window": 4,
            "adapter_queries": 2,
            "adapter_layers": 2,
            "adapter_heads": 3,
            **changed,
        }
    )


def frontend(ctc: bool = True) -> Namespace:
    """What adapters read of a frontend."""
    return Namespace(output_dim=INPUT, ctc_head=nn.Linear(INPUT, 4) if ctc else None, blank=BLANK)


def adapter(**changed: Any) -> SpeechAdapter:
    torch.manual_seed(5)
    embeddings = 0.1 * torch.randn(50, WIDTH)
    return build_adapter(settings(**changed), frontend(), embeddings).eval()


def features(lengths: Sequence[int] = LENGTHS, filling: float = 0.0) -> Tensor:
    """[B, N, INPUT], with ``filling`` beyond each row's length."""
    torch.manual_seed(6)
    batch = torch.full((len(lengths), max(lengths) + 3, INPUT), filling)
    for row, length in zip(batch, lengths):
        row[:length] = torch.randn(length, INPUT)
    return batch


def labels(size: int, rows: int = len(LENGTHS)) -> Tensor:
    """CTC labels [B, N], the same for a row whatever the size; the sixth row is blank throughout."""
    torch.manual_seed(7)
    drawn = torch.randint(4, (rows, 60))
    drawn[5:6] = BLANK
    return drawn[:, :size]


def run(module: SpeechAdapter, batch: Tensor, lengths: Sequence[int], own: Tensor) -> tuple[Tensor, Tensor]:
    """The adapter's output; labels are given where it takes them."""
    return module(batch, torch.tensor(lengths), *([own] if module.needs_ctc else []))


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan")])
@pytest.mark.parametrize(
    "changed",
    [
        {"adapter": "conv"},
        {"adapter": "conv", "adapter_kernel_sizes": "5,5,5"},
        {"adapter": "stack"},
        {"adapter": "stack", "adapter_stack": 1},
        {"adapter": "ctc"},
        {"adapter": "qformer"},
        {"adapter": "qformer", "adapter_window": 15, "adapter_queries": 1},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())),
)
def test_padding_never_reaches_a_real_frame(changed: dict[str, Any], filling: float, norm: str) -> None:
    """Nor a gradient: a row gives in a batch what it gives alone, whatever its padding holds."""
    module = adapter(adapter_norm=norm, **changed)
    batch = features(filling=filling).requires_grad_()
    drawn = labels(batch.size(1))
    got, lengths = run(module, batch, LENGTHS, drawn)
    for index, n_features in enumerate(LENGTHS):
        row = (slice(index, index + 1), slice(n_features))
        alone, alone_length = run(module, features()[row], [n_features], drawn[row])
        assert alone_length.tolist() == [lengths[index]] == [alone.size(1)]
        torch.testing.assert_close(got[index, : alone.size(1)], alone[0], atol=2e-6, rtol=0)
    assert got.isfinite().all()  # a masked position holding NaN would make the LLM's whole row NaN
    sum(row[:length].sum() for row, length in zip(got, lengths)).backward()
    for row, n_features in zip(batch.grad, LENGTHS):
        assert row[:n_features].any() and not row[n_features:].any()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_gradient_reaches_every_parameter(name: str) -> None:
    module = adapter(adapter=name, adapter_norm="embedding").train()
    batch = features()
    got, _ = run(module, batch, LENGTHS, labels(batch.size(1)))
    got.square().sum().backward()
    for key, parameter in module.named_parameters():
        # A bias that all keys share adds the same to every score, and softmax takes it out again.
        assert key.endswith("key.bias") or parameter.grad.any(), key


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"adapter": "stack", "adapter_stack": 5}, lambda n: -(-n // 5)),
        ({"adapter": "stack", "adapter_stack": 1}, lambda n: n),
        ({"adapter": "qformer", "adapter_window": 15, "adapter_queries": 1}, lambda n: -(-n // 15)),
        ({"adapter": "qformer", "adapter_window": 4, "adapter_queries": 3}, lambda n: -(-n // 4) * 3),
        ({"adapter": "ctc"}, lambda n: n),
    ],
)
def test_output_lengths_of_every_count(changed: dict[str, Any], expected: Any) -> None:
    module = adapter(**changed)
    counts = list(range(1, 50))
    planned = module.output_lengths(torch.tensor(counts))
    assert planned.tolist() == [expected(count) for count in counts]
    batch = features(counts)
    got, lengths = run(module, batch, counts, labels(batch.size(1), len(counts)))
    assert lengths.max() <= got.size(1)
    if module.needs_ctc:  # how many remain is known only once the labels are
        assert (lengths >= 1).all() and (lengths <= planned).all() and (lengths < planned).any()
    else:
        assert lengths.tolist() == planned.tolist()


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision(name: str, dtype: torch.dtype, norm: str) -> None:
    """An adapter moved to a half type takes features of that type, gives it back, and trains in it."""
    module = adapter(adapter=name, adapter_norm=norm).to(dtype)
    batch = features().to(dtype)
    drawn = labels(batch.size(1))
    got, lengths = run(module, batch, LENGTHS, drawn)
    assert got.dtype == dtype and lengths.dtype == torch.int64
    got.float().square().sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in module.parameters())
    with torch.no_grad():
        full, full_lengths = run(module.float(), batch.float(), LENGTHS, drawn)
    assert lengths.tolist() == full_lengths.tolist()
    error = (got.float() - full).square().mean().sqrt() / full.square().mean().sqrt()
    assert error < (1e-2 if dtype == torch.bfloat16 else 1e-3)  # some 2 steps of 8 and 11 bits


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_embedding_norm_gives_the_scale_of_the_embeddings(name: str) -> None:
    """The scale is that of the table it was built with, and travels with the state dict."""
    torch.manual_seed(5)
    embeddings = 0.02 * torch.randn(300, WIDTH)
    cfg = settings(adapter=name, adapter_norm="embedding", adapter_channels=96)
    module = build_adapter(cfg, frontend(), embeddings)
    assert module.scale.item() == pytest.approx(embeddings.std().item(), rel=1e-6)
    batch, drawn = features((40,)), labels(43, 1)
    quiet, lengths = run(module, batch, [40], drawn)
    loud, _ = run(module, 100 * batch, [40], drawn)
    for speech in (quiet, loud):  # a fresh linear layer keeps about 1/3 of the variance
        assert 0.3 < (speech[:, : lengths[0]].std() / embeddings.std()).item() < 1.5
    other = build_adapter(cfg, frontend(), 7 * embeddings)
    assert other.scale.item() == pytest.approx(7 * module.scale.item(), rel=1e-6)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(run(other, batch, [40], drawn)[0], quiet, atol=0, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_no_norm_has_no_scale(name: str) -> None:
    module = adapter(adapter=name, adapter_norm="none")
    assert module.scale.item() == 1 and isinstance(module.norm, nn.Identity)


def test_names_in_checkpoints_of_the_convolutional_adapter() -> None:
    """Checkpoints hold these: a change of one of them must come with a conversion."""
    convolutions = [f"subsampler.conv_layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]
    last = ["projection.weight", "projection.bias", "scale"]
    assert sorted(adapter(adapter_norm="none").state_dict()) == sorted(convolutions + last)
    norm = ["norm.weight", "norm.bias"]
    assert sorted(adapter(adapter_norm="embedding").state_dict()) == sorted(convolutions + norm + last)


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


@pytest.mark.parametrize("kernel_sizes", ["3", "3,3", "7,3,1", "3,3,3,3"])
def test_output_lengths_of_convolutions(kernel_sizes: str) -> None:
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


@pytest.mark.parametrize("kernel_sizes", ["", "2,3", "0", "-1,3", "3,", "three", "3;3", "3.5"])
def test_wrong_kernel_sizes(kernel_sizes: str) -> None:
    with pytest.raises(ValueError, match=r"--adapter-kernel-sizes.*odd numbers joined by commas, such as 3,3"):
        adapter(adapter_kernel_sizes=kernel_sizes)


@pytest.mark.parametrize("channels", [0, -4, 7])
def test_wrong_channels(channels: int) -> None:
    """The gated linear unit halves them."""
    with pytest.raises(ValueError, match=f"--adapter-channels {channels}: give an even number"):
        adapter(adapter_channels=channels)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("stack", "stack"),
        ("stack", "channels"),
        ("qformer", "channels"),
        ("qformer", "window"),
        ("qformer", "queries"),
        ("qformer", "layers"),
        ("qformer", "heads"),
    ],
)
def test_wrong_numbers(name: str, setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"--adapter-{setting} {value}: give a whole number of at least 1"):
        adapter(adapter=name, **{f"adapter_{setting}": value})


def test_heads_divide_the_channels() -> None:
    with pytest.raises(ValueError, match=r"--adapter-heads 8: .*--adapter-channels 12; valid: 1, 2, 3, 4, 6, 12$"):
        adapter(adapter="qformer", adapter_heads=8)


def test_ctc_needs_a_head() -> None:
    with pytest.raises(ValueError, match=r"--adapter ctc needs a speech encoder with a CTC head; .* is without"):
        build_adapter(settings(adapter="ctc"), frontend(ctc=False), torch.randn(50, WIDTH))
    assert [name for name in EVERY if ADAPTERS[name].needs_ctc] == ["ctc"]


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"--adapter cnn: unknown; known: conv, ctc, qformer, stack$"):
        adapter(adapter="cnn")
    for name in EVERY:
        with pytest.raises(ValueError, match="--adapter-norm layer: unknown; known: none, embedding"):
            adapter(adapter=name, adapter_norm="layer")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"adapter conv: registered already, by lst_fairseq\.models\.adapters\.conv"):
        register_adapter("conv")(SpeechAdapter)
    assert ADAPTERS["conv"] is not SpeechAdapter


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_in_the_model(name: str, corpus: Path, backbones: dict[str, str]) -> None:
    """A sentence's logits are the same alone and in a batch, with the frontend's own CTC labels."""
    chosen = {"adapter": name, "adapter_window": 6, "adapter_queries": 2, "max_source_seconds": 3}
    _, task, model = build(corpus, backbones, **chosen)
    task.load_dataset("test")
    batch = batch_of(task, "test", [0, 3, 4])
    logits, _ = model(**batch["net_input"])
    for row, index in enumerate(batch["id"].tolist()):
        alone = batch_of(task, "test", [index])
        expected, _ = model(**alone["net_input"])
        torch.testing.assert_close(logits[row, : expected.size(1)], expected[0], atol=2e-5, rtol=0)
    lengths = model.encoder(**batch["net_input"])["speech_lengths"]
    planned = model.encoder.output_lengths(batch["net_input"]["src_lengths"])
    assert (lengths <= planned).all() and (lengths > 3).all()  # the markers and more than one vector
    assert (lengths < planned).all() if name == "ctc" else (lengths == planned).all()


@pytest.fixture
def registered() -> Iterator[str]:
    """An adapter written by a user: the mean of each four frames and a linear layer."""

    @register_adapter("mean")
    class MeanAdapter(SpeechAdapter):
        def __init__(self, input_dim: int, output_dim: int):
            super().__init__()
            self.linear = nn.Linear(input_dim, output_dim)

        @classmethod
        def from_config(cls, cfg: Any, frontend: SpeechFrontend, embeddings: Tensor) -> "MeanAdapter":
            return cls(frontend.output_dim, embeddings.size(1))

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
