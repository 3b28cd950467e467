"""Bytes that one GPU needs for a training run: weights, gradients, optimiser states and activations."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lst_fairseq.distributed.fsdp import WHOLE_GRADIENTS, units
from lst_fairseq.models.lst import LstModel
from lst_fairseq.planning.activations import Batch, activations

ENGINES = ("legacy_ddp", "fully_sharded")
HALVES = ("bf16", "fp16")
#: legacy_distributed_data_parallel.py:41: elements of the buffer in which gradients are summed over GPUs.
DDP_BUFFER = 2**28
ADAM_STATES = 2


@dataclass(frozen=True)
class Estimate:
    """Bytes that one GPU needs."""

    engine: str
    precision: str
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def estimates(model: LstModel, batch: Batch, gpus: int, shard_frozen: bool) -> list[Estimate]:
    """What a GPU needs with each engine and precision. The model's parameters are half-precision ones afterwards."""
    whole = activations(model, batch).peak
    states = {(engine, "fp32"): state_bytes(model, engine, "fp32", gpus, shard_frozen) for engine in ENGINES}
    model.to(torch.bfloat16)  # not before: fp32 leaves an LLM of --llm-dtype as it is; fp16 is as large
    half = activations(model, batch).peak
    for precision in HALVES:
        states |= {(engine, precision): state_bytes(model, engine, precision, gpus, shard_frozen) for engine in ENGINES}
    return [
        Estimate(engine, precision, *states[engine, precision], half if precision in HALVES else whole)
        for engine in ENGINES
        for precision in ("fp32", *HALVES)
    ]


def state_bytes(model: LstModel, engine: str, precision: str, gpus: int, shard_frozen: bool) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimiser states on one GPU, for parameters of the types that the model has."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    n_trained = sum(p.numel() for p in trained)
    fp32 = torch.float32.itemsize
    if engine == "fully_sharded":
        return sharded_bytes(model, gpus, Sharding(shard_frozen))
    masters = n_trained * fp32 if precision in HALVES else 0
    optimizer = ADAM_STATES * n_trained * fp32 + masters
    buffer = min(DDP_BUFFER, sum(p.numel() for p in parameters)) * parameters[0].itemsize if gpus > 1 else 0
    return _bytes(parameters), _bytes(trained) + masters + buffer, optimizer


@dataclass(frozen=True)
class Sharding:
    """Flags of fully_sharded that decide about memory.

    Attributes:
        frozen: --shard-frozen.
        reshard: no --no-reshard-after-forward.
        offload: --cpu-offload.
        accumulates: --update-freq above 1, so that gradients of few parameters are added up whole.
    """

    frozen: bool = False
    reshard: bool = True
    offload: bool = False
    accumulates: bool = True


def sharded_bytes(model: LstModel, gpus: int, sharding: Sharding) -> tuple[int, int, int]:
    """As :func:`state_bytes`, of distributed/fsdp.py."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    n_trained = sum(p.numel() for p in trained)
    fp32 = torch.float32.itemsize
    sharded = parameters if sharding.frozen else trained
    frozen_parts = sum(p.nbytes for p in sharded if not p.requires_grad)
    parts = 0 if sharding.offload else -(-(n_trained * fp32 + frozen_parts) // gpus)
    kept, passing = _unit_bytes(model, sharded)
    in_use = sum(kept) + (2 * max(passing, default=0) if sharding.reshard else sum(passing))
    weights = _bytes(parameters) - _bytes(sharded) + parts + in_use
    # A unit's gradients, and the fp32 copy of them that is sent.
    own, others = _unit_bytes(model, trained)
    sent = max([*own, *others], default=0)
    in_flight = sent + sent * fp32 // min((p.itemsize for p in trained), default=fp32)
    whole = n_trained * fp32 if sharding.accumulates and n_trained <= WHOLE_GRADIENTS else 0
    divided = 0 if sharding.offload else -(-n_trained * fp32 // gpus)
    return weights, divided + in_flight + whole, 0 if sharding.offload else -(-ADAM_STATES * n_trained * fp32 // gpus)


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.nbytes for p in parameters)


def _unit_bytes(model: LstModel, sharded: Iterable[Tensor]) -> tuple[list[int], list[int]]:
    """Bytes of the units' sharded parameters: of those that stay whole through a step, and of those that pass by."""
    unit_of = {
        id(p): (number, passes) for number, (module, passes) in enumerate(units(model)) for p in module.parameters()
    }
    sizes: Counter[tuple[int, bool]] = Counter()
    for p in sharded:
        sizes[unit_of.get(id(p), (-1, False))] += p.nbytes
    kept = [size for (_, passes), size in sizes.items() if not passes]
    return kept, [size for (_, passes), size in sizes.items() if passes]
