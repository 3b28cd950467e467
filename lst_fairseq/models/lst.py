"""The model ``lst``: speech frontend, adapter, LLM; its architectures, and what its checkpoints hold."""

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Optional  # fairseq reads Optional[X] in dataclasses, and not X | None

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import Prompt
from lst_fairseq.models.adapters import ADAPTERS, build_adapter
from lst_fairseq.models.adapters.conv import NORMS
from lst_fairseq.models.checkpoint import (
    MODULE_PREFIXES,
    RECORD_KEY,
    CheckpointRecord,
    check_sources,
    complete_state,
    held_state,
    module_of,
    record_of,
)
from lst_fairseq.models.decoder import LlmDecoder
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.frontends import build_frontend
from lst_fairseq.models.pretrained import (
    fingerprint,
    load_pretrained,
    model_config,
    model_directory,
    tokenizer_fingerprint,
)

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
TRAINABLE = ("adapter", "llm")

#: What an architecture sets where the user sets nothing. The paper's are lst_7b and lst_13b: the sizes of frontend and
#: LLM come with their directories, so that the two differ in nothing else.
PAPER = {"adapter": "conv", "adapter_kernel_sizes": "3,3", "adapter_channels": 1024, "adapter_norm": "none"}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "lst": {**PAPER, "adapter_norm": "embedding"},
    "lst_tiny": {**PAPER, "adapter_norm": "embedding", "adapter_channels": 256},
    "lst_7b": {**PAPER, "llm_gradient_checkpointing": True},
    "lst_13b": {**PAPER, "llm_gradient_checkpointing": True},
}


@dataclass
class LstModelConfig(FairseqDataclass):
    """Settings of the model; an empty one is the architecture's. The pretrained parts are the task's settings."""

    adapter: Optional[str] = field(
        default=None, metadata={"help": f"between frontend and LLM; one of: {', '.join(ADAPTERS)} (default: conv)"}
    )
    adapter_kernel_sizes: Optional[str] = field(
        default=None, metadata={"help": "kernel sizes of the stride-2 convolutions, joined by commas (default: 3,3)"}
    )
    adapter_channels: Optional[int] = field(
        default=None, metadata={"help": "width of the adapter's convolutions (default: 1024; lst_tiny: 256)"}
    )
    adapter_norm: Optional[str] = field(
        default=None,
        metadata={
            "help": f"one of: {', '.join(NORMS)}; embedding = layer norm before the linear layer and output at the "
            "scale of the LLM's embeddings (default of lst and lst_tiny), none = the paper's adapter (lst_7b, lst_13b)"
        },
    )
    train_modules: str = field(
        default="adapter",
        metadata={"help": "what is trained: `adapter` (stage 1; with the speech markers) or `adapter,llm` (stage 2)"},
    )
    llm_gradient_checkpointing: Optional[bool] = field(
        default=None,
        metadata={"help": "recompute the LLM's activations in the backward pass (default of lst_7b and lst_13b)"},
    )


def apply_architecture(cfg: Any, name: str) -> None:
    """Fill in an architecture's settings where ``cfg`` (Namespace or DictConfig) has none."""
    for key, value in ARCHITECTURES[name].items():
        if getattr(cfg, key, None) is None:
            setattr(cfg, key, value)


def train_modules(value: str) -> list[str]:
    """``adapter,llm`` -> ["adapter", "llm"]; an unknown or missing name is an error that lists the valid ones."""
    modules = [name.strip() for name in value.split(",") if name.strip()]
    unknown = sorted(set(modules) - set(TRAINABLE))
    if unknown or not modules:
        raise ValueError(f"--train-modules {value!r}: valid are {', '.join(TRAINABLE)}, joined by commas")
    return sorted(set(modules), key=TRAINABLE.index)


