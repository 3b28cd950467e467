"""What differs from one family of LLMs to another, asked of the model and its configuration rather than of its name."""

import logging

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    cache_utils,
)

logger = logging.getLogger(__name__)

#: Layers whose past is keys and values, one a position, which can be selected by row; a sliding window keeps the last.
#: DummyLayer, which has none of its own, came with transformers 5.23.
CACHE_LAYERS = tuple(
    getattr(cache_utils, name)
    for name in ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")
    if hasattr(cache_utils, name)
)
#: What ``forward`` calls its cache: in transformers from 5.24 on, and before or in code of its own.
CACHE_ARGUMENTS = ("cache", "past_key_values")
#: Settings that say how long a model's table of positions is, or the sequences that its rotation was trained on.
POSITION_TABLES = ("max_position_embeddings", "max_target_positions")
#: For LLMs whose positions have no table (ALiBi): no limit in practice, but fairseq needs a finite number.
UNLIMITED_POSITIONS = 100_000
#: Token ids embedded at a time.
EMBEDDING_CHUNK = 4096


def check_llm(llm: PreTrainedModel, parameters: set[str]) -> None:
    """Refuse an LLM that the decoder cannot run exactly.

    Args:
        llm: the model.
        parameters: names that its ``forward`` takes.

    Raises:
        ValueError: it lacks something that the decoder needs; the message names the model and what it lacks.
    """
    problem = _problem(llm, parameters)
    if problem:
        raise ValueError(
            f"--llm: {type(llm).__name__} (model type {llm.config.model_type}) {problem}; take a Transformer decoder "
            "such as Llama, Mistral, Qwen or Gemma"
        )


def _problem(llm: PreTrainedModel, parameters: set[str]) -> str:
    config = llm.config.get_text_config()
    # Left padding would run through such a state, and only some of them can be selected by row.
    if getattr(llm, "_is_stateful", False) or not _has_attention_cache(llm.config):
        return "keeps a state other than the keys and values of each position"
    missing = [name for name in ("inputs_embeds", "attention_mask") if name not in parameters]
    if cache_argument(parameters) is None:
        missing.append(f"a cache ({' or '.join(CACHE_ARGUMENTS)})")
    if missing:
        return f"does not accept {', '.join(missing)}"
    if "position_ids" not in parameters and any(getattr(config, name, None) for name in POSITION_TABLES):
        return "does not accept position_ids, so that padding would shift its positions"
    if getattr(config, "hidden_size_per_layer_input", 0):
        return "looks token ids up in every layer, and speech has none"
    if MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None) and not config.is_decoder:
        return "is an encoder that reads in both directions"
    return ""


def cache_argument(parameters: set[str]) -> str | None:
    """The name under which a ``forward`` with these parameters takes keys and values of the past; None: it does not."""
    return next((name for name in CACHE_ARGUMENTS if name in parameters), None)


def _has_attention_cache(config: PretrainedConfig) -> bool:
    try:
        return all(type(layer) in CACHE_LAYERS for layer in DynamicCache(config=config).layers)
    except (KeyError, AttributeError):  # a type of layer, or a stack of them, that transformers' cache does not know
        return False


def position_limit(config: PretrainedConfig) -> int:
    """Positions that an LLM has, counted from its first token.

    LongRoPE (Phi-3) rotates all positions differently once a sequence is longer than those of its first training: keys
    in the cache would then be stale, and short sentences would depend on long ones beside them. Hence it ends there.
    """
    config = config.get_text_config()
    limits = [getattr(config, name, None) for name in (*POSITION_TABLES, "max_seq_len")]
    rope = getattr(config, "rope_parameters", None) or {}
    for settings in (rope, *rope.values()):  # one for all layers, or one for each type of layer
        if isinstance(settings, dict) and settings.get("rope_type") == "longrope":
            limits.append(settings.get("original_max_position_embeddings"))
    return min([limit for limit in limits if limit], default=UNLIMITED_POSITIONS)


def attention_for(config: PretrainedConfig, wanted: str | None = None) -> str:
    """How an LLM is to compute attention, for ``from_pretrained(attn_implementation=...)``.

    Args:
        config: the LLM's.
        wanted: one of ``pretrained.ATTENTIONS`` (which loading checks), or None for sdpa where it computes what the
            model defines, else eager.

    Raises:
        ValueError: ``wanted`` would compute something else than the model defines.
    """
    model = f"the LLM (model type {config.model_type})"
    reason = _no_sdpa(config)
    if wanted == "sdpa" and reason:
        raise ValueError(f"--attn-implementation sdpa: {model} cannot run with it, since {reason}; choose eager")
    if wanted == "flash_attention_2" and not getattr(_model_class(config), "_supports_flash_attn", True):
        raise ValueError(f"--attn-implementation flash_attention_2: transformers has none for {model}; choose eager")
    if wanted is None and reason:
        logger.info(f"{model} runs with eager attention: {reason}")
    return wanted or ("eager" if reason else "sdpa")


def _no_sdpa(config: PretrainedConfig) -> str:
    """Why sdpa would be wrong; empty if it would not."""
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "sdpa knows no softcapping of attention logits"
    if not getattr(_model_class(config), "_supports_sdpa", True):
        return "transformers has no sdpa for it"
    return ""


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


@torch.no_grad()
def embedding_outputs(llm: PreTrainedModel) -> Tensor:
    """What the LLM's embedding layer returns for every id: [V, E], in the table's type, without gradient.

    For most LLMs that is the table itself (not a copy); Gemma's layer scales it.
    """
    embed = llm.get_input_embeddings()
    if type(embed) is nn.Embedding:
        return embed.weight.detach()
    ids = torch.arange(embed.weight.size(0), device=embed.weight.device)
    return torch.cat([embed(chunk).to(embed.weight.dtype) for chunk in ids.split(EMBEDDING_CHUNK)])
