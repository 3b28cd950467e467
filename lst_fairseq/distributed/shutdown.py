"""The end of a run: threads, data loaders' workers and process group end before the interpreter.

A thread that still works in C++ code while Python shuts down makes the C++ runtime abort the
process: fairseq's, which reads batches ahead, is one where a run stops in the middle of an epoch.
A run whose last checkpoint was written then ends with SIGABRT, and torchrun calls it failed.

fairseq (distributed/utils.py:362, :404) leaves all of them to the end of the process.
"""

import contextlib
import gc
import logging
import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fairseq.data.iterators import BackgroundConsumer
from fairseq.distributed import utils as distributed_utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lst_fairseq import register
from lst_fairseq.distributed.heartbeat import Watch

logger = logging.getLogger(__name__)

#: Seconds that a thread may take to come to its end.
PATIENCE = 10.0

_call_main = distributed_utils.call_main
_distributed_main = distributed_utils.distributed_main


def install() -> None:
    """Let every command of fairseq leave by :func:`leave`, with one process or several."""
    distributed_utils.call_main = call_main
    distributed_utils.distributed_main = distributed_main


def call_main(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
    """fairseq's, in one process or for one of several that a launcher has started."""
    with left_cleanly():
        _call_main(cfg, main, **kwargs)


def distributed_main(i: int, main: Callable[..., None], cfg: Any, kwargs: dict[str, Any]) -> None:
    """fairseq's, also in a process that it has started, which knows nothing of the plugin yet."""
    register()
    with left_cleanly():
        _distributed_main(i, main, cfg, kwargs)


@contextlib.contextmanager
def left_cleanly() -> Iterator[None]:
    """:func:`leave` at the end, whether the run has ended well or with an error."""
    try:
        yield
    except BaseException:
        leave(failed=True)
        raise
    leave()


def leave(failed: bool = False) -> None:
    """End what a run has started in this process; a second call finds nothing to do.

    Args:
        failed: others may be gone, or wait in an exchange that will not come about: none is begun,
            and NCCL, whose communicators end together, is left to the end of the process.
    """
    try:
        _end_readers()
        for watch in list(Watch.running):
            watch.stop()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and not (failed and torch.distributed.get_backend() == "nccl"):
            torch.distributed.destroy_process_group()
    except Exception as error:  # the run's own error, or its end, is what counts
        logger.warning(f"the run has not left cleanly ({type(error).__name__}: {error})")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _end_readers() -> None:
    """End what reads batches ahead of a run that has stopped in the middle of an epoch."""
    for thread in threading.enumerate():
        if isinstance(thread, BackgroundConsumer):
            _end_consumer(thread)
    if not multiprocessing.active_children():
        return
    for each in gc.get_objects():
        if type(each) is _MultiProcessingDataLoaderIter:
            each._shutdown_workers()


def _end_consumer(thread: BackgroundConsumer) -> None:
    """Let it stop at its next batch, and make room for that one."""
    thread._max_len = 0
    for _ in range(int(PATIENCE / 0.1)):
        with contextlib.suppress(queue.Empty):
            while True:
                thread._queue.get_nowait()
        thread.join(0.1)
        if not thread.is_alive():
            return
