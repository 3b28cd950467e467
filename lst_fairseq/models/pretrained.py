"""Pretrained parts on disk: finding and loading them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst_fairseq.models.config_checks import check_config
from lst_fairseq.models.foreign_code import check_adapter, foreign_attention
from lst_fairseq.models.weight_files import check_weights, stored_sizes, weight_files
from lst_fairseq.utils.messages import in_words, one_line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: ``--attn-implementation``.
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")

#: Of an error that is about the attention implementation.
ATTENTION = re.compile("attention|attn", re.IGNORECASE)

#: How transformers opens any directory: nothing is downloaded, and no Python in it is run, or asked about.
LOCAL = {"local_files_only": True, "trust_remote_code": False}

#: ORG/NAME of the Hugging Face hub.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_directory(path: str | None, flag: str) -> Path:
    """The directory a flag names, as ``save_pretrained`` writes it, or that of a hub id in the local cache.

    Args:
        path: a directory, or ORG/NAME of a model that ``hf download`` has put into the Hugging Face cache.
        flag: for messages.

    Raises:
        ValueError: nothing was given, it is no directory and not in the cache, or it holds no config.json, no
            weights, or an adapter of peft's; the message names the flag, the path and the remedy.
    """
    if not path:
        raise ValueError(f"{flag} is not set: give the directory of a pretrained model (as save_pretrained writes it)")
    directory = Path(path).expanduser()
    if not directory.exists() and HUB_ID.fullmatch(path):
        directory = _cached_model(path, flag)
    if not directory.is_dir():
        raise ValueError(f"{flag} {path}: no such directory; download the model first and give its local path")
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:8]) or "nothing"
        raise ValueError(f"{flag} {path}: no config.json there (found: {found}); give a save_pretrained directory")
    if not weight_files(directory):
        raise ValueError(f"{flag} {path}: no weights there (*.safetensors or pytorch_model*.bin)")
    check_adapter(directory, flag)
    return directory


def model_source(path: str | None, flag: str) -> Path:
    """What holds a model's weights: a single file as fairseq writes it, or else :func:`model_directory`."""
    if path and Path(path).expanduser().is_file():
        return Path(path).expanduser()
    if path and path.endswith(".pt") and not Path(path).expanduser().exists():
        raise ValueError(f"{flag} {path}: no such file; give a fairseq checkpoint or a model's directory")
    return model_directory(path, flag)


def check_moved(speech_encoder: str | None, llm: str | None) -> None:
    """Raise a ValueError if a part is not where it is said to lie now; None: nothing is said."""
    if speech_encoder is not None:
        model_source(speech_encoder, "--speech-encoder")
    if llm is not None:
        model_directory(llm, "--llm")


def ctc_source(path: str | None, dictionary: Path | None) -> tuple[Path, Path | None]:
    """What holds a model with a CTC head, and for a file of fairseq's the dictionary of its labels.

    Raises:
        ValueError: one of them is not there, or a directory was given a dictionary.
    """
    source = model_source(path, "--speech-encoder")
    if source.is_file():
        dictionary = dictionary or source.with_name("dict.ltr.txt")
        if not dictionary.is_file():
            raise ValueError(
                f"{dictionary}: no such file; --dict names the dictionary that the checkpoint was fine-tuned with "
                "(dict.ltr.txt)"
            )
    elif dictionary is not None:
        raise ValueError(f"--dict {dictionary}: is for fairseq files; {path} is a directory, which has a tokenizer")
    return source, dictionary


