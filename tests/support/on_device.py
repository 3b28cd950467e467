"""On an accelerator: nothing of the plugin stays on the CPU, results are the same, and the host rarely waits.

Run by tests/models/test_devices.py in a process of its own, in which the device is there before anything else.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.utils import apply_to_sample
from transformers import AutoModelForCausalLM

import lst_fairseq
from benchmarks.decoding import Task, build_parser
from lst_fairseq.generation.beam_search import BeamSearchGenerator
from lst_fairseq.models.adapters import ADAPTERS
from lst_fairseq.models.llm import cuda_graphs
from lst_fairseq.tasks import feature_filling
from tests.support import pretended
from tests.support.helpers import batch_of, build
from tests.support.llms import FAMILIES, VOCABULARY, WIDTH, family_config
from tests.support.pretended import DEVICE

pretended.register()

PLUGIN = str(Path(lst_fairseq.__file__).parent)
KINDS = ("wav2vec2", "wav2vec2_bert", "whisper")
EVERYTHING = "frontend,adapter,llm"


def to_device(sample: Any) -> Any:
    return apply_to_sample(lambda tensor: tensor.to(DEVICE), sample)


def moved(model: Any) -> Any:
    """The model on the device, with one parameter again where there was one."""
    model.to(DEVICE).decoder.llm.tie_weights()
    return model


def by_plugin(waits: Counter[str]) -> int:
    """How often the host has waited for a value in the plugin's own code."""
    return sum(count for place, count in waits.items() if place.startswith(PLUGIN))


