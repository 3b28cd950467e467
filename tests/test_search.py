"""The shortcut of beam search finds what fairseq's own finds."""

import pytest
import torch
from fairseq.search import BeamSearch

from lst_fairseq.search import CLASS_SIZE, FastBeamSearch, best_of_rows


class Dictionary(list):
    """What fairseq's search asks of a dictionary."""

    def pad(self) -> int:
        return 1

    unk = eos = pad


@pytest.mark.parametrize("size", [5, 8, 40, CLASS_SIZE * 8, CLASS_SIZE * 9, CLASS_SIZE * 40 + 17])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_best_of_rows_is_topk(size: int, k: int) -> None:
    torch.manual_seed(size)
    values = torch.randn(7, size)
    values[:, 2] = -torch.inf
    values[0, -1], values[1, 0], values[2] = 9.0, 9.0, torch.arange(size)  # ends, and neighbours
    expected, expected_index = values.topk(min(k, size))
    got, index = best_of_rows(values, min(k, size))
    assert torch.equal(got, expected) and torch.equal(index, expected_index)


@pytest.mark.parametrize("vocabulary", [6, 83, CLASS_SIZE * 30 + 5])
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_candidates_are_those_of_fairseq(vocabulary: int, beam: int) -> None:
    torch.manual_seed(vocabulary + beam)
    dictionary = Dictionary(range(vocabulary))
    plain, fast = BeamSearch(dictionary), FastBeamSearch(dictionary)
    for step in range(4):
        lprobs = torch.randn(3, beam, vocabulary).mul(2).log_softmax(dim=-1)
        lprobs[:, :, 1] = -torch.inf
        scores = torch.randn(3, beam, step).cumsum(dim=2) * 3
        expected = plain.step(step, lprobs.clone(), scores)
        got = fast.step(step, lprobs, scores)
        assert torch.equal(got[0], expected[0])
        for mine, theirs in zip(got[1:], expected[1:]):
            finite = expected[0].isfinite()  # the order among impossible candidates means nothing
            assert torch.equal(mine[finite], theirs[finite])


def test_all_but_one_token_forbidden() -> None:
    """As at the length limit, where only the end of sentence is left."""
    lprobs = torch.full((2, 2, 100), -torch.inf)
    lprobs[:, :, 2] = torch.tensor([[-1.0, -2.0], [-4.0, -3.0]])
    scores = torch.zeros(2, 2, 1)
    best, tokens, beams = FastBeamSearch(Dictionary(range(100))).step(1, lprobs, scores)
    assert best[:, :2].tolist() == [[-1.0, -2.0], [-3.0, -4.0]]
    assert tokens[:, :2].eq(2).all() and beams[:, :2].tolist() == [[0, 1], [1, 0]]
