"""The LLM decoder: prefixes, the key/value cache under reordering, and how often the LLM runs."""

import random
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lst_fairseq.models.llm import prefix_cache
from lst_fairseq.models.llm.decoder import left_pad, positions
from lst_fairseq.models.llm.prefix_cache import FannedOutCache, SharedPrefixCache
from tests.conftest import save_llama
from tests.support.helpers import batch_of, build
from tests.support.reference import next_token, plain_prefix, waveforms_of


@pytest.fixture(scope="module")
def tiny(corpus: Path, backbones: dict[str, str]) -> tuple[Any, Any]:
    """(task with its test split, model)."""
    _, task, model = build(corpus, backbones)
    task.load_dataset("test")
    return task, model


def test_left_pad_keeps_the_order_of_the_content() -> None:
    content = torch.arange(1, 13, dtype=torch.float).view(2, 6, 1)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 1]], dtype=torch.bool)
    padded, padded_mask = left_pad(content, mask)
    assert padded_mask.tolist() == [[True] * 4, [False, False, True, True]]
    assert padded[0, :, 0].tolist() == [1, 3, 4, 6]
    assert padded[1, 2:, 0].tolist() == [9, 12]


def test_left_pad_of_full_rows_changes_nothing() -> None:
    content = torch.randn(2, 5, 3)
    padded, mask = left_pad(content, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(padded, content) and mask.all()


def test_left_pad_passes_gradients_of_the_content_only() -> None:
    content = torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    padded, padded_mask = left_pad(content, mask)
    padded[padded_mask].sum().backward()
    assert torch.equal(content.grad[..., 0].bool(), mask)


def test_positions_count_the_content() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert positions(mask)[:, 2:].tolist() == [[0, 1, 2], [2, 3, 4]]


@torch.no_grad()
def test_prefix_is_prompt_markers_and_speech(tiny: tuple[Any, Any]) -> None:
    """Right-aligned, so that each row's target begins at the same place."""
    task, model = tiny
    sample = batch_of(task, "test", range(5))
    prefix, mask = model.decoder.prefix(model.encoder(**sample["net_input"]))
    lengths = []
    for row, row_mask, waveform in zip(prefix, mask, waveforms_of(sample)):
        expected = plain_prefix(model, waveform)
        lengths.append(len(expected))
        assert row_mask.tolist() == [False] * (len(row) - len(expected)) + [True] * len(expected)
        torch.testing.assert_close(row[row_mask], expected, atol=1e-5, rtol=0)
    assert len(set(lengths)) > 2 and prefix.size(1) == max(lengths)


class RandomSearch:
    """Walks through the decoder as fairseq's generator does, with random tokens, reorders and drops.

    The rows' true sentences and tokens are kept beside, as lists.
    """

    def __init__(self, task: Any, model: Any, sample: dict[str, Any], beam: int, seed: int):
        self.model, self.beam = model, beam
        self.random = random.Random(seed)
        dictionary = task.target_dictionary
        self.eos = dictionary.eos()
        special = {dictionary.pad(), self.eos, *dictionary.ids_without_token}
        self.vocabulary = [i for i in range(len(dictionary)) if i not in special]
        self.expected = [next_token([model], waveform) for waveform in waveforms_of(sample)]
        self.sentences = [s for s in range(len(self.expected)) for _ in range(beam)]
        self.tokens: list[list[int]] = [[] for _ in self.sentences]
        self.state: dict[str, Any] = {}
        self.encoder_out = self.reordered(model.encoder(**sample["net_input"]), self.sentences)

    def reordered(self, encoder_out: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
        return self.model.encoder.reorder_encoder_out(encoder_out, torch.tensor(order))

    def check_step(self) -> None:
        """Scores of each row equal those of its sentence and tokens alone, without cache."""
        fed = torch.tensor([[self.eos, *tokens] for tokens in self.tokens])
        logits, extra = self.model.decoder(fed, encoder_out=self.encoder_out, incremental_state=self.state)
        assert extra == {"attn": None} and logits.shape[:2] == (len(self.tokens), 1)
        got = F.log_softmax(logits[:, -1], dim=-1)
        for row, sentence, tokens in zip(got, self.sentences, self.tokens):
            torch.testing.assert_close(row, self.expected[sentence]([tokens])[0], atol=1e-4, rtol=0)

    def choose(self, drop: bool) -> None:
        """Let each sentence go on from random ones of its rows, or leave."""
        alive = sorted(set(self.sentences))
        if drop and len(alive) > 1:
            alive.remove(self.random.choice(alive))
        rows = {s: [i for i, other in enumerate(self.sentences) if other == s] for s in alive}
        order = [self.random.choice(rows[s]) for s in alive for _ in range(self.beam)]
        self.sentences = [self.sentences[i] for i in order]
        self.tokens = [[*self.tokens[i], self.random.choice(self.vocabulary)] for i in order]
        self.model.decoder.reorder_incremental_state_scripting(self.state, torch.tensor(order))
        self.encoder_out = self.reordered(self.encoder_out, order)


@pytest.mark.parametrize("prompt", ["USER: {speech} Deutsch:", "{speech} Deutsch:", "USER: {speech}", "{speech}"])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_cached_steps_equal_a_cache_free_pass(
    prompt: str, tied: bool, corpus: Path, backbones: dict[str, str], tmp_path: Path
) -> None:
    """For each prefix of random targets, with beams reordered and sentences dropped in between."""
    save_llama(tmp_path, tied=tied)
    _, task, model = build(corpus, {**backbones, "llama": str(tmp_path)}, prompt=prompt)
    output, table = model.decoder.llm.get_output_embeddings().weight, model.decoder.llm.get_input_embeddings().weight
    assert (output is table) == tied
    task.load_dataset("test")
    walk = RandomSearch(task, model, batch_of(task, "test", [4, 0, 3, 1]), beam=2, seed=8)
    for step in range(8):
        walk.check_step()
        walk.choose(drop=step in (2, 3, 5))
    assert len(set(walk.sentences)) == 1


@torch.no_grad()
def test_a_copy_of_the_prefix_for_each_beam_gives_the_same(tiny: tuple[Any, Any]) -> None:
    """What LLMs with an attention of their own fall back to."""
    task, model = tiny
    assert model.decoder.shares_prefixes
    with mock.patch.object(model.decoder, "shares_prefixes", False):
        walk = RandomSearch(task, model, batch_of(task, "test", [4, 0, 3, 1]), beam=2, seed=8)
        for step in range(6):
            walk.check_step()
            assert isinstance(walk.state["cache"], FannedOutCache)
            walk.choose(drop=step in (2, 3))


@torch.no_grad()
def test_the_prefix_is_kept_once_a_sentence_and_a_token_once_a_beam(tiny: tuple[Any, Any]) -> None:
    """Neither is copied when beams change places; both leave with their sentence."""
    task, model = tiny
    walk = RandomSearch(task, model, batch_of(task, "test", [4, 0, 3]), beam=5, seed=9)
    walk.check_step()
    cache = walk.state["cache"]
    assert isinstance(cache, SharedPrefixCache) and {len(keys) for keys in cache.keys} == {3}
    storage = cache.keys[0].data_ptr()
    for _ in range(3):
        walk.choose(drop=False)
        walk.check_step()
    assert cache.keys[0].data_ptr() == storage and cache.times.tolist() == [[0] * 5 + [1] * 5 + [2] * 5] * 3
    assert (cache.sees.sum(dim=2) == 3).all()
    walk.choose(drop=True)
    walk.check_step()
    assert {len(keys) for keys in cache.keys} == {2} and cache.sees.shape == (2, 5, 20)


@torch.no_grad()
def test_tokens_that_no_beam_sees_make_room(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once random beams have a common history, the buffer holds little more than one hypothesis for all of them."""
    monkeypatch.setattr(prefix_cache, "ROOM", 3)
    monkeypatch.setattr(prefix_cache, "INTERVAL", 2)
    task, model = tiny
    walk = RandomSearch(task, model, batch_of(task, "test", [4, 0, 3]), beam=3, seed=10)
    sizes = []
    for step in range(24):
        walk.check_step()
        walk.choose(drop=step == 13)
        sizes.append(walk.state["cache"].times.size(1))
    cache = walk.state["cache"]
    assert sum(later < earlier for earlier, later in pairwise(sizes)) >= 2
    assert 24 < sizes[-1] < 24 * 3 * 2 / 3
    assert cache.keys[0].size(2) >= cache.mask.size(1) + cache.room > cache.mask.size(1) + 3 * 3


@torch.no_grad()
def test_rows_in_another_order_than_the_sentences(tiny: tuple[Any, Any]) -> None:
    """Not what fairseq's generator does; each beam then gets its own copy."""
    task, model = tiny
    sample = batch_of(task, "test", [0, 3])
    encoder_out = model.encoder(**sample["net_input"])
    order = torch.tensor([1, 0, 1])
    tokens = torch.tensor([[2, 21], [2, 40], [2, 30]])
    reordered = model.encoder.reorder_encoder_out(encoder_out, order)
    state: dict[str, Any] = {}
    got, _ = model.decoder(tokens, encoder_out=reordered, incremental_state=state)
    expected = [next_token([model], waveforms_of(sample)[row])([[token]])[0] for row, token in zip(order, [21, 40, 30])]
    torch.testing.assert_close(F.log_softmax(got[:, -1], dim=-1), torch.stack(expected), atol=1e-4, rtol=0)
    assert isinstance(state["cache"], FannedOutCache)


@torch.no_grad()
def test_several_tokens_at_once_equal_single_steps(tiny: tuple[Any, Any]) -> None:
    """A decoder asked for the first time with tokens already there runs the prefix and all of them."""
    task, model = tiny
    sample = batch_of(task, "test", [0, 3])
    encoder_out = model.encoder(**sample["net_input"])
    tokens = torch.tensor([[2, 21, 30, 25], [2, 40, 8, 33]])
    state: dict[str, Any] = {}
    for step in range(1, 5):
        logits, _ = model.decoder(tokens[:, :step], encoder_out=encoder_out, incremental_state=state)
    at_once, _ = model.decoder(tokens, encoder_out=encoder_out, incremental_state={})
    whole, _ = model.decoder(tokens, encoder_out=encoder_out)
    torch.testing.assert_close(at_once, logits, atol=1e-4, rtol=0)
    whole[..., task.target_dictionary.ids_without_token] = -torch.inf  # which only the search needs
    torch.testing.assert_close(whole[:, -1:], logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_ids_without_a_token_are_never_emitted(tiny: tuple[Any, Any]) -> None:
    task, model = tiny
    sample = batch_of(task, "test", [0, 3])
    without = task.target_dictionary.ids_without_token
    assert without == list(range(len(task.target_dictionary)))[-3:]
    has_token = torch.ones(len(task.target_dictionary), dtype=torch.bool)
    has_token[without] = False
    state: dict[str, Any] = {}
    encoder_out = model.encoder(**sample["net_input"])
    for tokens in (torch.tensor([[2], [2]]), torch.tensor([[2, 21], [2, 30]])):
        logits, _ = model.decoder(tokens, encoder_out=encoder_out, incremental_state=state)
        assert logits.size(-1) == len(task.target_dictionary)
        assert (logits[..., without] == -torch.inf).all() and logits[..., has_token].isfinite().all()


def test_scoring_after_a_reorder_repeats_the_prefix(tiny: tuple[Any, Any]) -> None:
    """fairseq's scorers may ask for whole targets with a reordered encoder output."""
    task, model = tiny
    sample = batch_of(task, "test", [0, 3, 4])
    tokens = sample["net_input"]["prev_output_tokens"]
    encoder_out = model.encoder(**sample["net_input"])
    expected, _ = model.decoder(tokens, encoder_out=encoder_out)
    order = torch.tensor([2, 0, 0, 1])
    got, _ = model.decoder(tokens[order], encoder_out=model.encoder.reorder_encoder_out(encoder_out, order))
    torch.testing.assert_close(got, expected[order], atol=1e-5, rtol=0)


def test_speech_once_a_batch_and_prefix_once_a_sentence(tiny: tuple[Any, Any]) -> None:
    """Generation runs the frontend once, the prefixes without padding in one row, and then one token a row and step."""
    task, model = tiny
    sample = batch_of(task, "test", [0, 1, 3])
    calls: dict[str, list[tuple[int, int]]] = {"frontend": [], "llm": []}
    frontend, llm = model.encoder.frontend, model.decoder.llm
    handles = [
        frontend.register_forward_hook(lambda module, inputs, output: calls["frontend"].append(output[0].shape[:2])),
        llm.register_forward_hook(
            lambda module, inputs, keywords, output: calls["llm"].append(keywords["inputs_embeds"].shape[:2]),
            with_kwargs=True,
        ),
    ]
    generator = task.build_generator([model], Namespace(beam=4, max_len_b=6))
    task.inference_step(generator, [model], sample)
    for handle in handles:
        handle.remove()
    positions = sum(len(plain_prefix(model, waveform)) for waveform in waveforms_of(sample))
    assert [rows for rows, _ in calls["frontend"]] == [3]
    assert calls["llm"][0] == (1, positions)
    assert len(calls["llm"]) == 7 and calls["llm"][1] == (12, 1)
    assert all(rows % 4 == 0 and rows <= 12 and width == 1 for rows, width in calls["llm"][1:])


def test_no_room_for_a_target(corpus: Path, backbones: dict[str, str], tmp_path: Path) -> None:
    save_llama(tmp_path, max_position_embeddings=60)
    with pytest.raises(ValueError, match=r"--max-source-seconds 30 and the prompt take \d+ positions.*LLM has 60"):
        build(corpus, {**backbones, "llama": str(tmp_path)})
    _, _, model = build(corpus, {**backbones, "llama": str(tmp_path)}, max_source_seconds=2)
    assert model.max_decoder_positions() == 60 - 9 - (-(-100 // 4) + 2)