def loss_and_gradients(task: Any, cfg: Any, model: Any, sample: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loss, _, _ = task.build_criterion(cfg.criterion)(model, sample)
    loss.backward()
    return loss.item(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def test_the_device_is_as_strict_as_a_gpu() -> None:
    with pretended.device() as waits:
        x = torch.arange(6.0, device=DEVICE).view(2, 3)
        assert (x + torch.tensor(1.0)).tolist() == [[1, 2, 3], [4, 5, 6]]
        assert x[torch.tensor([1])].tolist() == [[3, 4, 5]]
        for call in (
            lambda: x + torch.ones(3),
            lambda: torch.ones(3)[x[0].long()],
            lambda: torch.cat([x, torch.ones(1, 3)]),
        ):
            with pytest.raises(RuntimeError, match="tensors on pretended and on cpu"):
                call()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        waits.clear()
        for call in (x.sum().item, x.tolist, x.cpu, (x > 1).nonzero, lambda: x[x > 1], lambda: bool(x.any())):
            before = waits.total()
            call()
            assert waits.total() == before + 1
        x.add_(1).sum().clone()[None].to(torch.float64)
        assert waits.total() == 6 and set(waits) == {
            f"{__file__}:test_the_device_is_as_strict_as_a_gpu",
            f"{__file__}:<lambda>",
        }


CASES = [
    *({"speech_encoder": kind} for kind in KINDS),
    *({"adapter": adapter, "adapter_heads": 4, "max_source_seconds": 8} for adapter in ADAPTERS if adapter != "conv"),
    {"train_modules": "adapter,lora"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(next(iter(case.values()))))
def test_loss_and_gradients_are_those_of_the_cpu(case: dict[str, Any], corpus: Path, backbones: dict[str, str]) -> None:
    kind = case.get("speech_encoder", "wav2vec2")
    settings = {"train_modules": EVERYTHING, **case, "speech_encoder": backbones[kind]}
    cfg, task, model = build(corpus, backbones, **settings)
    task.load_dataset("dev")
    sample = batch_of(task, "dev", [0, 1, 2, 3])
    loss, gradients = loss_and_gradients(task, cfg, model, sample)
    model.zero_grad()
    with pretended.device():
        got, on_device = loss_and_gradients(task, cfg, moved(copy.deepcopy(model)), to_device(sample))
    assert got == pytest.approx(loss, rel=1e-5)
    assert gradients and on_device.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(on_device[name], gradient, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_waits_of_an_update(kind: str, corpus: Path, backbones: dict[str, str]) -> None:
    """A few times, whatever the number of sentences, layers and targets."""
    settings = {"speech_encoder": backbones[kind], "train_modules": "adapter"}
    cfg, task, model = build(corpus, backbones, "--llm-gradient-checkpointing", **settings)
    task.load_dataset("train")
    counts = []
    with pretended.device() as waits:
        moved(model).train()
        for rows in ([0, 1], [0, 1, 2, 3, 4, 5]):
            sample = to_device(batch_of(task, "train", rows))
            waits.clear()
            loss, _, _ = task.build_criterion(cfg.criterion)(model, sample)
            loss.backward()
            counts.append(by_plugin(waits))
    assert counts[0] == counts[1] <= 8


def search(family: str, device: str, tokens: int = 9) -> list[tuple[list[int], float]]:
    """Hypotheses of prefixes of different lengths by a tiny LLM of that family."""
    sizes = f"--width {WIDTH} --vocabulary {VOCABULARY} --batch 3 --prefix 12 --beam 3 --tokens {tokens}"
    torch.manual_seed(5)
    llm = AutoModelForCausalLM.from_config(family_config(family, tie_word_embeddings=False)).eval()
    task = Task.build(build_parser().parse_args(sizes.split()), torch.device("cpu"), llm)
    if device != "cpu":
        task.model.to(device)
        task.prefix, task.lengths = task.prefix.to(device), task.lengths.to(device)
    with torch.no_grad():
        return task.plugin()


@pytest.mark.parametrize("family", FAMILIES)
def test_hypotheses_are_those_of_the_cpu(family: str) -> None:
    expected = search(family, "cpu")
    with pretended.device():
        got = search(family, DEVICE)
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected], abs=1e-5)


class Rerun:
    """Stands for a graph where there is none: each replay runs the step, on the memory that a graph would use."""

    replays = 0

    def __init__(self, run: Callable[[], torch.Tensor], device: torch.device):
        assert device.type == DEVICE
        self.run = run

    def replay(self) -> None:
        Rerun.replays += 1
        self.output = self.run()

    @staticmethod
    @contextmanager
    def waits() -> Iterator[list[str]]:
        yield []


@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_of_beam_search_waits_once(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the ends of sentences, of which fairseq, too, asks each step."""
    if recorded:
        monkeypatch.setitem(cuda_graphs.GRAPHS, DEVICE, Rerun)
    counts, before = [], Rerun.replays
    with pretended.device() as waits:
        for tokens in (8, 12):
            waits.clear()
            search("llama 2", DEVICE, tokens)
            counts.append(by_plugin(waits))
    assert counts[1] - counts[0] == 4
    assert Rerun.replays - before == recorded * (6 + 10)  # neither the prefix nor the first token


def test_generation_with_the_tasks_generator(corpus: Path, backbones: dict[str, str]) -> None:
    cfg, task, model = build(corpus, backbones)
    task.load_dataset("dev")
    sample = batch_of(task, "dev", [0, 1, 2])
    cfg.generation.max_len_b, cfg.generation.beam = 7, 3
    expected = task.inference_step(task.build_generator([model], cfg.generation), [model], sample)
    with pretended.device():
        moved(model)
        generator = task.build_generator([model], cfg.generation)
        assert type(generator) is BeamSearchGenerator
        got = task.inference_step(generator, [model], to_device(sample))
    for ours, theirs in zip(got, expected, strict=True):
        assert [h["tokens"].tolist() for h in ours] == [h["tokens"].tolist() for h in theirs]


def test_waits_while_features_are_written(
    corpus: Path, backbones: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often for a batch of twelve segments as for one of a single segment."""
    make, counts = feature_filling._batches, []
    for seconds in (0, 100):
        batches: list[list[int]] = []
        monkeypatch.setattr(feature_filling, "BATCH_SECONDS", seconds)
        monkeypatch.setattr(feature_filling, "_batches", lambda *args, b=batches: b.extend(make(*args)) or b)
        _, task, model = build(corpus, backbones, cache_features=str(tmp_path / str(seconds)))
        with pretended.device() as waits:
            moved(model)
            task.load_dataset("train")
            waits.clear()
            task.get_batch_iterator(task.dataset("train"), max_tokens=400)
            counts.append((len(batches), by_plugin(waits) / len(batches)))
    assert [n_batches for n_batches, _ in counts] == [12, 1]
    assert counts[0][1] == counts[1][1]
