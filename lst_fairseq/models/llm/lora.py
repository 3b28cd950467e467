"""Low-rank updates of the LLM's linear maps (LoRA, Hu et al., 2021), by the library peft.

    x ----> frozen W ------------------> +  ----> y
      \\                                  ^
       dropout -> A [r, in] -> B [out, r] * alpha / r

A and B are all that is trained and stored; B is zero at first, so that the LLM starts as it was.

peft is imported where it is used: that takes seconds, which every command that imports the plugin would wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


def add_lora(llm: PreTrainedModel, r: int, alpha: int, dropout: float, targets: str) -> None:
    """Put a low-rank update beside linear maps of the LLM, in place.

    Args:
        llm: the LLM; its own parameters keep their values.
        r: rank, from 1 on.
        alpha: the update is scaled by alpha / r.
        dropout: probability, on the update's input.
        targets: ``all-linear`` (every one but the output layer) or names of linear maps, joined by commas.

    Raises:
        ValueError: a setting is out of range, or no linear map has such a name; the names that exist are listed.
    """
    if r < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"--lora-r {r} --lora-alpha {alpha} --lora-dropout {dropout}: give a rank from 1 on, an alpha above 0 and "
            "a dropout from 0 to below 1"
        )
    names: str | list[str] = ALL_LINEAR
    if targets != ALL_LINEAR:
        names = [name.strip() for name in targets.split(",") if name.strip()]
        known = {name.rsplit(".", 1)[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
        unknown = sorted(set(names) - known)
        if unknown or not names:
            raise ValueError(
                f"--lora-targets {targets}: the LLM has no linear map {', '.join(unknown) or '(none is named)'}; give "
                f"{ALL_LINEAR}, or some of: {', '.join(sorted(known))}"
            )
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    inject_adapter_in_model(config, llm)
    # Trained, so in fp32 also beside weights in half precision.
    for name, module in llm.named_modules():
        if ".lora_" in name:
            module.float()


def merge_lora(llm: PreTrainedModel) -> None:
    """Add each update to the weight it belongs to and put the plain linear map back, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(llm.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(llm.get_submodule(parent), child, module.get_base_layer())