@register_model("lst", dataclass=LstModelConfig)
class LstModel(FairseqEncoderDecoderModel):
    """Speech in, text of the target language out (arXiv 2310.02050).

    Checkpoints hold only the modules that are no longer what their directories hold; see ``models/checkpoint.py``.
    """

    def __init__(self, encoder: SpeechEncoder, decoder: LlmDecoder, trained: list[str], record: CheckpointRecord):
        super().__init__(encoder, decoder)
        self.record = record
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(module_of(name) in trained)

    @classmethod
    def build_model(cls, cfg: LstModelConfig, task: Any) -> "LstModel":
        """Build from pretrained parts; the task knows their directories, the dictionary and the prompt."""
        apply_architecture(cfg, "lst")
        trained = train_modules(cfg.train_modules)
        dictionary: LlmDictionary = task.target_dictionary
        llm_path = model_directory(task.cfg.llm, "--llm")
        llm = load_pretrained(AutoModelForCausalLM, llm_path, model_config(llm_path, "--llm"))
        if cfg.llm_gradient_checkpointing:
            llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        embeddings = llm.get_input_embeddings().weight
        frontend = build_frontend(task.cfg.speech_encoder)
        adapter = build_adapter(cfg, frontend.output_dim, embeddings)
        encoder = SpeechEncoder(frontend, adapter, embeddings, freeze_frontend=True)
        prompt = Prompt.from_text(task.prompt, dictionary.tokenizer)
        longest_speech = torch.tensor([int(task.cfg.max_source_seconds * SAMPLE_RATE)])
        max_prefix = len(prompt) + int(encoder.output_lengths(longest_speech))
        decoder = LlmDecoder(llm, dictionary, prompt, freeze="llm" not in trained, max_prefix=max_prefix)
        if max_prefix >= decoder.llm_positions:
            raise ValueError(
                f"--max-source-seconds {task.cfg.max_source_seconds:g} and the prompt take {max_prefix} positions, and "
                f"the LLM has {decoder.llm_positions}: lower the former, or take another LLM"
            )
        record = CheckpointRecord(
            held=trained,
            sources={
                "frontend": _source(task.cfg.speech_encoder, "--speech-encoder"),
                "llm": _source(task.cfg.llm, "--llm"),
            },
            prompt=task.prompt,
            tokenizer=tokenizer_fingerprint(dictionary.tokenizer),
        )
        return cls(encoder, decoder, trained, record)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, None]]:
        """Waveforms [B, T], lengths [B] and target inputs [B, U] to logits [B, U, V]."""
        encoder_out = self.encoder(src_tokens, src_lengths)
        return self.decoder(prev_output_tokens, encoder_out=encoder_out)

    def max_positions(self) -> None:
        """No limit that fairseq should filter by: the dataset applies the task's limits, in seconds, and counts."""
        return None

    def prepare_for_inference_(self, cfg: Any) -> None:
        """fairseq's preparation, and ``--bf16``, which fairseq-generate takes and ignores (generate.py:130)."""
        super().prepare_for_inference_(cfg)
        if cfg.common.bf16:
            self.bfloat16()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Parameters of the held modules only, and the checkpoint's record."""
        return held_state(self, super().state_dict(*args, **kwargs), self.record)

    def load_state_dict(
        self,
        state_dict: dict[str, Tensor],
        strict: bool = True,
        model_cfg: Any = None,
        args: Namespace | None = None,
    ) -> Any:
        """Load a checkpoint's modules and keep the others as they are; strict whatever ``strict`` says.

        Raises:
            CheckpointError: not this model's checkpoint, other frozen parts, or keys that do not fit, listed.
        """
        loaded = record_of(state_dict)
        check_sources(self.record, loaded)
        if loaded.prompt != self.record.prompt:
            logger.warning(f"the prompt is {self.record.prompt!r}; the checkpoint was trained with {loaded.prompt!r}")
        state = {k: v for k, v in state_dict.items() if k != RECORD_KEY}
        complete = complete_state(self, super().state_dict(), state, loaded)
        # What the checkpoint holds is no longer what a directory holds, so this model's checkpoints hold it too.
        held = set(self.record.held) | set(loaded.held)
        self.record.held = [module for module in MODULE_PREFIXES if module in held]
        return nn.Module.load_state_dict(self, complete, strict=True)


def _source(path: str, flag: str) -> dict[str, str]:
    return {"path": str(path), "fingerprint": fingerprint(model_directory(path, flag))}


def _register_architecture(name: str) -> None:
    def architecture(cfg: Any) -> None:
        apply_architecture(cfg, name)
        # options.py:203 takes --bf16 for a TPU; this function runs after it.
        if getattr(cfg, "bf16", False):
            cfg.tpu = False
        # fp16_optimizer.py:33 asks for the current CUDA device when it flattens gradients.
        on_cpu = getattr(cfg, "cpu", False) or not torch.cuda.is_available()
        if on_cpu and (getattr(cfg, "bf16", False) or getattr(cfg, "fp16", False)):
            cfg.fp16_no_flatten_grads = True

    if name in ARCH_CONFIG_REGISTRY:  # register_model has put an empty function under the model's own name
        ARCH_CONFIG_REGISTRY[name] = architecture
    else:
        register_model_architecture("lst", name)(architecture)


for _name in ARCHITECTURES:
    _register_architecture(_name)
