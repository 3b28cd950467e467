"""Sizes and memory of a training run before any weight is there: ``lst plan --arch lst_7b``.

The model is built from configurations, with its real classes, on torch's meta device, so that parameters are counted
and not computed by a formula; ``activations.py`` counts what its forward pass saves.
"""

import copy
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Wav2Vec2Config

from lst_fairseq.models.adapters import build_adapter
from lst_fairseq.models.architectures import apply_architecture, architecture
from lst_fairseq.models.config import LstModelConfig, check_llm_dtype, train_modules
from lst_fairseq.models.encoder import SpeechEncoder
from lst_fairseq.models.frontends import FRONTENDS
from lst_fairseq.models.frontends.pretrained_frontend import transformers_kinds
from lst_fairseq.models.llm.decoder import LlmDecoder
from lst_fairseq.models.llm.families import attention_for
from lst_fairseq.models.llm.lora import add_lora
from lst_fairseq.models.lst import LstModel, frontend_options
from lst_fairseq.models.pretrained import model_config
from lst_fairseq.models.trained_parts import MODULES, RECORD_KEY, CheckpointRecord, module_of
from lst_fairseq.planning.activations import ATTENTION, PACKED_ATTENTION, Batch
from lst_fairseq.planning.estimate import ADAM_STATES, estimates
from lst_fairseq.planning.planned_run import PlannedRun
from lst_fairseq.planning.what_fits import cheapest
from lst_fairseq.utils.checksums import read_model_json

#: Backbones of the paper's architectures: LLaMA-2 (Touvron et al., 2023) and wav2vec 2.0 large LV-60 with CTC.
LLAMA_2 = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "dtype": "float16"}
LLMS: dict[str, dict[str, Any]] = {
    "lst_7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11_008},
    "lst_13b": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13_824},
}
WAV2VEC2_LARGE = {
    "vocab_size": 32,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}

GIB = 2**30
#: Share of a GPU that is kept free when it is said whether a run fits.
RESERVE = 0.1


def build_empty(cfg: Any, llm_config: PretrainedConfig, frontend_settings: dict[str, Any]) -> LstModel:
    """The model without weights, in train mode, with the parameters marked that a run trains.

    Args:
        cfg: LstModelConfig, filled in by ``apply_architecture``.
        llm_config: the LLM's configuration.
        frontend_settings: as ``SpeechFrontend.settings`` gives them.

    Raises:
        ValueError: a setting is not valid, or does not fit the backbones.
    """
    trained = train_modules(cfg.train_modules)
    with torch.device("meta"):
        llm = _empty_llm(cfg, llm_config, trained)
        frontend = FRONTENDS[frontend_settings["kind"]].empty(frontend_settings, frontend_options(cfg))
        # Real zeros, since their standard deviation is asked for; of their number nothing depends.
        embeddings = torch.zeros(2, llm.get_input_embeddings().weight.size(1), device="cpu")
        adapter = build_adapter(cfg, frontend, embeddings)
        # Prompts and tokens matter to batches only.
        encoder = SpeechEncoder(frontend, adapter, embeddings, "frontend" not in trained, prompts=None)
        no_tokens = SimpleNamespace(tokenizer=(), ids_without_token=())
        decoder = LlmDecoder(llm, no_tokens, not {"llm", "lora"} & set(trained), max_speech=0, max_prompt=0)
    if llm.config._attn_implementation == "sdpa":
        llm.set_attn_implementation(PACKED_ATTENTION if decoder.packs else ATTENTION)
    if frontend.model.config._attn_implementation == "sdpa":
        frontend.model.set_attn_implementation(ATTENTION)
    record = CheckpointRecord(held=trained, sources={}, prompt={}, tokenizer="")
    return LstModel(encoder, decoder, trained, record, cfg.frontend_top_layers).to("meta").train()


