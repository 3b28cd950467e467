"""--ddp-backend fully_sharded against plain training on one process: the same losses, norms, parameters, files.

All runs on a number of processes share one group of processes; the tests compare what the runs left.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lst_fairseq.checkpoints import conversion
from lst_fairseq.checkpoints.optimizer_state import MASTER_KEY
from lst_fairseq.errors import CheckpointError
from tests.conftest import save_llama
from tests.support.helpers import lst, lst_refuses
from tests.support.ranks import run_ranks
from tests.support.running import Run, differences, read_checkpoint, run_generate, spoil, write_split
from tests.support.task_corpus import TEMPLATE, write_task_corpus

UPDATES = 20
FEW = 4
SAVED = 16
#: An update is four batches of one segment, on however many processes.
BATCHES = 4
COMMON = {"batch_size": 1, "lr": [0.001], "clip_norm": 1.0, "disable_validation": True, "no_epoch_checkpoints": True}
STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"train_modules": "adapter"},
    "stage2": {"train_modules": "adapter,llm"},
    "lora": {"train_modules": "adapter,lora", "lora_dropout": 0.0},
}
#: What changes nothing in the outcome, on two processes; the stage, and further flags.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "frozen parts divided": ("stage1", {"shard_frozen": True}),
    "frozen LLM divided and checkpointed": ("stage1", {"shard_frozen": True, "llm_gradient_checkpointing": True}),
    "LoRA, frozen parts divided": ("lora", {"shard_frozen": True}),
    "states in the host's memory": ("stage2", {"cpu_offload": True}),
    "whole until the backward pass": ("stage2", {"no_reshard_after_forward": True}),
    "activations computed again": ("stage2", {"llm_gradient_checkpointing": True}),
    "gradients divided after each batch": ("stage2", {"accumulate_gradients": "sharded"}),
}
PLAIN = {"ddp_backend": "legacy_ddp"}


@dataclass
class Done:
    """Folders and steps of all runs: ``steps["2/stage1"]`` is [loss, gradient norm] of each update."""

    folder: Path
    steps: dict[str, list[list[float]]]

    def checkpoint(self, name: str, which: str = "last") -> dict[str, Any]:
        return read_checkpoint(self.folder / name / f"checkpoint_{which}.pt")


def settings(stage: str, world_size: int, updates: int | None = None, **more: Any) -> dict[str, Any]:
    flags = {"max_update": updates or UPDATES, "update_freq": [BATCHES // world_size]}
    return {**COMMON, **STAGES[stage], **flags, **more}


def short(stage: str, world_size: int, **more: Any) -> dict[str, Any]:
    return settings(stage, world_size, 3, **{"no_save": True, **more})


def equal_runs(world_size: int) -> dict[str, dict[str, Any]]:
    """Each stage with the engine, and as ``plain ...`` without."""
    runs = {stage: settings(stage, world_size) for stage in STAGES}
    return runs | {f"plain {stage}": settings(stage, world_size, **PLAIN) for stage in STAGES}


def odd_runs(world_size: int, bad: Path, tasks: Path) -> dict[str, dict[str, Any]]:
    """Batches that are missing, unreadable, or without speech, on one process and on another."""
    uneven = {"batch_size": 5}  # 12 segments: three batches, and an update takes four
    skipped = {"data": bad, "skip_bad_audio": True}
    text = {"data": tasks, "prompt": TEMPLATE, "train_subset": "train_asr,train_mt", "shard_frozen": True}
    return {
        "uneven": short("stage2", world_size, **uneven),
        "skipped": short("stage2", world_size, **skipped),
        "text": settings("stage2", world_size, 5, no_save=True, update_freq=[1], **text),
    }


@pytest.fixture(scope="module")
def done(corpus, backbones, tmp_path_factory) -> Done:
    root = tmp_path_factory.mktemp("sharded")
    save_llama(root / "llama", tied=False)
    untied = {**backbones, "llama": str(root / "llama")}
    tasks = write_task_corpus(root_of(root, "tasks"))
    write_split(root / "bad", "train", [(0.5 + 0.1 * i, "Das Buch liegt auf dem Tisch.") for i in range(8)])
    for i in (2, 3, 5):
        spoil(root / "bad" / f"train_{i}.wav")
    steps: dict[str, list[list[float]]] = {}

    def run(world_size: int, runs: dict[str, dict[str, Any]]) -> None:
        results = run_ranks(world_size, root / str(world_size), corpus, untied, runs)
        steps.update({f"{world_size}/{name}": result for name, result in results.items()})

    four = equal_runs(4)
    four["stage2"]["save_interval_updates"] = SAVED
    shards = settings("stage2", 4, FEW, use_sharded_state=True, save_interval=1000)
    run(4, {**four, "shards": shards, "hybrid": short("stage2", 4, shard_group=2)})
    for world_size in (2, 1):
        for name, source in (("resumed", "stage2/checkpoint_6_16.pt"), ("from shards", "shards/checkpoint_last.pt")):
            target = root_of(root / str(world_size), name) / "checkpoint_last.pt"
            shutil.copy(root / "4" / source, target)
            for folder in (root / "4" / "shards").glob("checkpoint_shards_*"):
                shutil.copytree(folder, target.parent / folder.name)
    two = equal_runs(2)
    two |= {name: short(stage, 2, **flags) for name, (stage, flags) in WAYS.items()}
    two |= {"resumed": settings("stage2", 2), "from shards": settings("stage2", 2, 2 * FEW, use_sharded_state=True)}
    two |= {"bf16": settings("stage2", 2, 3, bf16=True)}
    odd = odd_runs(2, root / "bad", tasks)
    run(2, {**two, **odd, "plain text": {**odd["text"], **PLAIN, "shard_frozen": False}})
    one = equal_runs(1)
    one |= {
        f"plain {name}": {**run, **PLAIN} for name, run in odd_runs(1, root / "bad", tasks).items() if name != "text"
    }
    one |= {"plain bf16": settings("stage2", 1, 3, bf16=True, fp16_no_flatten_grads=True, **PLAIN)}
    run(1, {**one, "resumed": settings("stage2", 1, **PLAIN), "from shards": settings("stage2", 1, 2 * FEW)})
    return Done(root, steps)


def root_of(parent: Path, name: str) -> Path:
    (parent / name).mkdir(parents=True, exist_ok=True)
    return parent / name


def assert_equal(got: Any, wanted: Any, name: str = "", tolerance: float = 1e-5) -> None:
    """The same structure, and tensors within the tolerance."""
    assert type(got) is type(wanted), name
    if isinstance(wanted, torch.Tensor):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
        assert torch.allclose(got, wanted, rtol=tolerance, atol=tolerance), f"{name}: {(got - wanted).abs().max()}"
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted), name
        for key in wanted:
            assert_equal(got[key], wanted[key], f"{name}.{key}", tolerance)
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted), name
        for i, pair in enumerate(zip(got, wanted)):
            assert_equal(*pair, f"{name}.{i}", tolerance)
    else:
        assert got == wanted, name


def assert_same_steps(got: list[list[float]], wanted: list[list[float]], rel: float = 1e-5) -> None:
    assert len(got) == len(wanted) > 0
    for step, expected in zip(got, wanted):
        assert step == pytest.approx(expected, rel=rel)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", ["1/", "2/", "4/", "2/plain ", "4/plain "])
def test_processes_train_as_one_without_the_engine(way, stage, done):
    """Losses and gradient norms, and what the checkpoint holds in the end: parameters, Adam's moments, counters."""
    expected = done.steps[f"1/plain {stage}"]
    assert len(expected) == UPDATES and expected[-1][0] < expected[0][0]
    run = f"{way}{stage}"
    assert_same_steps(done.steps[run], expected)
    got, wanted = done.checkpoint(run), done.checkpoint(f"1/plain {stage}")
    assert list(got) == list(wanted)
    for part in ("model", "last_optimizer_state", "optimizer_history", "task_state", "args", "criterion"):
        assert_equal(got[part], wanted[part], part)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_ways_to_divide_change_nothing(way, done):
    assert_same_steps(done.steps[f"2/{way}"], done.steps[f"1/plain {WAYS[way][0]}"][:3])


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_engine_has_nothing_to_warn_of(world_size, done):
    for log in (done.folder / str(world_size)).glob("rank*.log"):
        text = log.read_text(encoding="utf-8")
        assert "=== run" in text and "FSDP2-wrapped" not in text


