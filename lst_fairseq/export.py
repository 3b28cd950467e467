"""A trained model as a directory of plain files, for transformers, for the hub, and for this plugin to load back.

    OUT/llm/                  the LLM, low-rank updates merged, with its tokenizer: AutoModelForCausalLM reads it
    OUT/adapter.safetensors   adapter and speech markers
    OUT/frontend.safetensors  the speech encoder, if it was trained
    OUT/frontend/             the speech encoder as it was downloaded, if asked for
    OUT/lst.json              settings, prompt, and where the speech encoder comes from
    OUT/README.md             model card

`fairseq-generate --path OUT` and `lst-translate --checkpoint OUT` take the directory as they take a checkpoint.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lst_fairseq.models.checkpoint import RECORD_KEY, CheckpointRecord
from lst_fairseq.models.lora import merge_lora
from lst_fairseq.models.lst import LstModel
from lst_fairseq.models.pretrained import fingerprint
from lst_fairseq.patches import CheckpointError
from lst_fairseq.utils.files import making

FORMAT = 1
SETTINGS_FILE = "lst.json"
#: File of each module that is stored as it is, and where the module lies in the model.
TENSOR_FILES = {"adapter": "adapter.safetensors", "frontend": "frontend.safetensors"}
DTYPES = ("float32", "bfloat16", "float16")


def export(
    checkpoint: str | Path,
    out: str | Path,
    dtype: str = "float32",
    with_frontend: bool = False,
    speech_encoder: str | None = None,
    llm: str | None = None,
) -> Path:
    """Write a checkpoint's model as a directory.

    Args:
        checkpoint: a file that ``fairseq-train --task lst_st`` wrote.
        out: the directory to make; it must not exist.
        dtype: type of the LLM's weights, one of ``DTYPES``; the others keep theirs.
        with_frontend: copy the speech encoder too, so that nothing outside the directory is needed.
        speech_encoder, llm: where they lie now, if not where the checkpoint says.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` is there already.
        CheckpointError, ValueError: the checkpoint cannot be loaded, or ``out`` not written.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already: give another directory, or remove it first")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: unknown; known: {', '.join(DTYPES)}")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    for name, value in (("speech_encoder", speech_encoder), ("llm", llm)):
        if value is not None:
            state["cfg"].task[name] = value
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    model: LstModel = models[0]
    try:
        with making(out) as partial:  # a directory with the right name is complete
            _write(model, cfg, task, partial, dtype, with_frontend)
    except FileExistsError:
        raise
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{out}: cannot be written ({reason}); free some space, or name a directory elsewhere"
        ) from error
    return out


def _write(
    model: LstModel, cfg: Any, task: Any, partial: Path, dtype: str, with_frontend: bool
) -> None:
    """Write what :func:`export` writes into an empty directory."""
    merge_lora(model.decoder.llm)
    model.decoder.llm.to(getattr(torch, dtype)).save_pretrained(partial / "llm")
    task.target_dictionary.tokenizer.save_pretrained(partial / "llm")
    held = ["adapter"] + (["frontend"] if "frontend" in model.record.held else [])
    for module in held:
        save_file(_tensors(model, module), partial / TENSOR_FILES[module])
    frontend = dict(model.record.sources["frontend"])
    if with_frontend and "frontend" not in held:
        frontend["path"] = _copy(Path(task.cfg.speech_encoder).expanduser(), partial)
    record = CheckpointRecord(
        held=held,
        sources={"frontend": frontend, "llm": {"path": "llm", "fingerprint": fingerprint(partial / "llm")}},
        prompt=model.record.prompt,
        tokenizer=model.record.tokenizer,
    )
    settings = {
        "format": FORMAT,
        "record": asdict(record),
        "model": {**OmegaConf.to_container(cfg.model), "train_modules": "adapter", "llm_dtype": dtype},
        "task": {**OmegaConf.to_container(cfg.task), "speech_encoder": frontend["path"], "llm": "llm"},
        "frontend": model.encoder.frontend.settings() if "frontend" in held else None,
    }
    # The data is not part of the model.
    for name in ("data", "config_yaml", "cache_features"):
        settings["task"].pop(name, None)
    (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(_model_card(model, record, dtype), encoding="utf-8")


def read_export(directory: str | Path, arg_overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """An exported directory as the state of a fairseq checkpoint.

    Raises:
        CheckpointError: a file is missing or cannot be read, named.
    """
    directory = Path(directory)
    try:
        settings = json.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise CheckpointError(
                f"{directory}: format {settings['format']} is not this version's {FORMAT}; update lst_fairseq"
            )
        record = CheckpointRecord(**settings["record"])
        files = [directory / TENSOR_FILES[module] for module in record.held]
        state = {f"encoder.{name}": value for file in files for name, value in load_file(file).items()}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{directory}: not a directory that scripts/export.py wrote, or not all of it ({error})"
        ) from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: damaged ({error}); export the checkpoint again") from None
    for name, source in record.sources.items():
        if (directory / source["path"]).exists():
            source["path"] = str(directory / source["path"])
        settings["task"]["speech_encoder" if name == "frontend" else name] = source["path"]
    task = {**settings["task"], "data": str(directory), "config_yaml": "config.yaml"}
    cfg = OmegaConf.create({"model": settings["model"], "task": task})
    if arg_overrides:
        overwrite_args_by_name(cfg, arg_overrides)
    own = {"speech_encoder": cfg.task.speech_encoder, "llm": cfg.task.llm, "prompt": record.prompt}
    if settings["frontend"] is not None:
        own["frontend"] = settings["frontend"]
    state[RECORD_KEY] = record.to_tensor()
    return {"args": None, "cfg": cfg, "model": state, "task_state": {"lst": own}, "optimizer_history": []}


def _tensors(model: LstModel, module: str) -> dict[str, Tensor]:
    """A module's tensors by their names below ``encoder``."""
    prefixes = {"adapter": ("adapter.", "markers."), "frontend": ("frontend.",)}[module]
    state = model.encoder.state_dict()
    return {name: value.contiguous().clone() for name, value in state.items() if name.startswith(prefixes)}


def _copy(source: Path, directory: Path) -> str:
    """Copy a speech encoder, a directory or a fairseq file, into the export; its path there."""
    if source.is_dir():
        shutil.copytree(source, directory / "frontend")
        return "frontend"
    (directory / "frontend").mkdir()
    shutil.copy(source, directory / "frontend" / source.name)
    return f"frontend/{source.name}"


def _model_card(model: LstModel, record: CheckpointRecord, dtype: str) -> str:
    sources, prompt = model.record.sources, model.record.prompt
    languages = f"{prompt['src_lang']} to {prompt['tgt_lang'] or 'the language that the prompt names'}"
    trained = ", ".join(model.record.held)
    frontend = record.sources["frontend"]
    if "frontend" in record.held:
        where = "trained, in `frontend.safetensors`"
    elif frontend["path"] != sources["frontend"]["path"]:
        where = f"in `{frontend['path']}`"
    else:
        where = f"not included (fingerprint {frontend['fingerprint']})"
    return f"""---
library_name: lst-fairseq
pipeline_tag: automatic-speech-recognition
tags: [speech-translation, lst]
---

# Speech translation, {languages}

A model of [LST](https://arxiv.org/abs/2310.02050): speech encoder, adapter and large language model, trained with
lst-fairseq.

| part | from |
|---|---|
| speech encoder | `{Path(sources["frontend"]["path"]).name}`, {where} |
| adapter | `adapter.safetensors`, {type(model.encoder.adapter).__name__} |
| LLM | `{Path(sources["llm"]["path"]).name}`, in `llm`, {dtype} |

Trained: {trained}. Prompt: `{prompt["template"]}`.

    lst-translate --checkpoint DIRECTORY audio.wav
    fairseq-generate DATA --user-dir $(lst-translate --user-dir) --task lst_st --path DIRECTORY --gen-subset tst-COMMON

The language model alone: `AutoModelForCausalLM.from_pretrained("DIRECTORY/llm")`.

Licence, training data and scores are for its author to add.
"""
