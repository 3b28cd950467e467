"""Parameters, gradients and optimiser states divided among processes, by PyTorch's FSDP2 (``fully_shard``).

A unit's parameters are whole in a process only while the unit computes:

    unit                      parameters
    each Transformer block    its own (LLM; a frontend's where it is sharded and encodes a batch at once)
    embedding, output layer   the LLM's, where they are not one tensor
    the rest                  adapter, speech markers, norms; a frontend's outside its layers; tied embeddings

Trained parameters are sharded in fp32, whatever the precision: with ``--bf16`` and ``--fp16`` they are the master
weights, units compute with copies in half precision, and gradients are summed over processes in fp32. Frozen parameters
have the type that they compute in; each process keeps all of them unless they are to be sharded too.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from lst_fairseq.models.frontends import SpeechFrontend
from lst_fairseq.models.lst import LstModel
from lst_fairseq.models.trained_parts import plain_name

logger = logging.getLogger(__name__)

#: ``auto``: up to so many trained parameters, gradients of several batches are added up whole. The buffer in which
#: fairseq's legacy_ddp sums gradients has as many elements.
WHOLE_GRADIENTS = 2**28


@dataclass(frozen=True)
class ShardingSettings:
    """How a model is divided.

    Attributes:
        dtype: half-precision type that units compute in; None for that of the parameters.
        shard_frozen: divide frozen parameters too.
        group: processes among which one copy is divided, and beside which others hold the same; 0 for all of them.
        reshard: give up a unit's whole parameters after its forward pass, and gather them again for the backward pass.
        offload: keep shards, gradients and optimiser states in the host's memory.
        accumulation: how gradients of several batches are added up before an update; one of
            ``sharding_flags.ACCUMULATIONS``.
        keep_frontend: never divide a frozen frontend, because it also runs outside training steps.
    """

    dtype: torch.dtype | None = None
    shard_frozen: bool = False
    group: int = 0
    reshard: bool = True
    offload: bool = False
    accumulation: str = "auto"
    keep_frontend: bool = False


def build_mesh(settings: ShardingSettings, world_size: int, device: torch.device) -> DeviceMesh:
    """Processes in one dimension, or replicas x shards.

    Raises:
        ValueError: ``settings.group`` does not divide the number of processes.
    """
    group = settings.group or world_size
    if world_size % group:
        divisors = ", ".join(str(n) for n in range(1, world_size + 1) if world_size % n == 0)
        raise ValueError(f"--shard-group {group}: {world_size} processes cannot be split so; choose one of {divisors}")
    if group == world_size:
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (world_size // group, group), mesh_dim_names=("replicate", "shard"))


def shard(model: LstModel, settings: ShardingSettings, mesh: DeviceMesh, device: torch.device) -> "ShardedModel":
    """Divide a model in place, and read what it was built without.

    Args:
        model: on the CPU or, where its weights are deferred, on the meta device.
        settings: how.
        mesh: as :func:`build_mesh` makes it.
        device: what it computes on.
    """
    _set_types(model, settings.dtype)
    replicated = _replicated(model, settings)
    _place(model, replicated, device)
    _run_frontend_jointly(model, replicated)
    policy = MixedPrecisionPolicy(
        param_dtype=settings.dtype,
        reduce_dtype=torch.float32 if settings.dtype else None,
        cast_forward_inputs=False,  # waveforms come in float64, and the frontend casts them itself
    )
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if settings.offload else OffloadPolicy()
    common = {"mesh": mesh, "mp_policy": policy, "offload_policy": offload, "ignored_params": replicated}
    n_units = 1
    for module, reshard in units(model):
        if any(parameter not in replicated for parameter in module.parameters()):
            fully_shard(module, reshard_after_forward=reshard and settings.reshard, **common)
            n_units += 1
    fully_shard(model, **common)
    model.set_reduce_scatter_unused_params(True)
    _fill(model, torch.device("cpu") if settings.offload else device)
    logger.info(
        f"{'all' if settings.shard_frozen else 'trained'} parameters divided among {mesh['shard'].size()} of "
        f"{mesh.size()} processes, in {n_units} units"
    )
    return ShardedModel(model, settings, mesh)


def _set_types(model: LstModel, dtype: torch.dtype | None) -> None:
    for parameter in model.parameters():
        wanted = torch.float32 if parameter.requires_grad else dtype or parameter.dtype
        if parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    # The LLM's stay as they are: rotary frequencies in half precision would blur the positions.
    for buffer in model.encoder.buffers():
        if dtype is not None and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)


def _replicated(model: LstModel, settings: ShardingSettings) -> set[nn.Parameter]:
    """Parameters that each process keeps whole."""
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    if not settings.shard_frozen:
        return frozen
    return frozen & set(model.encoder.frontend.parameters()) if settings.keep_frontend else set()


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    """Module, name in it, name in the LLM's files if it is the LLM's, and parameter; tied ones at each place."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                stored = plain_name(f"{prefix}.{name}").removeprefix("decoder.llm.")
                yield module, name, stored, parameter


