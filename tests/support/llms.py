"""Tiny LLMs of many families with the real classes, all with the same vocabulary and width, saved by the real code."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 83
WIDTH = 32
#: Shorter than the prefixes in tests.
WINDOW = 6
_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZE = {**_TOKENS, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SIZE, "num_key_value_heads": 2, "max_position_embeddings": 128}
_HYBRID = {**_GROUPED, "head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 64,
}

FAMILIES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama 2": (LlamaConfig, {**_GROUPED, "num_key_value_heads": 4}),
    "llama 3": (LlamaConfig, {**_GROUPED, "rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {**_GROUPED, "sliding_window": WINDOW}),
    "qwen2": (Qwen2Config, {**_GROUPED}),
    "qwen2 with a window": (
        Qwen2Config,
        {**_GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 16}),
    # The caps are low enough to bend the scores of tiny models.
    "gemma 2": (Gemma2Config, {**_HYBRID, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 5.0}),
    "gemma 3": (Gemma3TextConfig, {**_HYBRID}),
    "phi 3": (Phi3Config, {**_GROUPED, "sliding_window": WINDOW}),
    "phi 3 with longrope": (
        Phi3Config,
        {**_GROUPED, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 64},
    ),
    "gpt-neox": (GPTNeoXConfig, {**_SIZE, "max_position_embeddings": 128}),
    "opt": (
        OPTConfig,
        {
            **_TOKENS,
            "hidden_size": WIDTH + 16,
            "word_embed_proj_dim": WIDTH,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "do_layer_norm_before": False,
        },
    ),
    "bloom": (BloomConfig, {**_TOKENS, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4}),
    "olmo 2": (Olmo2Config, {**_GROUPED}),
    "gpt-2": (GPT2Config, {**_TOKENS, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}


def family_config(family: str, **settings: Any) -> PretrainedConfig:
    config_class, given = FAMILIES[family]
    return config_class(**{**given, **settings})


def save_llm(path: Path, family: str, seed: int = 16) -> None:
    """A model directory without tokenizer; norms and biases, too, are random."""
    torch.manual_seed(seed)
    llm = AutoModelForCausalLM.from_config(family_config(family))
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    llm.save_pretrained(path)
