"""The cheapest way to fit a run into a GPU: the first that fits, of settings in the order of what they cost in time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lst_fairseq.distributed.fsdp import llm_blocks
from lst_fairseq.models.lst import LstModel
from lst_fairseq.planning.activations import Batch, activations
from lst_fairseq.planning.estimate import Sharding, sharded_bytes, state_bytes


@dataclass(frozen=True)
class Setting:
    """One way to run: how the states are divided (None: not at all), gradient checkpointing, rows of a batch."""

    sharding: Sharding | None
    checkpointing: bool
    rows: int

    def flags(self, update_freq: int, brought: bool = False) -> str:
        """As fairseq-train takes them; ``update_freq`` times the wanted rows keep the global batch as it was."""
        words = ["--bf16", "--ddp-backend", "fully_sharded" if self.sharding else "legacy_ddp"]
        if self.sharding:
            given = {
                "--shard-frozen": self.sharding.frozen,
                "--no-reshard-after-forward": not self.sharding.reshard,
                "--cpu-offload": self.sharding.offload,
            }
            words += [flag for flag, wanted in given.items() if wanted]
        words += ["--llm-gradient-checkpointing"] if self.checkpointing else []
        words += ["--no-llm-gradient-checkpointing"] if brought and not self.checkpointing else []
        return " ".join([*words, "--batch-size", str(self.rows), "--update-freq", str(update_freq)])


def settings(rows: int, gpus: int, checkpointing: bool) -> Iterator[Setting]:
    """All settings, the cheapest first."""
    divided = [None, Sharding(reshard=False), Sharding(), Sharding(frozen=True)] if gpus > 1 else [None]
    for recompute in (False, True) if not checkpointing else (True,):
        for sharding in divided:
            yield Setting(sharding, recompute, rows)
    halves = [rows >> n for n in range(1, rows.bit_length())]
    for fewer in halves:
        yield Setting(divided[-1], True, fewer)
    for fewer in (rows, *halves):
        yield Setting(Sharding(frozen=True, offload=True), True, fewer)


def cheapest(model: LstModel, batch: Batch, gpus: int, usable: float, brought: bool = False) -> dict[str, Any] | None:
    """The first setting that fits, its flags and the bytes that a GPU needs with it; None if none does.

    Args:
        model: on the meta device, its parameters in half precision.
        batch: what one update takes on a GPU; smaller batches are added up to it.
        gpus: number of GPUs.
        usable: bytes of each.
        brought: gradient checkpointing is only the architecture's default, so that doing without is looked at, too.
    """
    blocks = llm_blocks(model.decoder.llm)
    given = [block.gradient_checkpointing for block in blocks]
    peaks: dict[tuple[bool, int], int] = {}
    try:
        for setting in settings(batch.rows, gpus, all(given) and not brought):
            key = setting.checkpointing, setting.rows
            states = _states(model, setting.sharding, gpus)
            if states > usable:
                continue
            if key not in peaks:
                _checkpoint(model, setting.checkpointing)
                peaks[key] = activations(model, replace(batch, rows=setting.rows)).peak
            if states + peaks[key] <= usable:
                return {
                    "flags": setting.flags(-(-batch.rows // setting.rows), brought),
                    "total": states + peaks[key],
                    "sharding": asdict(setting.sharding) if setting.sharding else None,
                    "gradient_checkpointing": setting.checkpointing,
                    "rows": setting.rows,
                }
    finally:
        for block, was in zip(blocks, given, strict=True):
            block.gradient_checkpointing = was
    return None


def _states(model: LstModel, sharding: Sharding | None, gpus: int) -> int:
    if sharding is None:
        return sum(state_bytes(model, "legacy_ddp", "bf16", gpus, shard_frozen=False))
    return sum(sharded_bytes(model, gpus, sharding))


def _checkpoint(model: LstModel, wanted: bool) -> None:
    llm = model.decoder.llm
    if wanted:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        llm.gradient_checkpointing_disable()
