"""fairseq-train comes here for the task lst_st when it builds a model and a trainer, and starts processes."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, wraps
from typing import Any

import torch
from fairseq.distributed import fully_sharded_data_parallel
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from torch import nn

from lst_fairseq.distributed import shutdown, startup_check
from lst_fairseq.models.lst import LstModel
from lst_fairseq.tasks.lst_st import LstTask

BACKEND = "fully_sharded"


@cache
def install() -> None:
    """Put the engine behind fairseq's flag, once in a process; other tasks keep fairseq's own."""
    enable_wrap, wrap = fully_sharded_data_parallel.fsdp_enable_wrap, fully_sharded_data_parallel.fsdp_wrap

    @contextmanager
    def fsdp_enable_wrap(cfg: Any) -> Iterator[None]:
        """Build without weights (fairseq_cli/train.py:93); without fairscale, the trainer says that it is missing."""
        from lst_fairseq.models.llm.meta_device import deferred_weights

        with ExitStack() as stack:
            with suppress(ImportError):
                stack.enter_context(enable_wrap(cfg))
            stack.enter_context(deferred_weights())
            yield

    def fsdp_wrap(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return module if isinstance(module, LstModel) else wrap(module, *args, **kwargs)

    # fairseq_cli.train, which may also run as __main__, holds both functions under their names.
    for module in list(sys.modules.values()):
        for original, replacement in ((enable_wrap, fsdp_enable_wrap), (wrap, fsdp_wrap)):
            if getattr(module, original.__name__, None) is original:
                setattr(module, original.__name__, replacement)

    def new(cls: type, cfg: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        sharded = cls is Trainer and isinstance(task, LstTask) and cfg.distributed_training.ddp_backend == BACKEND
        if not sharded:
            return object.__new__(cls)
        from lst_fairseq.distributed.trainer import ShardedTrainer

        return object.__new__(ShardedTrainer)

    Trainer.__new__ = new

    start = distributed_utils.distributed_init

    @wraps(start)
    def distributed_init(cfg: Any) -> int:
        sharded = getattr(cfg.task, "_name", "") == "lst_st" and cfg.distributed_training.ddp_backend == BACKEND
        with warnings.catch_warnings():
            if sharded and not torch.distributed.is_initialized():
                startup_check.join(cfg)
                warnings.filterwarnings("ignore", "Distributed is already initialized")
            return start(cfg)

    distributed_utils.distributed_init = distributed_init
    shutdown.install()
