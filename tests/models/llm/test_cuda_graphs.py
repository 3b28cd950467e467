"""Steps of beam search that are recorded and replayed: the same hypotheses, and given up where they would not be."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.decoding import Task, build_parser
from lst_fairseq.generation.beam_search import BeamSearchGenerator
from lst_fairseq.models.llm import cuda_graphs, prefix_cache
from lst_fairseq.models.llm.cuda_graphs import CHECKS, CudaGraph
from tests.models.llm.test_decoder import RandomSearch
from tests.support.helpers import batch_of, build
from tests.support.llms import FAMILIES, VOCABULARY, WIDTH, family_config
from tests.support.replay import RecordedGraph

#: Its attention cannot be exchanged, so that each beam has a cache of its own, which grows.
FANNED_OUT = ("bloom",)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Steps are recorded on the CPU; what was recorded and replayed."""
    monkeypatch.setitem(cuda_graphs.GRAPHS, "cpu", RecordedGraph)
    RecordedGraph.log.clear()
    yield RecordedGraph.log
    RecordedGraph.log.clear()


def search_task(family: str, device: str = "cpu", batch: int = 5, tokens: int = 24) -> Task:
    """Prefixes of different lengths for a tiny LLM, whose hypotheses end where they will."""
    sizes = f"--width {WIDTH} --vocabulary {VOCABULARY} --batch {batch} --prefix 12 --beam 3 --tokens {tokens}"
    torch.manual_seed(5)
    llm = AutoModelForCausalLM.from_config(family_config(family, tie_word_embeddings=False)).eval()
    task = Task.build(build_parser().parse_args(sizes.split()), torch.device(device), llm.to(device))
    task.generator.min_len = 1
    return task


@torch.no_grad()
def plain(task: Task) -> list[tuple[list[int], float]]:
    with mock.patch.object(task.model.decoder.recording, "wanted", False):
        return task.plugin()


