"""Locks and temporary names: what a process does to others, what it leaves when it is killed."""

import errno
import fcntl
import io
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lst_fairseq.utils import files
from lst_fairseq.utils.files import InUse, Lock, atomic_text, replacing, temporary
from tests.support.forks import ended, fork, outcome


def take(path, then=None):
    Lock(path, "the folder", "wait")
    if then:
        then()


def test_one_process_has_a_lock_until_it_ends_or_lets_go(tmp_path):
    path = tmp_path / ".lock"
    lock = Lock(path, "the folder", "wait")
    assert lock.is_exclusive and lock.is_of(path)
    status, said = outcome(take, path, log=tmp_path / "log")
    assert status == 1
    message = (
        f"InUse: the folder: in use by process {os.getpid()} on {socket.gethostname()} (since "
    )
    assert message in said and said.endswith("); wait\n")
    lock.release()
    lock.release()  # twice is no harm
    assert outcome(take, path, log=tmp_path / "log")[0] == 0


@pytest.mark.parametrize(
    "text", ["process 1 on elsewhere (since 2001-01-01)", "", "\x1b[2J\x00" * 200]
)
def test_a_file_without_a_holder_keeps_nobody_out(tmp_path, text):
    path = tmp_path / ".lock"
    path.write_text(text)
    Lock(path, "the folder", "wait").release()
    assert path.read_text().startswith(f"process {os.getpid()} on ")


def test_what_a_stranger_wrote_into_a_lock_that_is_held_is_shown_as_plain_text(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("\x1b[2Jevil\nmore" + "x" * 1000)
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InUse, match=r"^the folder: in use by \[2Jevil; wait$"):
            Lock(path, "the folder", "wait")
        path.write_text("")
        with pytest.raises(InUse, match="in use by another process; wait"):
            Lock(path, "the folder", "wait")


def test_processes_that_outlive_the_holder_do_not_hold_its_lock(tmp_path):
    """As the workers of a data loader, and programs that it has started."""
    path = tmp_path / ".lock"
    ready, told = os.pipe()

    def leave_children():
        program = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=[]
        )
        worker = fork(signal.pause, log=tmp_path / "worker")
        os.write(told, f"{program.pid} {worker}".encode())
        signal.pause()

    holder = fork(take, path, leave_children, log=tmp_path / "log")
    children = [int(word) for word in os.read(ready, 100).split()]
    try:
        with pytest.raises(InUse):
            Lock(path, "the folder", "wait")
        os.kill(holder, signal.SIGKILL)
        assert ended(holder) == -signal.SIGKILL
        Lock(path, "the folder", "wait").release()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_forked_process_that_ends_leaves_its_parents_lock_alone(tmp_path):
    lock = Lock(tmp_path / ".lock", "the folder", "wait")
    assert outcome(lock.release, log=tmp_path / "log")[0] == 0
    assert "InUse" in outcome(take, tmp_path / ".lock", log=tmp_path / "log")[1]
    lock.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_one_warning(tmp_path, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(files, "_warned", set())
    Lock(tmp_path / ".lock2", "another", "wait").release()
    lock = Lock(tmp_path / ".lock", "the folder", "wait")
    assert not lock.is_exclusive
    (record,) = caplog.records
    assert f"{tmp_path / '.lock2'}: this file system has no file locks" in record.getMessage()
    lock.release()


def test_a_folder_that_is_made_anew_has_another_lock(tmp_path):
    path = tmp_path / "a"
    lock = Lock(path, "the folder", "wait")
    path.unlink()
    assert not lock.is_of(path)
    path.touch()
    assert not lock.is_of(path)
    lock.release()


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    target = tmp_path / "a.npz"
    own = temporary(target)
    start = own.name.removesuffix(f"{os.getpid()}.tmp")
    dead = fork(lambda: None, log=tmp_path / "log")
    ended(dead)
    (tmp_path / "log").unlink()
    left = [tmp_path / f"{start}{dead}.tmp", tmp_path / f"{start}{dead}.tmp.tmp"]
    living = tmp_path / f"{start}{os.getppid()}.tmp"
    elsewhere = tmp_path / f".a.npz.another-machine.{dead}.tmp"
    other = tmp_path / f".b.npz{start.removeprefix('.a.npz')}{dead}.tmp"
    left[1].mkdir()
    (left[1] / "weights").touch()
    for path in (left[0], living, elsewhere, other, own):
        path.touch()
    assert temporary(target) == own
    assert {path.name for path in tmp_path.iterdir()} == {
        p.name for p in (living, elsewhere, other, own)
    }


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as beside:
        beside.write_text("half")
        raise KeyError
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    with replacing(target) as beside:
        beside.write_text("new")
    assert target.read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_errors_of_writing_name_the_file_that_was_wanted(tmp_path):
    target = tmp_path / "a"
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"), replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(FileNotFoundError, match=r"'.*/none/a'$"),
        replacing(tmp_path / "none" / "a") as beside,
    ):
        beside.write_text("x")
    with pytest.raises(OSError, match="something else") as caught, replacing(target):
        raise OSError("something else")
    assert caught.value.filename is None


def test_the_machine_is_told_from_others_of_its_name(monkeypatch):
    files._machine.cache_clear()
    here = files._machine()
    files._machine.cache_clear()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[7]")
    assert files._machine() != here
    files._machine.cache_clear()


def test_names_that_are_no_utf8_can_be_printed_and_written(tmp_path, monkeypatch):
    name = os.fsdecode(b"\xff.tsv")
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="utf-8"))
    files.print_any_name()
    print(name, flush=True)
    assert output.getvalue() == b"\\udcff.tsv\n"
    with atomic_text(tmp_path / "a.json") as file:
        json.dump({"name": name, "text": "ä\u2028"}, file, ensure_ascii=False)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["name"] == name