def _empty_llm(cfg: Any, config: PretrainedConfig, trained: Sequence[str]) -> PreTrainedModel:
    check_llm_dtype(cfg.llm_dtype, trained)
    dtype = (config.dtype or torch.float32) if cfg.llm_dtype == "auto" else getattr(torch, cfg.llm_dtype)
    attention = attention_for(config, cfg.attn_implementation)
    attention = ATTENTION if attention == "flash_attention_2" else attention
    settings = {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": False}
    llm = AutoModelForCausalLM.from_config(config, **settings)
    if cfg.llm_gradient_checkpointing:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if "lora" in trained:
        add_lora(llm, cfg.lora_r, cfg.lora_alpha, cfg.lora_dropout, cfg.lora_targets)
    return llm


def plan(run: PlannedRun, cfg: Any = None) -> dict[str, Any]:
    """Everything that ``lst plan`` prints, in plain types; its help says what the numbers count.

    Args:
        run: backbones, GPUs and batches.
        cfg: ``models.config.LstModelConfig``, or anything with its fields, where the architecture's are not wanted.

    Raises:
        ValueError: a setting is not valid, or a backbone is needed and not given.
    """
    cfg = LstModelConfig() if cfg is None else copy.deepcopy(cfg)
    asked = cfg.llm_gradient_checkpointing
    apply_architecture(cfg, run.arch)
    brought = not asked and "llm_gradient_checkpointing" in architecture(cfg, run.arch)
    with warnings.catch_warnings():
        # transformers renames gradient_checkpointing_enable
        warnings.simplefilter("ignore", FutureWarning)
        model = build_empty(cfg, _llm_config(run), _frontend_settings(run))
    parameters, trained = Counter(dict.fromkeys(MODULES, 0)), Counter(dict.fromkeys(MODULES, 0))
    for name, parameter in model.named_parameters():
        parameters[module_of(name)] += parameter.numel()
        trained[module_of(name)] += parameter.numel() if parameter.requires_grad else 0
    fp32 = torch.float32.itemsize
    weights = sum(
        value.numel() * (fp32 if value.is_floating_point() else value.itemsize)
        for name, value in model.state_dict().items()
        if name != RECORD_KEY
    )
    optimized = trained.total() * fp32
    batch = Batch(run.batch_size, run.seconds, run.prompt_tokens, run.target_tokens)
    usable = (1 - RESERVE) * run.gpu_memory * GIB
    found = estimates(model, batch, run.gpus, run.shard_frozen)
    return {
        "arch": run.arch,
        "train_modules": train_modules(cfg.train_modules),
        "gpus": run.gpus,
        "shard_frozen": run.shard_frozen,
        "gradient_checkpointing": bool(cfg.llm_gradient_checkpointing),
        "batch": asdict(batch),
        "gpu_memory_gib": run.gpu_memory,
        "total_parameters": parameters.total(),
        "trained_parameters": trained.total(),
        "parameters": dict(parameters),
        "trained_parameters_by_module": dict(trained),
        "checkpoint_bytes": weights + ADAM_STATES * optimized,
        "checkpoint_bytes_mixed_precision": weights + (ADAM_STATES + 1) * optimized,
        "checkpoint_bytes_without_optimizer": weights,
        "estimates": [
            {**asdict(estimate), "total": estimate.total, "fits": estimate.total <= usable} for estimate in found
        ],
        "cheapest": cheapest(model, batch, run.gpus, usable, brought),
    }


def _llm_config(run: PlannedRun) -> PretrainedConfig:
    if run.llm is None and run.arch in LLMS:
        return LlamaConfig(**LLAMA_2, **LLMS[run.arch])
    return model_config(_directory(run, "llm"), "--llm")


def _frontend_settings(run: PlannedRun) -> dict[str, Any]:
    preprocessor: dict[str, Any] = {}
    if run.speech_encoder is None and run.arch in LLMS:
        config: PretrainedConfig = Wav2Vec2Config(**WAV2VEC2_LARGE)
    else:
        directory = _directory(run, "speech_encoder")
        config = model_config(directory, "--speech-encoder", known=transformers_kinds())
        file = directory / "preprocessor_config.json"
        preprocessor = read_model_json(file) if file.is_file() else {}
    config_values = json.loads(config.to_json_string(use_diff=False))
    return {"kind": config.model_type, "config": config_values, "preprocessor": preprocessor}


def _directory(run: PlannedRun, name: str) -> Path:
    flag, path = f"--{name.replace('_', '-')}", getattr(run, name)
    if path is None:
        raise ValueError(
            f"--arch {run.arch} says nothing of the backbones' sizes: give {flag} DIR with a config.json, or one of "
            f"--arch {', '.join(LLMS)}, which bring their own"
        )
    if not (Path(path).expanduser() / "config.json").is_file():
        raise ValueError(f"{flag} {path}: no config.json there; give a directory with one (weights are not needed)")
    return Path(path).expanduser()


def table(result: dict[str, Any]) -> str:
    """What :func:`plan` found, for reading; memory in GiB."""
    lines = [f"{result['arch']}, trained: {', '.join(result['train_modules'])}", ""]
    lines.append(f"{'parameters':<24}{'all':>18}{'trained':>18}")
    trained = result["trained_parameters_by_module"]
    for module, count in result["parameters"].items():
        lines.append(f"{module:<24}{count:>18,}{trained[module]:>18,}")
    lines += [f"{'total':<24}{result['total_parameters']:>18,}{result['trained_parameters']:>18,}", ""]
    for name, key in (
        ("checkpoint, fp32", "checkpoint_bytes"),
        ("checkpoint, bf16 or fp16", "checkpoint_bytes_mixed_precision"),
        ("without optimiser state", "checkpoint_bytes_without_optimizer"),
    ):
        lines.append(f"{name:<24}{result[key] / GIB:>14.2f} GiB")
    batch = result["batch"]
    checkpointing = "with" if result["gradient_checkpointing"] else "without"
    lines += [
        "",
        f"GiB a GPU, GPUs: {result['gpus']}, batch of each: {batch['rows']} x {batch['seconds']:g} s with "
        f"{batch['target_tokens']} target tokens, {checkpointing} gradient checkpointing",
        f"{'':<24}{'weights':>10}{'gradients':>10}{'optimizer':>10}{'activations':>12}{'total':>10}",
    ]
    for entry in result["estimates"]:
        numbers = [entry[key] / GIB for key in ("weights", "gradients", "optimizer", "activations", "total")]
        columns = "".join(f"{number:>{width}.2f}" for number, width in zip(numbers, (10, 10, 10, 12, 10), strict=True))
        verdict = "fits" if entry["fits"] else "does not fit"
        lines.append(f"{entry['engine'] + ' ' + entry['precision']:<24}{columns}  {verdict}")
    lines.append(f"fits: in {result['gpu_memory_gib']:g} GiB with a tenth kept free (--gpu-memory)")
    best = result["cheapest"]
    if best:
        lines.append(f"cheapest that fits, {best['total'] / GIB:.2f} GiB: {best['flags']}")
    else:
        lines.append("nothing fits, whatever the setting: take more GPUs, larger ones, or a smaller LLM")
    return "\n".join(lines)
