"""LST: speech translation with a speech frontend, an adapter and a large language model, as a fairseq plugin.

Imported where fairseq is imported already, which ``--user-dir lst_fairseq`` does, the package
registers the task ``lst_st``, the model ``lst`` with its architectures and the criterion
``lst_cross_entropy``, and applies the few repairs of fairseq listed in ``patches/repairs.py``.
Imported before fairseq it does nothing until :func:`register` is called: this package's own programs check
their arguments in less than a second, and fairseq takes some five to import.

The system: "Tuning Large Language Model for End-to-end Speech Translation" (arXiv 2310.02050).
"""

import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["register"]


def register() -> None:
    """Register task, model and criterion with fairseq and repair it, once however often called.

    Raises:
        ImportError: there is no fairseq that can be used; says what to run.
    """
    from lst_fairseq import plugin

    plugin.register()


def __getattr__(name: str) -> Any:
    """``Translator`` and its options, imported when they are asked for: they import PyTorch and fairseq."""
    if name not in ("DecodingOptions", "Translator"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lst_fairseq.generation import translator

    return getattr(translator, name)


if "fairseq" in sys.modules:
    register()
