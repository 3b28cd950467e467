"""The model ``lst``: speech frontend, adapter, LLM, and what its checkpoints hold.

What builds the LLM is imported where it is used: transformers' models take seconds to import, and
``fairseq-train --help`` imports this file.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from torch import Tensor, nn

from lst_fairseq.data.audio import SAMPLE_RATE
from lst_fairseq.data.dictionary import LlmDictionary
from lst_fairseq.data.prompt import DEFAULT_SOURCE, Prompts
from lst_fairseq.models.adapters import ADAPTERS, build_adapter
from lst_fairseq.models.architectures import ARCHITECTURES, apply_architecture
from lst_fairseq.models.config import LstModelConfig, check_llm_dtype, train_modules
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.frontends import FrontendOptions, SpeechFrontend, build_frontend
from lst_fairseq.models.llm.lora import add_lora
from lst_fairseq.models.pretrained import (
    load_pretrained,
    model_config,
    model_directory,
    model_source,
    tokenizer_fingerprint,
)
from lst_fairseq.models.trained_parts import (
    MODULES,
    RECORD_KEY,
    CheckpointRecord,
    check_sources,
    complete_state,
    held_state,
    module_of,
    record_of,
)
from lst_fairseq.models.weight_files import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lst_fairseq.models.llm.decoder import LlmDecoder

logger = logging.getLogger(__name__)


@register_model("lst", dataclass=LstModelConfig)
class LstModel(FairseqEncoderDecoderModel):
    """Speech in, text of the target language out (arXiv 2310.02050).

    Checkpoints hold only the modules that are no longer what their directories hold; see ``models/trained_parts.py``.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        decoder: LlmDecoder,
        trained: list[str],
        record: CheckpointRecord,
        frontend_top_layers: int = 0,
    ):
        super().__init__(encoder, decoder)
        self.record = record
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(module_of(name) in trained)
        if "frontend" in trained:
            _choose_trained(encoder.frontend, frontend_top_layers)

    @classmethod
    def build_model(cls, cfg: LstModelConfig, task: Any) -> LstModel:
        """Build from pretrained parts; the task knows their directories, the dictionary and the prompt."""
        from lst_fairseq.models.llm.decoder import LlmDecoder
        from lst_fairseq.models.llm.families import embedding_outputs
        from lst_fairseq.models.llm.meta_device import deferred_embedding_outputs

        apply_architecture(cfg, "lst")
        trained = train_modules(cfg.train_modules)
        dictionary: LlmDictionary = task.target_dictionary
        llm = _load_llm(cfg, task.cfg.llm, trained)
        embeddings = deferred_embedding_outputs(llm) if hasattr(llm, "weight_files") else embedding_outputs(llm)
        frontend = build_frontend(task.cfg.speech_encoder, frontend_options(cfg), task.frontend_settings)
        adapter = build_adapter(cfg, frontend, embeddings)
        encoder = SpeechEncoder(frontend, adapter, embeddings, "frontend" not in trained, task.prompts)
        longest_speech = torch.tensor([int(task.cfg.max_source_seconds * SAMPLE_RATE)])
        max_speech, max_prompt = int(encoder.output_lengths(longest_speech)), _usual_prompt(task.prompts)
        decoder = LlmDecoder(llm, dictionary, not {"llm", "lora"} & set(trained), max_speech, max_prompt)
        if max_speech + max_prompt >= decoder.llm_positions:
            raise ValueError(
                f"--max-source-seconds {task.cfg.max_source_seconds:g} and the prompt take {max_speech + max_prompt} "
                f"positions, and the LLM has {decoder.llm_positions}: lower the former, or take another LLM"
            )
        record = CheckpointRecord(
            held=trained,
            sources={
                "frontend": _source(task.cfg.speech_encoder, "--speech-encoder", task.frontend_settings is not None),
                "llm": _source(task.cfg.llm, "--llm"),
            },
            prompt=task.prompts.settings.as_dict(),
            tokenizer=tokenizer_fingerprint(dictionary.tokenizer),
        )
        return cls(encoder, decoder, trained, record, cfg.frontend_top_layers)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        kept: Tensor | None = None,
        **prompts: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Waveforms [B, T], lengths [B], prompts and target inputs [B, U] to logits [B, U, V].

        With ``kept``, bool [B, U], to the logits [N, V] of those N positions alone. Beside them come ``speech``
        [B, N, E] and ``speech_lengths`` [B], what the decoder heard, with markers and without gradient.
        """
        encoder_out = self.encoder(src_tokens, src_lengths, **prompts)
        logits, extra = self.decoder(prev_output_tokens, encoder_out=encoder_out, kept=kept)
        heard = {name: encoder_out[name].detach() for name in ("speech", "speech_lengths")}
        return logits, {**extra, **heard}

    def signature(self) -> dict[str, Any]:
        """What a result depends on besides data and search: both pretrained parts, adapter, modules held, prompt."""
        sources = {name: f"{Path(s['path']).name}#{s['fingerprint']}" for name, s in self.record.sources.items()}
        adapter = next(name for name, cls in ADAPTERS.items() if cls is type(self.encoder.adapter))
        return {**sources, "adapter": adapter, "trained": self.record.held, "prompt": self.record.prompt}

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
        return nn.Module.load_state_dict(self, self.matched_state(state_dict), strict=True)

    def matched_state(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's state under this model's own names, and the model's own tensors where it holds none.

        From now on the model's checkpoints hold what this one does.

        Raises:
            CheckpointError: as :meth:`load_state_dict`.
        """
        loaded = record_of(state_dict)
        check_sources(self.record, loaded)
        for name, mine in self.record.prompt.items():
            theirs = loaded.prompt.get(name, mine)  # an older version's may lack what is new
            if mine != theirs:
                logger.warning(f"the prompt's {name} is {mine!r}; the checkpoint was trained with {theirs!r}")
        state = {k: v for k, v in state_dict.items() if k != RECORD_KEY}
        complete = complete_state(self, super().state_dict(), state, loaded)
        # What the checkpoint holds is no longer what a directory holds, so this model's checkpoints hold it too.
        held = set(self.record.held) | set(loaded.held)
        self.record.held = [module for module in MODULES if module in held]
        return complete


