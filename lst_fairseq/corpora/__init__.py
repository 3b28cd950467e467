"""Corpora on disk, and what is done with their manifests. A further corpus is a file here, see ``base.Corpus``."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lst_fairseq.corpora.base import Corpus


def corpora() -> "dict[str, type[Corpus]]":
    """Every corpus by its name, as the files of this folder register them."""
    from lst_fairseq.corpora.base import CORPORA

    for file in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{file.name}")
    return dict(sorted(CORPORA.items()))
