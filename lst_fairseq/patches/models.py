"""What fairseq does with models when it imports them and counts their parameters."""

import functools
import operator
from typing import Any

import torch
from fairseq import models, trainer


def import_no_more_models() -> None:
    """Keep ``--user-dir`` from importing each file of ``lst_fairseq/models`` (utils.py:503).

    The plugin has registered its model by then, and some of them import all of transformers.
    """
    import_models = models.import_models

    @functools.wraps(import_models)
    def import_models_of_others(models_dir: str, namespace: str) -> None:
        if namespace != "lst_fairseq.models":
            import_models(models_dir, namespace)

    models.import_models = import_models_of_others


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