@pytest.mark.slow
def test_groups_that_hold_the_same(done):
    """Hybrid sharding: two groups of two processes each."""
    assert_same_steps(done.steps["4/hybrid"], done.steps["1/plain stage2"][:3])


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_saved_by_four_processes_and_resumed_by_others(world_size, done):
    """A whole checkpoint, by one process without the engine; a sharded one, with it. The end is the straight run's."""
    straight = done.steps["4/stage2"]
    assert_same_steps(done.steps[f"{world_size}/resumed"], straight[SAVED:])
    assert_same_steps(done.steps[f"{world_size}/from shards"], straight[FEW : 2 * FEW])
    got, wanted = done.checkpoint(f"{world_size}/resumed"), done.checkpoint("4/stage2")
    for part in ("model", "last_optimizer_state"):
        assert_equal(got[part], wanted[part], part)


@pytest.mark.slow
def test_whole_and_sharded_checkpoints_hold_the_same(done, tmp_path):
    """Also after the command has turned one into the other, and back."""
    folder = done.folder / "4" / "shards"
    assert sorted(path.name for path in folder.glob("c*")) == ["checkpoint_last.pt", f"checkpoint_shards_{FEW}.0"]
    assert (folder / "checkpoint_last.pt").stat().st_size < 100_000
    whole, back = tmp_path / "whole.pt", tmp_path / "back.pt"
    conversion.convert(folder / "checkpoint_last.pt", whole)
    conversion.convert(whole, back)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pt", "back.pt.shards", "whole.pt"]
    sharded = done.checkpoint("4/shards")
    assert list(sharded) == list(done.checkpoint("4/stage2"))
    plain = torch.load(whole, weights_only=True)  # what any program reads
    for other in (plain, read_checkpoint(back)):
        for part in ("model", "last_optimizer_state", "extra_state"):
            assert differences(sharded[part], other[part], part) == []
    refusal = lst_refuses("convert", whole, back)
    assert "back.pt is there already: give another name, or --force" in refusal
    lst("convert", folder / "checkpoint_last.pt", back, "--without-optimizer", "--force")
    assert "last_optimizer_state" not in read_checkpoint(back)
    shutil.move(folder / f"checkpoint_shards_{FEW}.0", tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"a sharded checkpoint without its folder .*keep the two beside"):
        done.checkpoint("4/shards")
    shutil.move(tmp_path / "away", folder / f"checkpoint_shards_{FEW}.0")


