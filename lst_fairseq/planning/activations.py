"""What a training step keeps for its backward pass, from a model without weights.

The model lies on torch's meta device, where tensors have shapes and no content. Its real forward pass runs there, and
every storage that autograd saves for the backward pass is counted once, parameters left out.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lst_fairseq.criterions.token_loss import CHUNK
from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.distributed.fsdp import llm_blocks
from lst_fairseq.models.frontends import SpeechFrontend, Wav2Vec2BertFrontend, WhisperFrontend
from lst_fairseq.models.lst import LstModel

#: Chunks of logits that the loss holds in fp32 at a time, beside the logits themselves.
LOSS_CHUNKS = 2
#: transformers' names for :func:`fused_attention` and :func:`packed_attention`.
ATTENTION = "lst_plan"
PACKED_ATTENTION = "lst_plan_packed"


@dataclass(frozen=True)
class Batch:
    """The batch of one update on one GPU: utterances, their length, and tokens of a prompt and of a target."""

    rows: int
    seconds: float
    prompt_tokens: int
    target_tokens: int


class _SavedByAttention(torch.autograd.Function):
    """Saves what torch's fused attention does; on the meta device torch would take the one that keeps all weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows, heads, size, _ = query.shape
        output = query.new_empty(rows, size, heads, value.size(3)).transpose(1, 2)
        log_sums = query.new_empty(rows, heads, size, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums, mask)
        return output


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface without arithmetic: queries [B, H, L, D] to an output [B, L, H, D].

    As in its sdpa, grouped keys and values are repeated for each head where there is a mask, a bias and a mask make a
    new tensor, and torch turns a mask of truth values into numbers, anew in every layer.
    """
    groups = query.size(1) // key.size(1)
    if attention_mask is not None and groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if position_bias is not None:
        attention_mask = position_bias.clone()
    elif attention_mask is not None:
        attention_mask = attention_mask.to(query.dtype)
    return _SavedByAttention.apply(query, key, value, attention_mask).transpose(1, 2), None


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As :func:`fused_attention`, of sentences in one row (``models/llm/sequence_packing.py``).

    There is no mask, grouped keys and values stay as they are, and the output is copied back into the row.
    """
    return _SavedByAttention.apply(query, key, value, None).transpose(1, 2).clone(), None


AttentionInterface.register(ATTENTION, fused_attention)
AttentionInterface.register(PACKED_ATTENTION, packed_attention)


class SavedTensors:
    """Counts what autograd saves, each storage once and parameters never."""

    def __init__(self, model: nn.Module):
        self.parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.parameters:
                self.storages[storage._cdata] = storage  # kept, so that no other one gets its number
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


@dataclass(frozen=True)
class Activations:
    """Bytes of activations on one GPU.

    Attributes:
        frontend: what the frontend's largest module reads and writes.
        saved: what autograd saves from the waveform to the logits.
        loss: logits of the target positions while the loss is computed and goes back.
        recomputed: what one LLM layer saves when gradient checkpointing computes it again.
    """

    frontend: int
    saved: int
    loss: int
    recomputed: int

    @property
    def peak(self) -> int:
        """At the largest moment of a step: the frontend's run is over before the LLM's begins, the loss is gone before
        layers are computed again."""
        return max(self.frontend, self.saved + max(self.loss, self.recomputed))


def activations(model: LstModel, batch: Batch) -> Activations:
    """Run the forward pass of a model on the meta device."""
    encoder = model.encoder
    saved = SavedTensors(model)
    with saved.recorded():
        with torch.set_grad_enabled(not encoder.freeze_frontend), _largest_module(encoder.frontend) as largest:
            features = _features(encoder.frontend, batch)
        inputs = _llm_inputs(model, features, batch)
    before = saved.bytes
    with saved.recorded():
        logits = _logits(model, inputs, batch)
    recomputed = 0
    layers = [layer for layer in llm_blocks(model.decoder.llm) if layer.gradient_checkpointing]
    if layers:
        everything = SavedTensors(model)
        with _without_checkpointing(layers), everything.recorded():
            _logits(model, inputs, batch)
        recomputed = (everything.bytes - (saved.bytes - before)) // len(layers)
    loss = logits.nbytes + LOSS_CHUNKS * min(logits.numel(), CHUNK) * torch.float32.itemsize
    return Activations(largest[0], saved.bytes, loss, recomputed)