def assert_same(got: list[tuple[list[int], float]], expected: list[tuple[list[int], float]]) -> None:
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hypotheses_of_replayed_steps(family: str, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While slots are given up and the buffers grow, which is a reason to record again."""
    monkeypatch.setattr(prefix_cache, "ROOM", 4)
    task = search_task(family)
    expected = plain(task)
    assert not log
    assert_same(task.plugin(), expected)
    recording = task.model.decoder.recording
    if family in FANNED_OUT:
        assert not log
    else:
        assert log.count("replay") >= 15 > 2 < log.count("record") and recording.wanted and not recording.checks


@torch.no_grad()
def test_fairseqs_own_search_on_replayed_steps(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which leaves sentences behind at different steps, too."""
    task = search_task("llama 2")
    monkeypatch.setattr(BeamSearchGenerator, "_is_plain", lambda self: False)
    expected = plain(task)
    assert len({len(tokens) for tokens, _ in expected}) > 2
    assert_same(task.plugin(), expected)
    assert log.count("replay") >= 15


def test_a_sharded_llm_is_not_recorded(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    llm = search_task("llama 2").llm
    assert cuda_graphs.graph_type(llm, torch.device("cpu")) is RecordedGraph
    monkeypatch.setattr(cuda_graphs, "DTensor", torch.nn.Parameter)  # what FSDP2 makes of parameters
    assert cuda_graphs.graph_type(llm, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("sparse", "rows"),
    [(2, [4] * 7 + [2] * 2 + [1] * 3), (100, [4] * 9 + [1] * 3)],  # the latter when there is no room for a ninth token
)
@torch.no_grad()
def test_steps_equal_a_cache_free_pass(
    sparse: int,
    rows: list[int],
    corpus: Path,
    backbones: dict[str, str],
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentences leave after steps 5, 7 and 9; their rows are given up when half are, or when all has to move."""
    monkeypatch.setattr(prefix_cache, "SPARSE", sparse)
    monkeypatch.setattr(prefix_cache, "ROOM", 8)
    _, task, model = build(corpus, backbones)
    task.load_dataset("test")
    walk = RandomSearch(task, model, batch_of(task, "test", [4, 0, 3, 1]), beam=2, seed=8)
    found = []
    for step in range(12):
        walk.check_step()
        found.append(len(walk.state["cache"].keys[0]))
        walk.choose(drop=step in (4, 6, 8))
    assert found == rows and log.count("replay") >= 8


@torch.no_grad()
def test_a_search_that_records_leaves_nothing_behind(log: list[str]) -> None:
    """The next one records anew, and runs no step twice."""
    task = search_task("llama 2", tokens=9)
    expected = plain(task)
    task.plugin()
    log.clear()
    calls = []
    task.llm.register_forward_hook(lambda *args: calls.append(len(log)))
    assert_same(task.plugin(), expected)
    assert log == ["record"] + ["replay"] * 7  # the first token's step runs as it is, and the prefix before it
    assert calls == [0, 0, 1]


def wait(module: Any, args: Any, output: Any) -> None:
    assert output.logits.sum().item() is not None


def depend_on_python(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    """The step's number is a Python number, which a recording would keep for good."""
    if "shared_prefix" in kwargs:
        output.logits = output.logits * (1 + 0.2 * kwargs["shared_prefix"].n_tokens)
    return output


class Unable(RecordedGraph):
    def __init__(self, run: Any, device: Any):
        raise RuntimeError("out of graphs\nand more lines")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (wait, "the LLM waits for the device in aten._local_scalar_dense.default"),
        (depend_on_python, "a replayed step's logits are not those of the step itself"),
        (Unable, "out of graphs"),
    ],
    ids=["waits", "depends on Python", "cannot be recorded"],
)
@torch.no_grad()
def test_what_cannot_be_recorded_runs_step_by_step(
    what: Any, reason: str, log: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one line that says why, and no further attempt."""
    task = search_task("llama 2")
    if what is Unable:
        monkeypatch.setitem(cuda_graphs.GRAPHS, "cpu", Unable)
    else:
        task.llm.register_forward_hook(what, **({"with_kwargs": True} if what is depend_on_python else {}))
    expected = plain(task)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(task.plugin(), expected)
    (line,) = [message for message in caplog.messages if "CUDA graph" in message]
    assert line.endswith(reason)
    assert log.count("record") <= 1 and log.count("replay") <= CHECKS


@torch.no_grad()
def test_it_can_be_switched_off(corpus: Path, backbones: dict[str, str], log: list[str]) -> None:
    cfg, task, model = build(corpus, backbones, "--no-cuda-graphs")
    task.load_dataset("dev")
    cfg.generation.max_len_b, cfg.generation.beam = 7, 3
    generator = task.build_generator([model], cfg.generation)
    task.inference_step(generator, [model], batch_of(task, "dev", [0, 1, 2]))
    assert not log and not model.decoder.recording.wanted


def test_what_gradients_may_pass_through_is_not_recorded(log: list[str]) -> None:
    task = search_task("llama 2", tokens=5)
    encoder_out = task.model.encoder(task.prefix, task.lengths)
    state: dict[str, Any] = {}
    tokens = torch.full((5, 4), 7)
    for step in range(1, 5):
        logits, _ = task.model.decoder(tokens[:, :step], encoder_out=encoder_out, incremental_state=state)
    assert logits.requires_grad and not log


def test_the_recorder_is_as_strict_as_a_cuda_graph() -> None:
    x, others = torch.arange(4.0), [torch.ones(4)]
    factor = 2.0

    def run() -> Tensor:
        x.add_(1)
        return factor * x + others[0]

    with torch.no_grad():
        graph = RecordedGraph(run, x.device)
        assert x.tolist() == [0, 1, 2, 3] and graph.output.isnan().all()
        factor = 100.0
        for first in (3, 5):
            graph.replay()
            assert graph.output.tolist() == [first, first + 2, first + 4, first + 6]
        x.copy_(torch.zeros(4))
        graph.replay()
        assert graph.output.tolist() == [3] * 4 and x.tolist() == [1] * 4
        for call in (x.sum().item, x.nonzero, lambda: x[x > 1]):
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                RecordedGraph(call, x.device)
        del others[0]
        with pytest.raises(RuntimeError, match="memory that was given up"):
            graph.replay()


def test_how_pytorch_is_asked_for_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph records on the stream and in the memory of the one before; a recording that fails is ended, too."""
    monkeypatch.setattr(CudaGraph, "_last", {})
    cuda, real = torch.cuda, torch.cuda.CUDAGraph
    for name in ("Stream", "current_stream", "stream", "device", "empty_cache"):
        monkeypatch.setattr(cuda, name, mock.MagicMock())
    monkeypatch.setattr(cuda, "current_device", lambda: 1)
    monkeypatch.setattr(cuda, "mem_get_info", lambda: (cuda_graphs.FREE_BYTES, 2 * cuda_graphs.FREE_BYTES))
    made = []
    monkeypatch.setattr(cuda, "CUDAGraph", lambda: made.append(mock.create_autospec(real, instance=True)) or made[-1])
    device = torch.device("cuda:1")
    first = CudaGraph(lambda: made[0].mock_calls[:], device)
    assert [name for name, _, _ in first.output] == ["capture_begin"] and made[0].capture_end.call_count == 1
    CudaGraph(lambda: None, device).replay()
    assert made[0].capture_begin.call_args.kwargs["pool"] is None
    assert made[1].capture_begin.call_args.kwargs["pool"] is made[0].pool() and made[1].replay.call_count == 1
    assert cuda.Stream.call_count == 1 and {call.args for call in cuda.device.call_args_list} == {(device,)}
    with pytest.raises(ZeroDivisionError):
        CudaGraph(lambda: 1 // 0, device)
    assert made[2].capture_end.call_count == 1 and not cuda.empty_cache.called


def test_how_waits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch warns of them, in a mode that is put back; other warnings go their way."""
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(UserWarning, match="of something else") as others, CudaGraph.waits() as found:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        warnings.warn("of something else", stacklevel=1)
        assert modes == ["warn"]
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert modes == ["warn", 0] and len(others) == 1
    assert len(found) == 1 and found[0].startswith(f"{__file__}:")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cuda_graphs(family: str) -> None:
    """On a GPU, with PyTorch's graphs; twice, since a second search takes over the first one's memory."""
    task = search_task(family, "cuda", batch=6, tokens=60)
    expected = plain(task)
    for _ in range(2):
        assert_same(task.plugin(), expected)
    recording = task.model.decoder.recording
    assert recording.wanted and (family in FANNED_OUT or not recording.checks)
