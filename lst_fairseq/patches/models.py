"""What fairseq does with models: importing their files, and counting their parameters."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from fairseq import models, tasks, trainer


def import_no_more_files() -> None:
    """Keep ``--user-dir`` from importing each file of ``lst_fairseq/tasks`` and ``lst_fairseq/models``.

    The plugin has registered its task and model by then, and some files import all of transformers.
    """
    for package, name in ((tasks, "import_tasks"), (models, "import_models")):
        setattr(package, name, _of_others(getattr(package, name)))


def _of_others(import_files: Callable[[str, str], None]) -> Callable[[str, str], None]:
    @functools.wraps(import_files)
    def import_files_of_others(folder: str, namespace: str) -> None:
        if not namespace.startswith("lst_fairseq."):
            import_files(folder, namespace)

    return import_files_of_others


def share_no_missing_parameters() -> None:
    """Let parameters that are None, such as biases that a Linear does without, not pass for one that is shared.

    trainer.py:1591 takes all of them for the same one, and logs a line for each of a large LLM's layers.
    """
    catalog = trainer._catalog_shared_params

    @functools.wraps(catalog)
    def catalog_shared_params(module: torch.nn.Module, memo: Any = None, prefix: str = "") -> list[list[str]] | None:
        found = catalog(module, memo, prefix)
        return found and [paths for paths in found if operator.attrgetter(paths[0])(module) is not None]

    trainer._catalog_shared_params = catalog_shared_params