def _place(model: LstModel, replicated: set[nn.Parameter], device: torch.device) -> None:
    """Replicated parameters and all buffers on their device, with values where they had none."""
    files = getattr(model.decoder.llm, "weight_files", None)
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for module, name, stored, parameter in list(_places(model)):
        if parameter in replicated and parameter.is_meta:
            if parameter not in filled:
                value = files.read(stored).to(device=device, dtype=parameter.dtype)
                filled[parameter] = nn.Parameter(value, requires_grad=False)
            module._parameters[name] = filled[parameter]
        elif parameter in replicated:
            parameter.data = parameter.data.to(device)
    replicated.difference_update(filled)
    replicated.update(filled.values())
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def _run_frontend_jointly(model: LstModel, replicated: set[nn.Parameter]) -> None:
    """Let processes with and without speech in their batch gather the same layers of a divided frontend."""
    frontend = model.encoder.frontend
    model.encoder.joint_frontend = any(parameter not in replicated for parameter in frontend.parameters())
    if not model.encoder.joint_frontend:
        return
    for module in frontend.modules():
        for owner in (module, getattr(module, "config", None)):
            if getattr(owner, "layerdrop", 0):
                owner.layerdrop = 0.0
                logger.warning("the speech encoder's layer drop is off: processes that share layers cannot drop them")


def llm_blocks(llm: nn.Module) -> list[nn.Module]:
    """The Transformer layers of an LLM."""
    return [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]


def frontend_units(frontend: SpeechFrontend) -> list[nn.Module]:
    """The Transformer layers of a frontend that may be units of their own.

    None where rows of equal length are encoded together: how often a layer runs then depends on the batch, and a layer
    that is gathered must be so equally often in all processes.
    """
    return [] if frontend.by_length else list(frontend.layers())


def units(model: LstModel) -> Iterator[tuple[nn.Module, bool]]:
    """Modules to be divided apart from the rest, and whether they may be given up after the forward pass."""
    llm = model.decoder.llm
    for layer in (*frontend_units(model.encoder.frontend), *llm_blocks(llm)):
        yield layer, True
    embedding, output = llm.get_input_embeddings(), llm.get_output_embeddings()
    if output is not None and output.weight is not embedding.weight:
        # Embeddings are looked up for prompt and target, and the output layer is the first in the backward pass: whole
        # until then, they are gathered once.
        yield embedding, False
        yield output, False


def _fill(model: LstModel, device: torch.device) -> None:
    """Give shards without values theirs, of which each process reads its own rows."""
    filled: dict[nn.Parameter, nn.Parameter] = {}
    files = getattr(model.decoder.llm, "weight_files", None)
    for module, name, stored, parameter in list(_places(model)):
        if not parameter.is_meta:
            continue
        if parameter not in filled:
            local = torch.empty_like(parameter.to_local(), device=device)
            if local.numel():
                start = first_row(parameter)
                local.copy_(files.read(stored, start, start + local.size(0)))
            filled[parameter] = nn.Parameter(like(local, parameter), requires_grad=parameter.requires_grad)
        module._parameters[name] = filled[parameter]


def first_row(whole: DTensor) -> int:
    """Where this process's rows begin: all parts but the last ones have equally many."""
    mesh = whole.device_mesh
    rows = -(-whole.size(0) // mesh["shard"].size())
    return min(mesh.get_local_rank("shard") * rows, whole.size(0))


def like(local: Tensor, whole: DTensor) -> DTensor:
    """A process's part as a tensor that is divided as another one is."""
    return DTensor.from_local(
        local, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


class ShardedModel(nn.Module):
    """A divided model behind what fairseq's trainer asks of distributed models; ``module`` is the model itself.

    The optimiser is given plain tensors that share memory with this process's parts (:attr:`parts`): any optimiser that
    treats each number by itself works on them, and is as fast as on a small model.
    """

    def __init__(self, module: LstModel, settings: ShardingSettings, mesh: DeviceMesh):
        super().__init__()
        self.module = module
        self.settings = settings
        self.mesh = mesh
        #: Divided parameters that are trained, in the model's order.
        self.trained: list[nn.Parameter] = [p for p in module.parameters() if p.requires_grad]
        self.parts = [nn.Parameter(p.detach().to_local()) for p in self.trained]
        n_trained = sum(p.numel() for p in self.trained)
        auto = "whole" if n_trained <= WHOLE_GRADIENTS else "sharded"
        self.whole_gradients = (auto if settings.accumulation == "auto" else settings.accumulation) == "whole"

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Passes whose gradients are only a part of an update's.

        Whole: nothing is sent, and each process holds gradients of all trained parameters in fp32. Sharded: gradients
        are divided after each pass; between replicas they are still summed once an update.
        """
        switch = self.module.set_requires_gradient_sync if self.whole_gradients else self.module.set_requires_all_reduce
        switch(False)
        try:
            yield
        finally:
            switch(True)

    def all_reduce_grads(self) -> None:
        """Hand the gradients, which the backward pass has summed over the processes, to the optimiser's tensors."""
        for parameter, part in zip(self.trained, self.parts, strict=True):
            # The engine may have moved its memory since, to pad it.
            part.data = parameter.detach().to_local()
            part.grad = torch.zeros_like(part) if parameter.grad is None else parameter.grad.to_local()

    def zero_grads(self) -> None:
        for parameter in self.trained:
            parameter.grad = None

    def whole_norm(self, norm: Tensor) -> Tensor:
        """The norm of all gradients from that of this process's parts."""
        squared = norm.to(self.mesh.device_type, dtype=torch.float64) ** 2
        torch.distributed.all_reduce(squared, group=self.mesh.get_group("shard"))
        return squared.sqrt().to(norm)

    def reshard(self) -> None:
        """Give up whole parameters, which a forward pass without a backward pass leaves behind."""
        for module in sharded_modules(self.module):
            module.reshard()


def sharded_modules(model: nn.Module) -> Iterable[FSDPModule]:
    """The units of a divided model."""
    return (module for module in model.modules() if isinstance(module, FSDPModule))
