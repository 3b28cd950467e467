"""An LLM that is built without its weights, so that each process of a sharded run reads its own part of them only.

``from_pretrained`` makes a whole copy in every process: for a 13B LLM on eight GPUs of one node, eight times 52 GB.
Under :func:`deferred_weights` the parameters lie on torch's meta device, and :class:`WeightFiles` says where their
values are.
"""

import copy
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lst_fairseq.models.llm.families import EMBEDDING_CHUNK
from lst_fairseq.models.pretrained import check_attention
from lst_fairseq.models.weight_files import weight_files

logger = logging.getLogger(__name__)

_DEFERRED: ContextVar[bool] = ContextVar("lst_deferred_weights", default=False)


@contextmanager
def deferred_weights() -> Iterator[None]:
    """Models that are built inside get their LLM without weights, where its files allow that."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, safetensors or ``torch.save``'s, of which any rows can be read alone."""

    path: Path
    key: str
    shape: list[int]

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """As they are stored; no others are read."""
        if self.path.suffix == ".safetensors":
            with safe_open(self.path, framework="pt") as file:
                return file.get_slice(self.key)[start:stop]
        return _mapped(self.path)[self.key][start:stop].clone()


@dataclass(frozen=True)
class WeightFiles:
    """Where the values of a model's parameters lie.

    Attributes:
        tensors: of each parameter, by the name that it has in the model.
    """

    tensors: dict[str, StoredTensor]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows ``start`` to ``stop`` of a parameter, as they are stored; no more than these is read."""
        return self.tensors[name].rows(start, stop)


def empty_llm(directory: Path, config: PretrainedConfig, dtype: str, attention: str) -> PreTrainedModel | None:
    """The LLM of a directory with all parameters on the meta device and ``weight_files``, a :class:`WeightFiles`.

    Args:
        directory: as ``model_directory`` found it.
        config: its configuration.
        dtype: data type of the parameters; ``auto`` for the one they are stored in.
        attention: attention implementation.

    Returns:
        None where nothing is deferred, or where the files do not hold each parameter under the model's own name, or
        its name in the model without an output layer, and in its shape: such a model is then loaded whole, which also
        says what is wrong with it.
    """
    if not _DEFERRED.get():
        return None
    check_attention(attention, directory)
    kind = (config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        settings = {"dtype": kind, "attn_implementation": attention, "trust_remote_code": False}
        llm = AutoModelForCausalLM.from_config(copy.deepcopy(config), **settings).eval()
    llm.tie_weights()
    stored = _stored(directory)
    found = {
        name: tensor
        for name, parameter in llm.named_parameters()
        for key in (name.removeprefix(f"{llm.base_model_prefix}."), name)
        if (tensor := stored.get(key)) and tensor.shape == list(parameter.shape)
    }
    persistent = llm.state_dict().keys() - dict(llm.named_parameters(remove_duplicate=False)).keys()
    if persistent or len(found) < len(dict(llm.named_parameters())):
        logger.warning(
            f"--llm {directory}: its weights cannot be read one by one, or are named otherwise than the model's: each "
            "process loads all of them before it keeps its part; write them anew with transformers' save_pretrained to "
            "need less memory"
        )
        return None
    llm.weight_files = WeightFiles(found)
    return llm


def _stored(directory: Path) -> dict[str, StoredTensor]:
    """The tensors in a directory's files, as far as they can be read one by one."""
    stored: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        else:
            try:
                shapes = {name: list(tensor.shape) for name, tensor in _mapped(path).items()}
            except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError):  # loading it whole says what is wrong
                return {}
        stored |= {name: StoredTensor(path, name, shape) for name, shape in shapes.items()}
    return stored


def _mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that ``torch.save`` wrote, left on disk; not of the format before PyTorch 1.6."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


@torch.no_grad()
def deferred_embedding_outputs(llm: PreTrainedModel) -> Tensor:
    """What the embedding layer of :func:`empty_llm` returns for every id [V, E], its table read for the purpose."""
    embed: Any = llm.get_input_embeddings()
    name = next(name for name, parameter in llm.named_parameters() if parameter is embed.weight)
    table = llm.weight_files.read(name).to(embed.weight.dtype)
    if type(embed) is nn.Embedding:
        return table
    chunks = torch.arange(table.size(0)).split(EMBEDDING_CHUNK)
    return torch.cat([functional_call(embed, {"weight": table}, chunk).to(table.dtype) for chunk in chunks])


@contextmanager
def stand_ins(llm: nn.Module) -> Iterator[None]:
    """Parameters of the meta device look as if they were in memory, which peft asks of weights beside its own.

    A stand-in is one number that is seen in the parameter's shape. Without it, peft would move its low-rank maps, with
    the values that it drew for them, to the meta device too.
    """
    places = [
        (module, name, parameter)
        for module in llm.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
    for module, name, parameter in places:
        stand_in = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        module._parameters[name] = nn.Parameter(stand_in, requires_grad=parameter.requires_grad)
    try:
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter
