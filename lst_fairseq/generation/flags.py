"""Flags of fairseq-generate and fairseq-interactive that mean nothing for speech or an LLM: refused, each with why."""

from typing import Any

from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig

_TWO_PASSES = "for models that write a transcript first and translate that"
_REFINEMENT = "for models that write a sentence at once and then refine it"
_DROPOUT = "an LLM's dropout is not fairseq's and would stay off"

#: Flags of fairseq's settings of generation, and why they are refused.
UNSUPPORTED = {
    "print_alignment": "an LLM has no attention from target to source that could be printed",
    "match_source_len": "speech is counted in samples, and its translation in tokens",
    "replace_unk": "an LLM's vocabulary has no unknown words, and speech none to put in their place",
    "constraints": "none are read with speech, and the search would go on without",
    "sacrebleu": "fairseq ignores it; --scoring sacrebleu is its successor, and lst score knows the references",
    "no_early_stop": "fairseq ignores it; no search stops early",
    "print_step": "a search has no steps of refinement to print",
    "lm_path": "a language model of fairseq's does not have the LLM's vocabulary",
    "eos_token": "the LLM's own end of sentence is what it was trained with",
    "retain_dropout": _DROPOUT,
    "retain_dropout_modules": _DROPOUT,
    **dict.fromkeys(("beam_mt", "max_len_a_mt", "max_len_b_mt", "lenpen_mt"), _TWO_PASSES),
    "decoding_format": _REFINEMENT,
    **{f"iter_decode_{name}": _REFINEMENT for name in ("eos_penalty", "max_iter", "force_max_iter", "with_beam")},
    "iter_decode_with_external_reranker": _REFINEMENT,
    "retain_iter_history": _REFINEMENT,
}
_DETOKENISED = "the LLM's own tokenizer makes text of its tokens"
_SHARDS = (
    "fairseq ignores it and goes by the rank; give --distributed-world-size N --distributed-rank I for part I of N"
)


def check_flags(args: Any) -> None:
    """Raise a ValueError that says why if a flag of ``UNSUPPORTED`` is set in fairseq's settings of generation.

    Where these are a section of all settings, flags of other sections that mean nothing are refused too.
    """
    for flag, reason in UNSUPPORTED.items():
        if getattr(args, flag, None) not in (None, False, getattr(GenerationConfig, flag)):
            _refuse(flag, reason)
    whole = _all_settings(args)
    if whole is not None:
        if whole.common_eval.post_process is not None:
            _refuse("post_process, --remove-bpe", _DETOKENISED)
        for flag in ("tokenizer", "bpe"):
            if whole.get(flag) is not None:
                _refuse(flag, _DETOKENISED)
    check_shards(args)


def check_shards(section: Any) -> None:
    """Raise a ValueError if ``--num-shards`` or ``--shard-id`` is set beside a section of fairseq's settings."""
    whole = _all_settings(section)
    if whole is not None and (whole.dataset.num_shards, whole.dataset.shard_id) != (1, 0):
        _refuse("num_shards, --shard-id" if whole.dataset.num_shards != 1 else "shard_id", _SHARDS)


def _all_settings(section: Any) -> DictConfig | None:
    whole = section._get_parent() if isinstance(section, DictConfig) else None
    return whole if whole is not None and "dataset" in whole else None


def _refuse(flag: str, reason: str) -> None:
    raise ValueError(f"--{flag.replace('_', '-')}: {reason}; leave the flag out")