def _features(frontend: SpeechFrontend, batch: Batch) -> Tensor:
    frontend.eval()  # masks in train mode are drawn row by row
    n_samples = int(batch.seconds * SAMPLE_RATE)
    n_vectors = int(frontend.output_lengths(torch.tensor([n_samples])))
    # Log-mels are made of content, and how many windows of a row Whisper encodes depends on it: these two begin behind.
    if isinstance(frontend, WhisperFrontend):
        rows = batch.rows * -(-n_samples // frontend.window_samples)
        size = 2 * frontend.config.max_source_positions
        log_mels = torch.zeros(rows, frontend.config.num_mel_bins, size, device="meta", dtype=frontend.dtype)
        windows = frontend.model(log_mels).last_hidden_state
        return windows.reshape(batch.rows, -1, windows.size(2))[:, :n_vectors]
    if isinstance(frontend, Wav2Vec2BertFrontend):
        width = frontend.stride * frontend.num_mel_bins
        log_mels = torch.zeros(batch.rows, n_vectors, width, device="meta", dtype=frontend.dtype)
        return frontend.encode_log_mels(log_mels, torch.full((batch.rows,), n_vectors, device="meta"))
    lengths = torch.full((batch.rows,), n_samples, device="meta")
    return frontend.encode(torch.zeros(batch.rows, n_samples, device="meta"), lengths)[0]


def _llm_inputs(model: LstModel, features: Tensor, batch: Batch) -> Tensor:
    """Embeddings [B, L, E] of prompt, speech with its markers, and target."""
    encoder = model.encoder
    features = features.to(encoder.markers.start.dtype)
    lengths = torch.full((batch.rows,), features.size(1), device="meta")
    if encoder.adapter.needs_ctc:  # how short it makes them depends on content
        speech = encoder.adapter.project(features)
    else:
        speech, lengths = encoder.adapter(features, lengths)
    speech, _ = encoder.markers(speech, lengths)
    ids = torch.zeros(batch.rows, batch.prompt_tokens + batch.target_tokens, dtype=torch.long, device="meta")
    tokens = model.decoder.llm.get_input_embeddings()(ids)
    return torch.cat([speech.to(tokens.dtype), tokens], dim=1)


def _logits(model: LstModel, inputs: Tensor, batch: Batch) -> Tensor:
    """Logits [B, U, V] of the target positions, with a mask, if one is needed, as a batch of unequal lengths has it."""
    rows, size, _ = inputs.shape
    arguments: dict[str, Any] = {
        "position_ids": torch.zeros(rows, size, dtype=torch.long, device="meta"),
        "logits_to_keep": batch.target_tokens,
    }
    arguments = {name: value for name, value in arguments.items() if name in model.decoder.llm_arguments}
    shape = (1, 1, 1, 1) if model.decoder.packs else (rows, 1, size, size)
    mask = torch.ones(shape, dtype=torch.bool, device="meta")
    return model.decoder.llm(inputs_embeds=inputs, attention_mask=mask, use_cache=False, **arguments).logits


@contextmanager
def _without_checkpointing(layers: Iterable[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.gradient_checkpointing = False
    yield
    for layer in layers:
        layer.gradient_checkpointing = True


@contextmanager
def _largest_module(model: nn.Module) -> Iterator[list[int]]:
    """A list of one number: the bytes that the largest of the innermost modules has read and written in a call."""
    largest = [0]

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, Tensor)]
        largest[0] = max(largest[0], sum(tensor.nbytes for tensor in tensors))

    hooks = [module.register_forward_hook(record) for module in model.modules() if not list(module.children())]
    yield largest
    for hook in hooks:
        hook.remove()
