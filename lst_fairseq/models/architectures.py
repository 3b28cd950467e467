"""Architectures of the model ``lst``: what each sets where the user sets nothing. Free of fairseq and PyTorch."""

from typing import Any

#: What an architecture sets where the user sets nothing. The paper's are lst_7b and lst_13b: the sizes of frontend and
#: LLM come with their directories, so that the two differ in nothing else. Activations are computed again where the LLM
#: is trained, in full or by LoRA.
PAPER = {"adapter": "conv", "adapter_kernel_sizes": "3,3", "adapter_channels": 1024, "adapter_norm": "none"}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "lst": {**PAPER, "adapter_norm": "embedding"},
    "lst_tiny": {**PAPER, "adapter_norm": "embedding", "adapter_channels": 256},
    "lst_7b": {**PAPER, "llm_gradient_checkpointing": True},
    "lst_13b": {**PAPER, "llm_gradient_checkpointing": True},
}


def architecture(cfg: Any, name: str) -> dict[str, Any]:
    """What an architecture sets for what ``cfg`` trains."""
    settings = dict(ARCHITECTURES[name])
    trained = {module.strip() for module in (getattr(cfg, "train_modules", None) or "").split(",")}
    if not trained & {"llm", "lora"}:
        settings.pop("llm_gradient_checkpointing", None)
    return settings


def apply_architecture(cfg: Any, name: str) -> None:
    """Fill in an architecture's settings where ``cfg`` (Namespace or DictConfig) has none."""
    if getattr(cfg, "no_llm_gradient_checkpointing", False):
        if getattr(cfg, "llm_gradient_checkpointing", None):
            raise ValueError("--llm-gradient-checkpointing and --no-llm-gradient-checkpointing: give one of the two")
        cfg.llm_gradient_checkpointing = False
    for key, value in architecture(cfg, name).items():
        if getattr(cfg, key, None) is None:
            setattr(cfg, key, value)
