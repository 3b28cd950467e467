"""Adapters: from the frontend's features to the LLM's embedding space. One file and one decorator each."""

import importlib
import pkgutil

from lst_fairseq.models.adapters.base import (
    ADAPTERS,
    NORMS,
    SpeechAdapter,
    build_adapter,
    register_adapter,
)
from lst_fairseq.models.adapters.projection import ProjectedAdapter

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "ADAPTERS",
    "NORMS",
    "ProjectedAdapter",
    "SpeechAdapter",
    "build_adapter",
    "register_adapter",
]