@pytest.mark.slow
def test_fairseq_generate_reads_them(done, corpus, tmp_path):
    runs = ("1/plain stage2", "4/stage2", "1/from shards", "2/from shards")
    paths = [done.folder / name / "checkpoint_last.pt" for name in runs]
    plain, four, whole, shards = (run_generate(corpus, path, tmp_path / str(i)) for i, path in enumerate(paths))
    assert len(plain) == 5 and plain == four and whole == shards


@pytest.mark.slow
@pytest.mark.parametrize("case", ["uneven", "skipped"])
def test_missing_and_unreadable_batches(case, done):
    """Each target token counts once, whichever process has it.

    Three batches of eight are unreadable, so that of the pairs that two processes take at once some has one of them.
    """
    assert_same_steps(done.steps[f"2/{case}"], done.steps[f"1/plain {case}"])


@pytest.mark.slow
def test_processes_without_speech(done):
    """The frozen speech encoder is divided too, and a process whose batch is text only has to help the other."""
    assert_same_steps(done.steps["2/text"], done.steps["2/plain text"])


@pytest.mark.slow
def test_half_precision(done):
    """bf16 weights and activations, fp32 sums, master weights and moments; the file has plain training's form."""
    assert_same_steps(done.steps["2/bf16"], done.steps["1/plain bf16"], rel=0.05)
    got, wanted = done.checkpoint("2/bf16"), done.checkpoint("1/plain bf16")
    assert_equal(got["optimizer_history"], wanted["optimizer_history"])
    for part in ("model", "last_optimizer_state"):
        assert_equal(got[part], wanted[part], part, tolerance=0.05)
    masters = got["last_optimizer_state"][MASTER_KEY]
    trained = [got["model"][name] for name in got["model"] if name.startswith("decoder.llm.")][: len(masters)]
    assert all(master.dtype == torch.float32 for master in masters) and trained
    for master in masters:
        rounded = master.bfloat16().float()
        assert any(value.shape == master.shape and torch.equal(value, rounded) for value in got["model"].values())
    assert any(not torch.equal(master, master.bfloat16().float()) for master in masters)
    assert Run(done.folder / "2" / "bf16").path().exists()
