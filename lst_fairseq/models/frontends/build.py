"""The frontend that ``--speech-encoder`` names: building it, and telling it from another."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lst_fairseq.errors import CheckpointError
from lst_fairseq.models.frontends.base import FRONTENDS, FrontendOptions, SpeechFrontend
from lst_fairseq.models.frontends.fairseq_checkpoint import load_fairseq_frontend
from lst_fairseq.models.frontends.pretrained_frontend import transformers_kinds
from lst_fairseq.models.pretrained import model_config, model_source
from lst_fairseq.models.weight_files import fingerprint
from lst_fairseq.utils.messages import in_words

DEFAULTS = FrontendOptions()


def build_frontend(
    path: str | None, options: FrontendOptions = DEFAULTS, settings: dict[str, Any] | None = None
) -> SpeechFrontend:
    """The frontend for ``--speech-encoder PATH``.

    Args:
        path: a save_pretrained directory, a hub id in the local Hugging Face cache, or a fairseq ``.pt`` file.
        options: how it is used.
        settings: what the frontend's ``settings`` returned once: where nothing lies at ``path`` any more, the frontend
            is built from them with random weights, for a checkpoint to fill.

    Raises:
        ValueError: there is nothing of the kind at ``path``, its model type is unknown (the known ones are listed), its
            weights are incomplete, or the options do not fit it.
    """
    if path and Path(path).expanduser().is_file():
        return load_fairseq_frontend(path, options)
    try:
        directory = model_source(path, "--speech-encoder")
    except ValueError:
        if settings is None or (path and Path(path).expanduser().exists()):
            raise
        return _from_settings(settings, options)
    config = model_config(directory, "--speech-encoder", known=transformers_kinds())
    return FRONTENDS[config.model_type].load(directory, config, options)


def _from_settings(settings: dict[str, Any], options: FrontendOptions) -> SpeechFrontend:
    try:
        return FRONTENDS[settings["kind"]].empty(settings, options)
    except Exception as error:  # transformers and fairseq fail in many ways over settings of wrong types
        raise CheckpointError(
            f"the settings of its speech encoder make no model ({in_words(error)}); copy it again"
        ) from error


def encoder_fingerprint(path: str, options: FrontendOptions) -> str:
    """What a frontend's features depend on: its weights, both of its configurations, and how it is used.

    Args:
        path: a save_pretrained directory, a hub id, or a fairseq checkpoint.
        options: the frontend's options.
    """
    source = model_source(path, "--speech-encoder")
    digest = hashlib.sha256(fingerprint(source).encode())
    for name in ("config.json", "preprocessor_config.json"):
        if (source / name).is_file():
            digest.update((source / name).read_bytes())
    digest.update(json.dumps(asdict(options), sort_keys=True).encode())
    return digest.hexdigest()[:16]
