"""Settings of the model ``lst``, and which modules a run trains."""

from dataclasses import dataclass, field
from typing import Optional  # fairseq reads Optional[X] in dataclasses, and not X | None

from fairseq.dataclass import FairseqDataclass

from lst_fairseq.models.adapters import ADAPTERS
from lst_fairseq.models.adapters.base import NORMS
from lst_fairseq.models.frontends.base import BATCHINGS, WINDOWS

TRAINABLE = ("frontend", "adapter", "lora", "llm")
DTYPES = ("float32", "bfloat16", "float16", "auto")

@dataclass
class LstModelConfig(FairseqDataclass):
    """Settings of the model; an empty one is the architecture's. The pretrained parts are the task's settings."""

    train_modules: str = field(
        default="adapter",
        metadata={
            "help": f"what is trained, joined by commas, of: {', '.join(TRAINABLE)}. `adapter` is stage 1 (with the "
            "speech markers), `adapter,llm` stage 2, `adapter,lora` its low-rank variant"
        },
    )
    # --- frontend
    frontend_layer: Optional[int] = field(
        default=None, metadata={"help": "take the output of this inner layer, counted from 1 (default: the last)"}
    )
    frontend_top_layers: int = field(
        default=0, metadata={"help": "with `frontend` trained: only its top N layers (default: 0, all of it)"}
    )
    frontend_window: str = field(
        default="exact",
        metadata={"help": f"Whisper, one of: {', '.join(WINDOWS)}; exact pads to 30 s, trim encodes the true length"},
    )
    frontend_batching: str = field(
        default="auto",
        metadata={
            "help": f"one of: {', '.join(BATCHINGS)}; padded encodes a batch at once, equal the rows of equal length "
            "together, auto is padded unless a sentence's features would then depend on its batch"
        },
    )
    # --- adapter
    adapter: Optional[str] = field(
        default=None, metadata={"help": f"between frontend and LLM; one of: {', '.join(ADAPTERS)} (default: conv)"}
    )
    adapter_channels: Optional[int] = field(
        default=None, metadata={"help": "inner width of conv, stack and qformer (default: 1024; lst_tiny: 256)"}
    )
    adapter_norm: Optional[str] = field(
        default=None,
        metadata={
            "help": f"one of: {', '.join(NORMS)}; embedding = layer norm before the last linear layer and output at "
            "the scale of the LLM's embeddings (default of lst and lst_tiny), none = the paper's (lst_7b, lst_13b)"
        },
    )
    adapter_kernel_sizes: Optional[str] = field(
        default=None,
        metadata={"help": "conv: kernel sizes of the stride-2 convolutions, joined by commas (default: 3,3)"},
    )
    adapter_stack: int = field(default=5, metadata={"help": "stack: frames that are concatenated"})
    adapter_window: int = field(default=15, metadata={"help": "qformer: frames of a window"})
    adapter_queries: int = field(default=1, metadata={"help": "qformer: outputs of a window"})
    adapter_layers: int = field(default=2, metadata={"help": "qformer: Transformer layers"})
    adapter_heads: int = field(default=8, metadata={"help": "qformer: attention heads"})
    # --- LLM
    llm_gradient_checkpointing: Optional[bool] = field(
        default=None,
        metadata={
            "help": "recompute the LLM's activations in the backward pass (default of lst_7b and lst_13b where `llm` "
            "or `lora` is trained)"
        },
    )
    no_llm_gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "keep the LLM's activations in lst_7b and lst_13b, too: a quarter less to compute, where memory "
            "allows (lst plan)"
        },
    )
    llm_dtype: str = field(
        default="float32",
        metadata={
            "help": f"type of an LLM that is not trained, one of: {', '.join(DTYPES)} (auto: as it was saved); --fp16 "
            "and --bf16 apply to the whole model"
        },
    )
    attn_implementation: Optional[str] = field(
        default=None,
        metadata={"help": "the LLM's attention: eager, sdpa or flash_attention_2 (default: sdpa where it is exact)"},
    )
    lora_r: int = field(default=16, metadata={"help": "rank of the low-rank update"})
    lora_alpha: int = field(default=32, metadata={"help": "its scale is lora-alpha / lora-r"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout on its input"})
    lora_targets: str = field(
        default="all-linear",
        metadata={"help": "linear maps with such an update: all-linear, or names joined by commas (q_proj,v_proj)"},
    )


def check_llm_dtype(dtype: str, trained: list[str]) -> None:
    """Refuse an unknown ``--llm-dtype``, and a half one for an LLM that is trained."""
    if dtype not in DTYPES:
        raise ValueError(f"--llm-dtype {dtype}: unknown; known: {', '.join(DTYPES)}")
    if dtype != "float32" and "llm" in trained:
        raise ValueError(
            f"--llm-dtype {dtype} is for an LLM that keeps its weights: to train it in half precision give --bf16 or "
            "--fp16, which keep master weights in fp32"
        )


def train_modules(value: str) -> list[str]:
    """``adapter,llm`` -> ["adapter", "llm"]; an unknown or missing name is an error that lists the valid ones."""
    modules = [name.strip() for name in value.split(",") if name.strip()]
    unknown = sorted(set(modules) - set(TRAINABLE))
    if unknown or not modules:
        raise ValueError(f"--train-modules {value!r}: valid are {', '.join(TRAINABLE)}, joined by commas")
    return sorted(set(modules), key=TRAINABLE.index)
