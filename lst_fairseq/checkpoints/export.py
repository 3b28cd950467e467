"""A trained model as a directory of plain files, for transformers, for the hub, and for this plugin to load back.

    OUT/llm/                  the LLM, low-rank updates merged, with its tokenizer: AutoModelForCausalLM reads it
    OUT/adapter.safetensors   adapter and speech markers
    OUT/frontend.safetensors  the speech encoder, if it was trained
    OUT/frontend/             the speech encoder as it was downloaded, if asked for
    OUT/lst.json              settings, prompt, where the speech encoder comes from, and the files' checksums
    OUT/README.md             model card

`fairseq-generate --path OUT` and `lst-translate --checkpoint OUT` take the directory as they take a checkpoint.
"""

import json
import re
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

from lst_fairseq import register
from lst_fairseq.checkpoints.loading import load_own
from lst_fairseq.checkpoints.settings import as_data, check, check_record, check_task_state
from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.llm.lora import merge_lora
from lst_fairseq.models.lst import LstModel
from lst_fairseq.models.trained_parts import RECORD_KEY, CheckpointRecord
from lst_fairseq.models.weight_files import fingerprint, weight_files
from lst_fairseq.utils.checkpoint_files import (
    EXPORTED_DTYPES,
    SETTINGS_FILE,
    check_absent,
    check_checkpoint,
    not_exported,
)
from lst_fairseq.utils.checksums import Checksum, differences, parse_checksums, read_model_json
from lst_fairseq.utils.files import making
from lst_fairseq.utils.markdown import code_span
from lst_fairseq.utils.messages import one_line

