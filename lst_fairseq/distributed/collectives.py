"""What processes must agree on, said in one line where they do not."""

from collections.abc import Callable
from typing import Any

import torch

from lst_fairseq.errors import CheckpointError


def gathered(value: Any) -> list[Any]:
    """Everyone's value, in the order of ranks; all processes have to call."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def check_same(value: Any, what: str, remedy: str) -> None:
    """Raise a RuntimeError in all processes, with the ranks of each group, unless all have the same value.

    Args:
        value: this process's; its text is compared and shown.
        what: what it is.
        remedy: what to do.
    """
    texts = [str(text) for text in gathered(str(value))]
    if len(set(texts)) > 1:
        groups = {text: [rank for rank, other in enumerate(texts) if other == text] for text in dict.fromkeys(texts)}
        said = "; ".join(f"{ranks_in_words(ranks)}: {text}" for text, ranks in groups.items())
        raise RuntimeError(f"the processes disagree on {what} ({said}): {remedy}")


def ranks_in_words(ranks: list[int]) -> str:
    """``ranks 0, 2, 3``."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def first_decides(function: Callable[[], Any]) -> Any:
    """The result of a function that the first process alone calls; its error is raised in all of them.

    Raises:
        CheckpointError: the function failed.
    """
    message: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            message[0] = function()
        except CheckpointError as error:
            message[1] = str(error)
        except Exception as error:
            message[1] = f"{type(error).__name__}: {error}"
    torch.distributed.broadcast_object_list(message)
    if message[1] is not None:
        raise CheckpointError(message[1])
    return message[0]