def frontend_options(cfg: LstModelConfig) -> FrontendOptions:
    """How the model uses its frontend; the adapter decides whether the CTC head is kept."""
    adapter = ADAPTERS.get(cfg.adapter)
    return FrontendOptions(
        layer=cfg.frontend_layer,
        window=cfg.frontend_window,
        batching=cfg.frontend_batching,
        ctc=adapter is not None and adapter.needs_ctc,
    )


def _usual_prompt(prompts: Prompts) -> int:
    """Positions of a translation's prompt; datasets reserve more where their manifests ask for it."""
    return prompts.longest(tgt_lang=prompts.settings.tgt_lang or DEFAULT_SOURCE)


def _choose_trained(frontend: SpeechFrontend, top_layers: int) -> None:
    """Train all of a frontend, or its top layers only; never a CTC head, which serves as it is."""
    layers = frontend.layers()
    if not 0 <= top_layers <= len(layers):
        raise ValueError(
            f"--frontend-top-layers {top_layers}: the speech encoder has {len(layers)} layers; 0 trains all of it"
        )
    if top_layers:
        frontend.requires_grad_(False)
        for layer in layers[-top_layers:]:
            layer.requires_grad_(True)
    if frontend.ctc_head is not None:
        frontend.ctc_head.requires_grad_(False)


def _load_llm(cfg: LstModelConfig, path: str, trained: list[str]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    from lst_fairseq.models.llm.families import attention_for
    from lst_fairseq.models.llm.meta_device import empty_llm, stand_ins

    check_llm_dtype(cfg.llm_dtype, trained)
    directory = model_directory(path, "--llm")
    config = model_config(directory, "--llm")
    attention = attention_for(config, cfg.attn_implementation)
    llm = empty_llm(directory, config, cfg.llm_dtype, attention)
    if llm is None:
        settings = {"dtype": cfg.llm_dtype, "attn_implementation": attention}
        llm = load_pretrained(AutoModelForCausalLM, directory, config, **settings)
    if cfg.llm_gradient_checkpointing:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if "lora" in trained:
        with stand_ins(llm):
            add_lora(llm, cfg.lora_r, cfg.lora_alpha, cfg.lora_dropout, cfg.lora_targets)
    return llm


def _source(path: str, flag: str, may_be_gone: bool = False) -> dict[str, str]:
    """Path and fingerprint; a frontend that a checkpoint holds itself need not be there any more."""
    try:
        source = model_source(path, flag)
    except ValueError:
        if not may_be_gone:
            raise
        return {"path": str(path), "fingerprint": ""}
    return {"path": str(path), "fingerprint": fingerprint(source)}


def _register_architecture(name: str) -> None:
    def architecture(cfg: Any) -> None:
        apply_architecture(cfg, name)
        # options.py:201 takes --bf16 for a TPU; this function runs after it.
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
