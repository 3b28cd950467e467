"""Which process is gone? Each shows a sign of life now and then, and looks at those of the others.

Where a process dies in mid-step, the others only see a broken or a silent connection. The watch finds out whose signs
have stopped, says so, and ends processes that wait for the lost one in a call that nothing interrupts.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch.distributed import TCPStore

from lst_fairseq.distributed.collectives import gathered
from lst_fairseq.utils.messages import one_line

logger = logging.getLogger(__name__)

#: Signs of life in the time after which a silent process is taken for lost.
SIGNS = 6
LOST = "lost"


class LostProcess(RuntimeError):
    """Another process of the run is gone; the message names it."""


class Watch:
    """A thread that shows this process's signs of life and looks for the others'.

    Args:
        timeout: seconds of silence after which a process is taken for lost.
        host: name under which the first process can be reached.
    """

    #: Those of this process that have not been stopped.
    running: ClassVar[list["Watch"]] = []

    def __init__(self, timeout: float, host: str | None = None):
        self.timeout = timeout
        self.rank = torch.distributed.get_rank()
        self.names = gathered(f"rank {self.rank} ({socket.gethostname()}, process {os.getpid()})")
        hosts = {name.split("(")[1].split(",")[0] for name in self.names}
        address = "localhost" if len(hosts) == 1 else host or socket.gethostname()
        patience = timedelta(seconds=timeout)
        self.store: TCPStore | None = None
        if self.rank == 0:
            self.store = TCPStore(address, 0, None, True, patience, wait_for_workers=False)
        (address, port) = gathered((address, self.store.port if self.store else 0))[0]
        if self.store is None:
            self.store = TCPStore(address, port, None, False, patience, wait_for_workers=False)
        self.message = ""
        self.found = threading.Event()
        self.stopped = threading.Event()
        self.working = False
        self.explaining = False
        self.thread = threading.Thread(target=self._run, name="lst-watch", daemon=True)
        self.thread.start()
        self.running.append(self)

    def _run(self) -> None:
        interval = self.timeout / SIGNS
        seen: dict[int, tuple[bytes, float]] = {}
        count = 0
        while not self.stopped.wait(interval):
            count += 1
            try:
                self.store.set(f"alive_{self.rank}", str(count))
                # Between steps nothing waits for the others, and at the end of a run they go one after the other.
                if self.working and self.store.check([LOST]):
                    self.message = self.store.get(LOST).decode()
                elif message := self._silent(seen):
                    self.store.set(LOST, message)
                    self.message = message
            except Exception:  # the store is the first process's
                if self.working:
                    self.message = f"{self.names[0]} is gone: it no longer answers"
            if self.message:
                break
        if self.message and not self.stopped.is_set():
            self.found.set()
            # The main thread raises the message if it can; it cannot while it waits for the lost process.
            time.sleep(2 * interval)
            if not self.explaining and not self.stopped.is_set():
                print(f"error: {advice(self.message)}", file=sys.stderr, flush=True)
                os._exit(1)

    def _silent(self, seen: dict[int, tuple[bytes, float]]) -> str:
        """The message on a process whose sign of life has not changed for too long, or nothing."""
        now = time.monotonic()
        for other in range(len(self.names)):
            if other == self.rank:
                continue
            sign = self.store.get(f"alive_{other}") if self.store.check([f"alive_{other}"]) else b""
            if other not in seen or seen[other][0] != sign:
                seen[other] = (sign, now)
            elif self.working and now - seen[other][1] > self.timeout:
                return f"{self.names[other]} is gone: no sign of life for {self.timeout:g} s"
        return ""

    def tell(self, error: BaseException) -> None:
        """Let the others know why this process stops."""
        self.stopped.set()
        if not self.message:
            reason = one_line(f"{type(error).__name__}: {error}")
            try:
                self.store.set(LOST, f"{self.names[self.rank]} has stopped: {reason}")
            except Exception:
                logger.debug("the other processes cannot be told")
            if self.rank == 0:  # which holds the message for the others
                time.sleep(2 * self.timeout / SIGNS)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an exchange that fails because another process is gone into a :class:`LostProcess` that names it."""
        self.working = True
        try:
            yield
        except Exception as error:
            if not is_broken_connection(error):
                self.tell(error)
                raise
            self.explaining = True
            self.found.wait(3 * self.timeout)
            if not self.message:
                self.explaining = False
                raise
            time.sleep(2 * self.timeout / SIGNS)  # the others have to read it too, perhaps from this process
            raise LostProcess(advice(self.message)) from error
        finally:
            self.working = False

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()
        if self in self.running:
            self.running.remove(self)


def is_broken_connection(error: BaseException) -> bool:
    """Whether an error is one of the exchange between processes, rather than of this process's own work."""
    text = str(error).lower()
    marks = ("connection", "gloo", "nccl", "timed out", "socket", "recv", "broken pipe")
    return isinstance(error, RuntimeError | OSError) and any(mark in text for mark in marks)


def advice(message: str) -> str:
    return f"{message}. Run the same command again: training goes on from the last checkpoint"


def host_of(settings: Any) -> str | None:
    """Where the first process runs, as fairseq's settings or the launcher's environment name it."""
    method = settings.distributed_init_method or ""
    if method.startswith("tcp://"):
        return method.removeprefix("tcp://").rsplit(":", 1)[0]
    return os.environ.get("MASTER_ADDR")