def _cached_model(hub_id: str, flag: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (OSError, HFValidationError) as error:  # the hub's LocalEntryNotFoundError is an OSError
        raise ValueError(
            f"{flag} {hub_id}: no such directory, and no model of that name in the local Hugging Face cache; models "
            f"are never downloaded while training starts: run `hf download {hub_id}` first, or give a directory"
        ) from error


def model_config(directory: Path, flag: str, known: Collection[str] = ()) -> PretrainedConfig:
    """The configuration of a model directory.

    Raises:
        ValueError: config.json cannot be read, asks for far more than the weights hold or for attention that is not
            transformers' own, or its model type is none of the ``known`` ones (if any are given); the message names
            the flag, the directory and the known types.
    """
    from transformers import AutoConfig, PretrainedConfig

    check_config(directory, flag, stored_sizes(directory))
    try:
        settings = PretrainedConfig.get_config_dict(directory, local_files_only=True)[0]
        model_type, attention = settings.get("model_type"), foreign_attention(settings)
        if not attention and (not known or model_type in known):
            return AutoConfig.from_pretrained(directory, **LOCAL)
    except Exception as error:  # the checks of transformers' configurations raise what they like
        refuse_own_code(directory, flag, error)
        raise ValueError(
            f"{flag} {directory}: transformers cannot read its config.json: {in_words(error)}; copy it again"
        ) from error
    if attention:
        raise ValueError(
            f"{flag} {directory}: its config.json asks for the attention {attention!r}, which is none of transformers' "
            "own and could be a program of the hub; remove attn_implementation from config.json"
        )
    raise ValueError(
        f"{flag} {directory}: model type {model_type!r} is not one that serves here; known: {', '.join(known)}"
    )


def load_tokenizer(directory: Path, flag: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory.

    Raises:
        ValueError: it needs Python code of its own; or what transformers raises over a missing or damaged one.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, **LOCAL)
    except ValueError as error:
        refuse_own_code(directory, flag, error)
        raise


def refuse_own_code(directory: Path, flag: str, error: Exception) -> None:
    """Say in one line that a directory needs its own Python code, if that is what transformers' error is about.

    Raises:
        OwnCodeError: that is so.
    """
    if "trust_remote_code" in str(error):
        raise OwnCodeError(
            f"{flag}{' ' * bool(flag)}{directory}: needs Python code of its own (auto_map in its JSON files), which "
            "is never run; give a model of a type that transformers knows by itself"
        ) from None


class OwnCodeError(ValueError):
    """A directory whose model works only with Python code that comes with it."""


def load_pretrained(
    cls: Any,
    directory: Path,
    config: PretrainedConfig,
    unused: tuple[str, ...] = (),
    *,
    dtype: torch.dtype | str = "float32",
    attn_implementation: str | None = None,
    key_mapping: dict[str, str] | None = None,
) -> PreTrainedModel:
    """Load a directory's weights, all that the class has or none at all.

    Args:
        cls: the transformers class, or auto class.
        directory: as :func:`model_directory` found it.
        config: its configuration.
        unused: names (endings) of parameters that the plugin never uses and that may be missing.
        dtype: data type of the parameters; ``auto`` for the one they are stored in.
        attn_implementation: one of ``ATTENTIONS``; None leaves the choice to transformers.
        key_mapping: regular expressions in the file's keys and what replaces them, where the class is a part of the
            model that was saved.

    Raises:
        ValueError: a weight file is truncated or unreadable, or parameters are missing or of another shape, listed;
            or the attention implementation is unknown or cannot be had.
    """
    settings: dict[str, Any] = {"key_mapping": key_mapping} if key_mapping else {}
    if attn_implementation is not None:
        check_attention(attn_implementation, directory)
        settings["attn_implementation"] = attn_implementation
    check_weights(directory)
    try:
        with without_load_report():
            model, info = cls.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                **LOCAL,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_loaded lists them; transformers' own error does not
                **settings,
            )
    except Exception as error:  # a damaged configuration or file fails anywhere in transformers
        refuse_own_code(directory, "", error)
        attention = isinstance(error, ImportError | ValueError) and ATTENTION.search(str(error))
        if attn_implementation is not None and attention:
            raise ValueError(_attention_message(attn_implementation, directory, str(error))) from error
        raise ValueError(
            f"{directory}: the weights cannot be loaded ({in_words(error)}); copy the model again, its config.json too"
        ) from error
    check_loaded(info, directory, unused)
    return model


def check_attention(attn_implementation: str, directory: Path) -> None:
    """Raise a ValueError that lists the choices if the attention implementation is unknown or not installed."""
    if attn_implementation not in ATTENTIONS:
        raise ValueError(_attention_message(attn_implementation, directory, "unknown"))
    from transformers.utils import is_flash_attn_2_available

    if attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        reason = "needs a CUDA device and the package flash-attn (`pip install flash-attn --no-build-isolation`)"
        raise ValueError(_attention_message(attn_implementation, directory, reason))


def _attention_message(attn_implementation: str, directory: Path, reason: str) -> str:
    reason = one_line(reason)
    choices = ", ".join(ATTENTIONS)
    return f"--attn-implementation {attn_implementation} for {directory}: {reason}; choices: {choices}"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of a tokenizer's vocabulary."""
    vocabulary: dict[str, Any] = tokenizer.get_vocab()
    text = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep transformers from reporting dropped heads as unexpected; :func:`check_loaded` reports what matters.

    Its progress bar stays where someone watches it, and not in a log.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    hides_bar = logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if hides_bar:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hides_bar:
            logging.enable_progress_bar()


def check_loaded(info: dict[str, Any], directory: Path, unused: tuple[str, ...] = ()) -> None:
    """Turn a partial load into an error that lists the keys.

    Args:
        info: what ``from_pretrained(..., output_loading_info=True)`` reports.
        unused: names (endings) of parameters that the plugin never uses and that may be missing.
    """
    missing = [key for key in info["missing_keys"] if not key.endswith(unused)] if unused else info["missing_keys"]
    mismatched = info.get("mismatched_keys") or []
    problems = [f"missing {sorted(missing)}"] if missing else []
    problems += [f"of another shape {sorted(map(str, mismatched))}"] if mismatched else []
    if problems:
        raise ValueError(f"{directory}: the weights do not fit config.json: {'; '.join(problems)}; copy both again")