FORMAT = 1
#: File of each module that is stored as it is, and where the module lies in the model.
TENSOR_FILES = {"adapter": "adapter.safetensors", "frontend": "frontend.safetensors"}
#: Files that may be changed by hand: they say nothing of what the model computes, or are checked otherwise.
FREE_FILES = {SETTINGS_FILE, "README.md", "generation_config.json", ".gitattributes"}
AGAIN = "export the checkpoint again"


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
        dtype: type of the LLM's weights, one of ``EXPORTED_DTYPES``; the others keep theirs.
        with_frontend: copy the speech encoder too, so that nothing outside the directory is needed.
        speech_encoder, llm: where they lie now, if not where the checkpoint says.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` is there already.
        CheckpointError, ValueError: the checkpoint cannot be loaded, or ``out`` not written.
    """
    out = Path(out)
    check_absent(out)
    if dtype not in EXPORTED_DTYPES:
        raise ValueError(f"--dtype {dtype}: unknown; known: {', '.join(EXPORTED_DTYPES)}")
    check_checkpoint(checkpoint)
    register()
    state = load_own(checkpoint)
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
        reason = one_line(error, None)
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
    settings["files"] = {name: entry.as_dict() for name, entry in _checksums(partial).items()}
    (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(_model_card(model, record, dtype), encoding="utf-8")


def read_export(directory: str | Path, arg_overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """An exported directory as the state of a fairseq checkpoint.

    Raises:
        CheckpointError: a file is missing or cannot be read, named.
    """
    directory = Path(directory)
    settings = _read_settings(directory)
    record = settings["record"]
    state: dict[str, Any] = {}
    for file in (directory / TENSOR_FILES[module] for module in record.held):
        try:
            state |= {f"encoder.{name}": value for name, value in load_file(file).items()}
        except FileNotFoundError as error:
            raise not_exported(directory, error) from None
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: damaged ({error}); {AGAIN}") from None
    for name, source in record.sources.items():
        if (directory / source["path"]).exists():
            source["path"] = str(directory / source["path"])
        settings["task"]["speech_encoder" if name == "frontend" else name] = source["path"]
    task = {**settings["task"], "data": str(directory), "config_yaml": "config.yaml"}
    said = {"cfg": {"model": settings["model"], "task": task}, "model": state}
    said = as_data(str(directory / SETTINGS_FILE), said)
    check(str(directory / SETTINGS_FILE), said)
    cfg = OmegaConf.create(said["cfg"])
    if arg_overrides:
        overwrite_args_by_name(cfg, arg_overrides)
    own = {"speech_encoder": cfg.task.speech_encoder, "llm": cfg.task.llm, "prompt": record.prompt}
    if settings["frontend"] is not None:
        own["frontend"] = settings["frontend"]
    check_task_state(str(directory / SETTINGS_FILE), {"lst": own})
    state[RECORD_KEY] = record.to_tensor()
    return {"args": None, "cfg": cfg, "model": state, "task_state": {"lst": own}, "optimizer_history": []}


def _read_settings(directory: Path) -> dict[str, Any]:
    """Content of lst.json, its ``record`` parsed, after a comparison of the directory's files with its table."""
    path = directory / SETTINGS_FILE
    try:
        settings = read_model_json(path)
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: a {type(settings).__name__} and not an object")
        if settings.get("format") != FORMAT:
            raise CheckpointError(
                f"{directory}: format {settings.get('format')!r} is not this version's {FORMAT}; update lst_fairseq"
            )
        for name, kinds in {"record": dict, "model": dict, "task": dict, "frontend": dict | None}.items():
            if name not in settings or not isinstance(settings[name], kinds):
                raise ValueError(f"{path}: `{name}` is missing, or is no object")
        settings["record"] = check_record(str(path), CheckpointRecord.parse(settings["record"]))
        if odd := set(settings["record"].held) - TENSOR_FILES.keys():
            raise ValueError(f"{path}: `record.held` names {', '.join(odd)}; valid are {', '.join(TENSOR_FILES)}")
        checksums = parse_checksums(settings.pop("files", {}))
    except OSError as error:
        raise not_exported(directory, error) from None
    except CheckpointError as error:
        raise error if str(error).startswith(str(directory)) else CheckpointError(f"{path}: {error}") from None
    except ValueError as error:
        where = "" if str(error).startswith(str(path)) else f"{path}: `files`: "
        raise CheckpointError(f"{where}{error}: damaged; {AGAIN}") from None
    _check_files(directory, checksums)
    return settings


def _check_files(directory: Path, checksums: dict[str, Checksum]) -> None:
    """Compare a directory's files with their checksums; ``llm`` and ``frontend`` may have been left out as a whole.

    Raises:
        CheckpointError: a file differs or is missing, or there are weights that the table does not name.
    """
    if not checksums:  # of an older version
        return
    left_out = {part for part in ("llm", "frontend") if not (directory / part).exists()}
    faults = differences(directory, {name: c for name, c in checksums.items() if name.split("/")[0] not in left_out})
    faults += [
        f"{file}: weights that {SETTINGS_FILE} does not name"
        for part in ("llm", "frontend")
        for file in weight_files(directory / part)
        if file.relative_to(directory).as_posix() not in checksums
    ]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{directory}: damaged, or not all of it ({faults[0]}{more}); {AGAIN}, or copy it again; "
            f"if the change is meant, remove the file's entry from `files` in {SETTINGS_FILE}"
        )


def _checksums(directory: Path) -> dict[str, Checksum]:
    """Of all files of a directory that decide what the model computes, by their paths within it."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in FREE_FILES)
    return {path.relative_to(directory).as_posix(): Checksum.of(path, with_sha256=True) for path in files}


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


def _language(code: str) -> str:
    return code if re.fullmatch(r"[\w-]+", code) else code_span(code)


def _model_card(model: LstModel, record: CheckpointRecord, dtype: str) -> str:
    sources, prompt = model.record.sources, model.record.prompt
    codes = {name: _language(prompt[name]) for name in ("src_lang", "tgt_lang") if prompt[name]}
    languages = f"{codes['src_lang']} to {codes.get('tgt_lang', 'the language that the prompt names')}"
    names = {module: code_span(Path(source["path"]).name, in_table=True) for module, source in sources.items()}
    trained = ", ".join(model.record.held)
    frontend = record.sources["frontend"]
    if "frontend" in record.held:
        where = "trained, in `frontend.safetensors`"
    elif frontend["path"] != sources["frontend"]["path"]:
        where = f"in {code_span(frontend['path'], in_table=True)}"
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
| speech encoder | {names["frontend"]}, {where} |
| adapter | `adapter.safetensors`, {type(model.encoder.adapter).__name__} |
| LLM | {names["llm"]}, in `llm`, {dtype} |

Trained: {trained}. Prompt: {code_span(prompt["template"])}.

    lst-translate --checkpoint DIRECTORY audio.wav
    fairseq-generate DATA --user-dir $(lst-translate --user-dir) --task lst_st --path DIRECTORY --gen-subset tst-COMMON

The language model alone: `AutoModelForCausalLM.from_pretrained("DIRECTORY/llm")`.

Licence, training data and scores are for its author to add.
"""
