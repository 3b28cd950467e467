"""Values of the stacking, CTC and Q-Former adapters, each against a plain computation of one row or window."""

from itertools import groupby

import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerModel

from lst_fairseq.models.adapters.ctc import CtcAdapter, label_runs
from lst_fairseq.models.adapters.projection import ProjectedAdapter
from lst_fairseq.models.adapters.qformer import QFormerAdapter
from lst_fairseq.models.adapters.stack import StackAdapter

INPUT, CHANNELS, WIDTH, BLANK = 20, 12, 16, 2
SCALE = 0.25
LENGTHS = (1, 4, 5, 6, 23)


def rows() -> list[Tensor]:
    """One [length, INPUT] a row."""
    torch.manual_seed(8)
    return [torch.randn(length, INPUT) for length in LENGTHS]


def padded(own: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=float("nan"))


def projected(module: ProjectedAdapter, vectors: Tensor, norm: str) -> Tensor:
    """The shared last step, from its parameters."""
    if norm == "embedding":
        centred = vectors - vectors.mean(dim=-1, keepdim=True)
        vectors = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        vectors = vectors * module.norm.weight + module.norm.bias
    out = vectors @ module.projection.weight.T + module.projection.bias
    return out * SCALE if norm == "embedding" else out


def disturb(module: ProjectedAdapter) -> None:
    """No weight and no bias at its initial 1 or 0, where leaving it out would not show."""
    torch.manual_seed(9)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize("stack", [1, 2, 5, 40])
@torch.no_grad()
def test_stack(stack: int, norm: str) -> None:
    """Groups of frames, the last one completed with zeros, each through two linear layers."""
    module = StackAdapter(INPUT, stack, CHANNELS, WIDTH, norm, SCALE)
    disturb(module)
    got, lengths = module(padded(rows()), torch.tensor(LENGTHS))
    for index, row in enumerate(rows()):
        groups = []
        for start in range(0, len(row), stack):
            group = [row[i] if i < len(row) else torch.zeros(INPUT) for i in range(start, start + stack)]
            groups.append((module.hidden.weight @ torch.cat(group) + module.hidden.bias).clamp(min=0))
        assert lengths[index] == len(groups)
        expected = projected(module, torch.stack(groups), norm)
        torch.testing.assert_close(got[index, : len(groups)], expected, atol=1e-5, rtol=0)


#: Labels of the five rows: one token; a repeated one; a blank between two of the same; all blank; a longer row that
#: begins and ends with blanks.
LABELS = (
    [1],
    [3, 3, 3, 0],
    [1, 1, BLANK, 1, 1],
    [BLANK] * 6,
    [BLANK, BLANK, 0, 0, 1, BLANK, 1, 3, 3, 3, 3, BLANK, 0, BLANK, BLANK, 0, 0, 0, 1, 0, 1, BLANK, BLANK],
)
RUNS = (1, 2, 2, 1, 9)


def padded_labels(filling: int) -> Tensor:
    own = [torch.tensor(row) for row in LABELS]
    return torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=filling)


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize("filling", [0, 1, BLANK, 3])
@torch.no_grad()
def test_ctc(filling: int, norm: str) -> None:
    """One mean for each run of a label between blanks; labels in the padding, here each one in turn, do not matter."""
    module = CtcAdapter(INPUT, BLANK, WIDTH, norm, SCALE)
    disturb(module)
    got, lengths = module(padded(rows()), torch.tensor(LENGTHS), padded_labels(filling))
    assert lengths.tolist() == list(RUNS) and got.size(1) == max(RUNS)
    for index, (row, labels) in enumerate(zip(rows(), LABELS)):
        means, start = [], 0
        for label, run in groupby(labels):
            count = len(list(run))
            if label != BLANK or set(labels) == {BLANK}:
                means.append(sum(row[start : start + count]) / count)
            start += count
        expected = projected(module, torch.stack(means), norm)
        torch.testing.assert_close(got[index, : len(means)], expected, atol=1e-5, rtol=0)


