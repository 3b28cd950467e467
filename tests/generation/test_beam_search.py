"""The plugin's beam search finds what fairseq's own finds, on a small model whose hypotheses end at different steps."""

from itertools import chain
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel, FairseqIncrementalDecoder
from fairseq.search import BeamSearch, DiverseBeamSearch, Sampling
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from lst_fairseq.generation.beam_search import CLASS_SIZE, BeamSearchGenerator, best_of_rows

N_SENTENCES = 6


class Encoder(FairseqEncoder):
    """Each sentence is the number that it consists of."""

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> dict[str, Tensor]:
        return {"sentence": src_tokens[:, 0]}

    def reorder_encoder_out(self, encoder_out: dict[str, Tensor], new_order: Tensor) -> dict[str, Tensor]:
        return {"sentence": encoder_out["sentence"].index_select(0, new_order)}


class Decoder(FairseqIncrementalDecoder):
    """The next token depends on sentence and last token, and on a sum over all before, which the state keeps."""

    def __init__(self, dictionary: Dictionary, broken: int | None):
        super().__init__(dictionary)
        torch.manual_seed(len(dictionary))
        self.by_token = nn.Parameter(torch.randn(len(dictionary), len(dictionary)))
        self.by_sentence = nn.Parameter(torch.randn(N_SENTENCES, len(dictionary)))
        # Ends get likelier for some sentences than for others.
        self.by_sentence.data[:, dictionary.eos()] += torch.linspace(0, 3, N_SENTENCES)
        self.broken = broken
        self.rows: list[int] = []

    def forward(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None, **_: Any
    ) -> Any:
        sentence = encoder_out["sentence"]
        self.rows.append(len(sentence))
        now = self.by_token[prev_output_tokens[:, -1]]
        total = 0.5 * incremental_state["total"] + now if "total" in incremental_state else now
        incremental_state["total"] = total
        logits = total + self.by_sentence[sentence]
        if self.broken is not None:
            logits = logits.masked_fill((sentence == self.broken).unsqueeze(1), torch.nan)
        return logits.unsqueeze(1).clone(), {"attn": None}

    def reorder_incremental_state(self, incremental_state: Any, new_order: Tensor) -> Any:
        if "total" in incremental_state:
            incremental_state["total"] = incremental_state["total"].index_select(0, new_order)
        return incremental_state

    def max_positions(self) -> int:
        return 1000


def model_of(vocabulary: int, broken: int | None = None) -> tuple[FairseqEncoderDecoderModel, Dictionary]:
    dictionary = Dictionary()
    for number in range(vocabulary - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return FairseqEncoderDecoderModel(Encoder(dictionary), Decoder(dictionary, broken)), dictionary


def sample() -> dict[str, Any]:
    sentences = torch.arange(N_SENTENCES).unsqueeze(1).repeat(1, 3)
    return {"net_input": {"src_tokens": sentences, "src_lengths": torch.full((N_SENTENCES,), 3)}}


def hypotheses_of(kind: type, model: Any, dictionary: Dictionary, **settings: Any) -> list[list[dict[str, Tensor]]]:
    return kind([model], dictionary, **settings).generate([model], sample())


def assert_alike(got: list[list[dict[str, Tensor]]], expected: list[list[dict[str, Tensor]]]) -> None:
    assert [len(hypotheses) for hypotheses in got] == [len(hypotheses) for hypotheses in expected]
    for mine, theirs in zip(chain(*got), chain(*expected), strict=True):
        assert mine.keys() == theirs.keys() and torch.equal(mine["tokens"], theirs["tokens"])
        for name in ("score", "positional_scores"):
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-6, atol=1e-6)
        assert mine["attention"].numel() == mine["alignment"].numel() == 0


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


@pytest.mark.parametrize("vocabulary", [13, 83, CLASS_SIZE * 30 + 5])
@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"len_penalty": 0.3},
        {"len_penalty": 2.0, "min_len": 5},
        {"normalize_scores": False, "temperature": 1.7},
        {"unk_penalty": 1.5, "max_len_b": 4},
        {"max_len_a": 2, "max_len_b": 1},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_hypotheses_are_those_of_fairseq(vocabulary: int, beam: int, settings: dict[str, Any]) -> None:
    model, dictionary = model_of(vocabulary)
    settings = {"beam_size": beam, "max_len_b": 20, **settings}
    expected = hypotheses_of(SequenceGenerator, model, dictionary, **settings)
    rows, model.decoder.rows = model.decoder.rows, []
    assert_alike(hypotheses_of(BeamSearchGenerator, model, dictionary, **settings), expected)
    assert model.decoder.rows == rows  # finished sentences leave at the same steps
    lengths = {len(hypothesis["tokens"]) for hypotheses in expected for hypothesis in hypotheses}
    assert len(lengths) > 1 or beam == 1 or settings["max_len_b"] < 5


@pytest.mark.parametrize(
    "make",
    [
        lambda dictionary: {"search_strategy": DiverseBeamSearch(dictionary, 2, 0.5)},
        lambda dictionary: {"search_strategy": Sampling(dictionary, 5)},
        lambda dictionary: {"no_repeat_ngram_size": 2},
        lambda dictionary: {"tokens_to_suppress": ["w1", "w2"]},
        lambda dictionary: {"match_source_len": True},
    ],
    ids=["diverse", "sampling", "no repeated n-grams", "suppressed tokens", "source's length"],
)
def test_other_searches_are_fairseqs(make: Any) -> None:
    model, dictionary = model_of(83)
    settings = {"beam_size": 4, "max_len_b": 10, **make(dictionary)}
    results = []
    for kind in (SequenceGenerator, BeamSearchGenerator):
        torch.manual_seed(3)
        results.append(hypotheses_of(kind, model, dictionary, **settings))
    assert_alike(*results)


def test_ensembles_and_forced_prefixes_are_fairseqs() -> None:
    model, dictionary = model_of(83)
    prefix = torch.tensor([[7, 8]] * N_SENTENCES)
    expected, got = (
        kind([model, model], dictionary, 3, max_len_b=6).generate([model], sample(), prefix_tokens=prefix)
        for kind in (SequenceGenerator, BeamSearchGenerator)
    )
    assert_alike(got, expected)
    assert all(hypotheses[0]["tokens"][:2].tolist() == [7, 8] for hypotheses in got)


def test_a_sentence_without_finite_scores_is_an_error() -> None:
    model, dictionary = model_of(83, broken=2)
    with pytest.raises(FloatingPointError, match=r"sentence 2 of a batch of 6 has no hypothesis"):
        hypotheses_of(BeamSearchGenerator, model, dictionary, beam_size=2, max_len_b=5)


def test_limits_that_contradict_each_other() -> None:
    model, dictionary = model_of(83)
    with pytest.raises(ValueError, match=r"--min-len 9 is above the length limit of 5 tokens"):
        hypotheses_of(BeamSearchGenerator, model, dictionary, beam_size=2, max_len_b=5, min_len=9)


def test_plain_search_is_the_plugins_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dictionary = model_of(83)
    monkeypatch.setattr(BeamSearch, "step", None)  # fairseq's is not asked
    hypotheses_of(BeamSearchGenerator, model, dictionary, beam_size=2, max_len_b=5)
