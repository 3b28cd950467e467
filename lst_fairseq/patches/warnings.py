"""Warnings of libraries about libraries, which nobody who trains or translates can act upon.

fairseq composes its settings by hydra 1.0's interface, of which hydra 1.3 warns at six places
before the first line of a run's own log. What is kept quiet is named by its words, and by its
module where it has one of its own. Filters come after those that are there: ``python -W default``
and PYTHONWARNINGS show everything again.
"""

import logging
import warnings

#: (words that a message begins with, category, module that it is of)
NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    # hydra, of fairseq/dataclass/utils.py:397; warned of in the name of who called fairseq.
    (
        r"hydra\.experimental\.(initialize|compose)\(\) is no longer experimental",
        UserWarning,
        r"hydra\.",
    ),
    (r"\s*The version_base parameter is not specified", UserWarning, r"hydra\."),
    (r"In 'config': Usage of deprecated keyword in package header", UserWarning, r"hydra\."),
    (r"\s*'config' is validated against ConfigStore schema with the same name", UserWarning, ""),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning, r"hydra\."),
    # PyTorch, of fairseq's data loaders on a machine without a GPU, and of its use of AMP.
    (
        r"'pin_memory' argument is set as true but no accelerator is found",
        UserWarning,
        r"torch\.utils\.data\.",
    ),
    (
        r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated",
        FutureWarning,
        r"fairseq\.",
    ),
    # transformers, of a name that serves until its version 6.
    (r"`gradient_checkpointing_enable` is deprecated", FutureWarning, r"transformers\."),
)

#: Loggers that say at INFO, or at DEBUG where some task of fairseq has set the log up so, what
#: concerns themselves.
LOGGERS = {"hydra.core.utils": logging.INFO, "fairseq.tasks.text_to_speech": logging.WARNING}


def keep_quiet() -> None:
    """Install the filters; a second call changes nothing."""
    for message, category, module in NOISE:
        warnings.filterwarnings("ignore", message, category, module, append=True)
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
