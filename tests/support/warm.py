"""Commands that start warm: a shell script's ``fairseq-train`` is a fork of a process that has
imported everything.

:func:`commands` starts that process and makes a folder of commands for PATH, each a client that hands
its arguments, folder, environment and the files that it has open over and waits. A client that is
killed takes its fork along.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.support.forks import _status_of

CLIENT = """\
#!{python} -S
import json, os, socket, sys
with os.scandir("/proc/self/fd") as opened:
    numbers = sorted(int(entry.name) for entry in opened)
numbers = [n for n in numbers if os.path.exists(f"/proc/self/fd/{{n}}") and os.get_inheritable(n)]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
task = json.dumps(["{name}", sys.argv[1:], os.getcwd(), dict(os.environ), numbers]).encode()
socket.send_fds(server, [len(task).to_bytes(8, "big")], numbers)
server.sendall(task)
status = server.recv(1)
sys.exit(status[0] if status else 1)
"""


def _run(client: socket.socket, programs: Mapping[str, Callable[[], object]]) -> None:
    """In a process of its own: run what a client asks for, for as long as the client lives."""
    length, descriptors, _, _ = socket.recv_fds(client, 8, 64)
    task = b""
    while len(task) < int.from_bytes(length, "big"):
        task += client.recv(1 << 20)
    name, arguments, folder, environment, numbers = json.loads(task)
    worker = os.fork()
    if not worker:
        client.close()
        # First out of the way of each other's numbers.
        descriptors = [fcntl.fcntl(theirs, fcntl.F_DUPFD, 128) for theirs in descriptors]
        os.closerange(3, 128)
        for own, theirs in zip(numbers, descriptors, strict=True):
            os.dup2(theirs, own)
            os.close(theirs)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [name, *arguments]
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        status = _status_of(programs[name])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    for descriptor in descriptors:
        os.close(descriptor)
    died = os.pidfd_open(worker)
    ready, _, _ = select.select([died, client], [], [])
    if died not in ready:
        os.kill(worker, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(OSError):
        client.send(bytes([status if status >= 0 else 128 - status]))


def _serve(
    listener: socket.socket, programs: Mapping[str, Callable[[], object]], alive: int
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, alive], [], [])
        if alive in ready:  # nobody holds the other end any more
            os._exit(0)
        client, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run(client, programs)
            os._exit(0)
        client.close()


@contextlib.contextmanager
def commands(folder: Path, programs: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Make FOLDER/NAME for each program, which calls it without arguments, as ``sys.argv`` has
    them.

    The calling process must have imported what the programs need, and must never have trained.
    """
    address = str(folder / ".socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    alive, held = os.pipe()
    server = os.fork()
    if not server:
        os.close(held)
        _serve(listener, programs, alive)
    for name in programs:
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address, name=name))
        (folder / name).chmod(0o755)
    listener.close()
    os.close(alive)
    try:
        yield
    finally:
        os.close(held)
        os.waitpid(server, 0)