def test_label_runs() -> None:
    """Runs are numbered from 1; blanks and padding are 0, but the frames of an all-blank row are one run."""
    labels = torch.tensor([[0, 0, 2, 0, 1, 1], [2, 2, 2, 1, 1, 1], [3, 1, 1, 2, 3, 0], [1, 1, 1, 1, 1, 1]])
    got = label_runs(labels, torch.tensor([6, 3, 5, 1]), blank=2)
    assert got.tolist() == [[1, 1, 0, 2, 3, 3], [1, 1, 1, 0, 0, 0], [1, 2, 2, 0, 3, 0], [1, 0, 0, 0, 0, 0]]


@torch.no_grad()
def test_ctc_of_blank_rows_only() -> None:
    """A batch in which nothing was recognised still has one position for each row."""
    module = CtcAdapter(INPUT, 0, WIDTH, "none")
    got, lengths = module(padded(rows()), torch.tensor(LENGTHS), torch.zeros(5, 23, dtype=torch.long))
    assert lengths.tolist() == [1] * 5 and got.shape == (5, 1, WIDTH)
    means = torch.stack([row.mean(dim=0) for row in rows()])
    torch.testing.assert_close(got[:, 0], projected(module, means, "none"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_ctc_averages_in_full_precision() -> None:
    """Some 2,000 frames of 60 sum up to more than fp16 holds, and to less than bf16 can tell from 1,999 of them."""
    for dtype in (torch.float16, torch.bfloat16):
        module = CtcAdapter(INPUT, BLANK, WIDTH, "none").to(dtype)
        constant = torch.full((1, 2000, INPUT), 60.0, dtype=dtype)
        got, _ = module(constant, torch.tensor([2000]), torch.ones(1, 2000, dtype=torch.long))
        torch.testing.assert_close(got, module.projection(constant[:, :1]), atol=0, rtol=0)


def qformer(window: int, queries: int, norm: str = "none") -> QFormerAdapter:
    torch.manual_seed(10)
    return QFormerAdapter(INPUT, CHANNELS, WIDTH, window, queries, layers=3, heads=2, norm=norm, scale=SCALE).eval()


@pytest.mark.parametrize("norm", ["none", "embedding"])
@pytest.mark.parametrize(("window", "queries"), [(15, 1), (5, 3), (1, 2), (40, 1)])
@torch.no_grad()
def test_qformer(window: int, queries: int, norm: str) -> None:
    """One window at a time through the same Q-Former, without a mask, since nothing is padded."""
    module = qformer(window, queries, norm)
    disturb(module)
    got, lengths = module(padded(rows()), torch.tensor(LENGTHS))
    for index, row in enumerate(rows()):
        outputs = []
        for start in range(0, len(row), window):
            frames = module.input_norm(row[start : start + window]).unsqueeze(0)
            out = module.qformer(query_embeds=module.queries.unsqueeze(0), encoder_hidden_states=frames)
            outputs.append(out.last_hidden_state[0])
        assert lengths[index] == queries * len(outputs)
        expected = projected(module, torch.cat(outputs), norm)
        torch.testing.assert_close(got[index, : len(expected)], expected, atol=1e-5, rtol=0)


def test_qformer_is_transformers_own_with_cross_attention_in_every_layer() -> None:
    module = qformer(5, 2)
    assert isinstance(module.qformer, Blip2QFormerModel)
    assert [layer.has_cross_attention for layer in module.qformer.encoder.layer] == [True] * 3
    assert not any(m.p for m in module.modules() if isinstance(m, torch.nn.Dropout))


@torch.no_grad()
def test_qformer_windows_and_queries_are_told_apart() -> None:
    """A frame changes its own window's outputs only, and fresh queries differ from each other."""
    module, frames = qformer(5, 2), rows()[-1].unsqueeze(0)
    before, _ = module(frames, torch.tensor([23]))
    assert not torch.allclose(before[0, 0::2], before[0, 1::2], atol=1e-3)
    changed = frames.clone()
    changed[0, 12] *= -1
    after, _ = module(changed, torch.tensor([23]))
    differs = (after - before).abs().amax(dim=2)[0] > 1e-6
    assert differs.tolist() == [position in (4, 5) for position in range(10)]


def test_qformer_on_the_meta_device() -> None:
    """Shapes without values, which the memory plan counts; on a GPU the same means that nothing waits for a value."""
    module = qformer(5, 2).to("meta")
    got, lengths = module(torch.empty(3, 23, INPUT, device="meta"), torch.empty(3, dtype=torch.long, device="meta"))
    assert got.shape == (3, 10, WIDTH) and lengths.shape == (3,)
