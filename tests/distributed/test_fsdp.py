"""What a process keeps and reads; the settings. A fake process group makes any rank of any number of processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from lst_fairseq.distributed import collectives
from lst_fairseq.distributed.fsdp import ShardingSettings, build_mesh, frontend_units, shard, units
from lst_fairseq.distributed.trainer import check_settings
from lst_fairseq.models.llm.meta_device import WeightFiles, deferred_weights
from lst_fairseq.models.trained_parts import plain_name
from lst_fairseq.planning.estimate import Sharding, sharded_bytes
from tests.conftest import save_llama
from tests.support.helpers import build
from tests.support.running import train_configuration

CPU = torch.device("cpu")


@contextmanager
def fake_process(rank: int, world_size: int) -> Iterator[None]:
    torch.distributed.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not hasattr(FSDPModule, "set_reduce_scatter_unused_params"), reason="needs PyTorch 2.13, as the trainer says"
)
@pytest.mark.parametrize(
    ("modules", "tied", "settings", "stored"),
    [
        ("adapter,llm", False, ShardingSettings(), "as usual"),
        ("adapter,llm", False, ShardingSettings(), "without the model's prefix"),
        ("adapter,llm", False, ShardingSettings(), "pickled"),
        ("adapter,llm", True, ShardingSettings(dtype=torch.bfloat16), "as usual"),
        ("adapter,lora", False, ShardingSettings(shard_frozen=True), "as usual"),
        ("adapter", True, ShardingSettings(), "as usual"),
    ],
)
def test_each_process_reads_and_keeps_its_own_rows(
    modules, tied, settings, stored, corpus, backbones, tmp_path, monkeypatch
):
    """Of three, together the whole model as one process loads it; the plan knows their bytes."""
    save_llama(tmp_path / "llama", tied=tied)
    rewrite_weights(tmp_path / "llama", stored)
    flags: dict[str, Any] = {"train_modules": modules, "llm": tmp_path / "llama"}
    whole = dict(build(corpus, backbones, **flags)[2].named_parameters())
    read: list[int] = []
    original = WeightFiles.read

    def counting(self: WeightFiles, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        value = original(self, name, start, stop)
        read.append(value.nbytes)
        return value

    monkeypatch.setattr(WeightFiles, "read", counting)
    rows: dict[str, list[torch.Tensor]] = {}
    sizes = []
    for rank in range(3):
        with deferred_weights():
            model = build(corpus, backbones, **flags)[2]
        for name, parameter in model.decoder.llm.named_parameters():
            assert parameter.is_meta != (".lora_" in name)
        planned = sharded_bytes(model, 3, Sharding(settings.shard_frozen))
        read.clear()
        with fake_process(rank, 3):
            sharded = shard(model, settings, build_mesh(settings, 3, CPU), CPU)
            for name, parameter in model.named_parameters():
                assert not parameter.is_meta
                divided = parameter.requires_grad or settings.shard_frozen
                assert isinstance(parameter, DTensor) == divided
                kept = parameter.to_local() if divided else parameter
                assert kept.dtype == (torch.float32 if parameter.requires_grad else settings.dtype or torch.float32)
                rows.setdefault(name, []).append(kept.detach().clone())
        llm = sum(p.nbytes for name, p in whole.items() if name.startswith("decoder.llm.") and ".lora_" not in name)
        parts = llm / 3 if "llm" in modules or settings.shard_frozen else llm
        assert sum(read) <= 1.15 * parts  # rows do not always divide by three
        sizes.append(sum(part.numel() for part in sharded.parts))
    assert [plain_name(name) for name in rows] == [plain_name(name) for name in whole]
    for name, value in whole.items():
        if value.requires_grad or settings.shard_frozen:
            assert torch.equal(torch.cat(rows[name]).to(value.dtype), value), name
        else:
            assert all(torch.equal(part, value.to(part.dtype)) for part in rows[name]), name
    trained = sum(p.numel() for p in whole.values() if p.requires_grad)
    assert sum(sizes) == trained and max(sizes) < 1.2 * trained / 3
    assert planned[2] == -(-8 * trained // 3)


def test_units(corpus, backbones, tmp_path):
    """Each layer; embedding and output layer apart unless they are one tensor; no frontend that runs row by row."""
    model = build(corpus, backbones)[2]
    layers = [*model.encoder.frontend.layers(), *model.decoder.llm.model.layers]
    assert [id(module) for module, _ in units(model)] == [id(layer) for layer in layers]
    save_llama(tmp_path / "llama", tied=False)
    untied = build(corpus, backbones, llm=tmp_path / "llama", frontend_batching="equal")[2]
    llm = untied.decoder.llm
    assert frontend_units(untied.encoder.frontend) == []
    expected = [(layer, True) for layer in llm.model.layers] + [(llm.model.embed_tokens, False), (llm.lm_head, False)]
    assert [(id(m), r) for m, r in units(untied)] == [(id(m), r) for m, r in expected]


def test_groups_divide_the_processes():
    with fake_process(1, 4):
        assert build_mesh(ShardingSettings(), 4, CPU)["shard"].size() == 4
        hybrid = build_mesh(ShardingSettings(group=2), 4, CPU)
        assert (hybrid["replicate"].size(), hybrid["shard"].size()) == (2, 2)
        with pytest.raises(ValueError, match="--shard-group 3: 4 processes cannot be split so; choose one of 1, 2, 4"):
            build_mesh(ShardingSettings(group=3), 4, CPU)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"amp": True}, "--amp"), ({"use_bmuf": True}, "--use-bmuf"), ({"zero_sharding": "os"}, "--zero-sharding")],
)
def test_what_cannot_be_combined(settings, flag, corpus, backbones, tmp_path):
    cfg = train_configuration(corpus, backbones, tmp_path, **settings)
    with pytest.raises(ValueError, match=f"{flag} cannot be combined with --ddp-backend fully_sharded"):
        check_settings(cfg, torch.nn.Module(), None)


def rewrite_weights(directory: Path, how: str) -> None:
    """Store an LLM's weights in another way, as older tools did."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    if how == "without the model's prefix":
        save_file({name.removeprefix("model."): value for name, value in weights.items()}, path, {"format": "pt"})
    elif how != "as usual":
        torch.save(weights, path.with_name("pytorch_model.bin"), _use_new_zipfile_serialization=how == "pickled")
        path.unlink()


def test_files_that_cannot_be_read_in_parts_are_loaded_whole(corpus, backbones, tmp_path, caplog):
    save_llama(tmp_path / "llama")
    rewrite_weights(tmp_path / "llama", "pickled before PyTorch 1.6")
    with deferred_weights():
        model = build(corpus, backbones, llm=tmp_path / "llama")[2]
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert "cannot be read one by one" in caplog.text


def test_disagreement_names_the_ranks(monkeypatch):
    monkeypatch.setattr(collectives, "gathered", lambda value: [value, "5 segments", value])
    with pytest.raises(
        RuntimeError, match=r"disagree on the data \(ranks 0, 2: 6 segments; rank 1: 5 segments\): copy"
    ):
        collectives.check_same("6 segments", "the data", "copy it")
    monkeypatch.setattr(collectives, "gathered", lambda value: [value] * 3)
    collectives.check_same(SimpleNamespace(), "anything", "")
