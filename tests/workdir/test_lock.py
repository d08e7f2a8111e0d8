"""One writer per folder: who is refused, and what frees a lock."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys

import jax
import pytest
from jax.experimental import multihost_utils

from rrsr_jax.errors import InputError
from rrsr_jax.workdir import lock
from tests.helpers import ROOT

HOLD = """
import pathlib, sys, time
from rrsr_jax.workdir.lock import only_writer
with only_writer(pathlib.Path(sys.argv[1]), "here"):
    print("held", flush=True)
    sys.stdin.read()
"""
# Adds to a number, which comes out wrong if two do it at once.
COUNT = """
import pathlib, sys, time
from rrsr_jax.errors import InputError
from rrsr_jax.workdir.lock import only_writer
number, done = pathlib.Path(sys.argv[1]), 0
while done < 40:
    try:
        with only_writer(number.parent / "new" / ".lock", "here"):
            value = int(number.read_text())
            time.sleep(0.0003)
            number.write_text(str(value + 1))
        done += 1
    except InputError:
        pass
"""


def start(script, *arguments):
    call = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(call, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds `tmp_path/run/.lock`."""
    with start(HOLD, tmp_path / "run" / ".lock") as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_hears_who_the_first_is(holder, tmp_path):
    who = rf"process {holder.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\S+"
    for _ in range(2):
        with (
            pytest.raises(
                InputError, match=rf"^here is in use by {who}, or by one that it started \(-c .*\); wait until"
            ),
            lock.only_writer(tmp_path / "run" / ".lock", "here"),
        ):
            pass
    with lock.only_writer(tmp_path / "other" / ".lock", "there"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_stops_nobody(holder, tmp_path, number):
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with lock.only_writer(tmp_path / "run" / ".lock", "here"):
        assert f'"process": {os.getpid()},' in (tmp_path / "run" / ".lock").read_text()
    assert not (tmp_path / "run" / ".lock").exists()


def test_the_file_of_another_user(holder, tmp_path, monkeypatch):
    """It may be read and not be written, or neither."""
    path, open_file, refused = tmp_path / "run" / ".lock", os.open, [os.O_RDWR]

    def open_as_another(name, flags, *mode):
        if name == path and any(flags & 3 == kind for kind in refused):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return open_file(name, flags, *mode)

    monkeypatch.setattr(os, "open", open_as_another)
    with pytest.raises(InputError, match=f"here is in use by process {holder.pid} on"), lock.only_writer(path, "here"):
        pass
    holder.kill()
    holder.wait()
    with lock.only_writer(path, "here"), pytest.raises(BlockingIOError):
        fcntl.flock(open_file(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    path.touch()
    refused.append(os.O_RDONLY)
    owner = path.owner()
    with (
        pytest.raises(
            InputError, match=rf"^here: {path} is the lock of a command that user {owner} gave, and cannot be"
        ),
        lock.only_writer(path, "here"),
    ):
        pass


def test_a_process_that_inherits_the_file_holds_the_lock(tmp_path):
    path = tmp_path / ".lock"
    with lock.only_writer(path, "here") as file:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(file,))
        other = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child.kill()
    child.wait()
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_what_was_made_for_the_lock_goes(tmp_path):
    with lock.only_writer(tmp_path / "a" / "b" / ".lock", "here"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []

    def fail():
        with lock.only_writer(tmp_path / "a" / "b" / ".lock", "here"):
            (tmp_path / "a" / "result").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "result"]


def test_the_file_of_a_lock_goes_and_no_two_hold_it(tmp_path):
    """Processes that take and free the lock, and its folder, as fast as they can."""
    number = tmp_path / "number"
    number.write_text("0")
    processes = [start(COUNT, number) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert number.read_text() == "160"


def test_a_link_in_the_place_of_the_file(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="here: a writable folder expected"):
        lock.only_writer(tmp_path / "run" / ".lock", "here").__enter__()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.only_writer(tmp_path / ".lock", "here"):
        pass
    assert capsys.readouterr().err == "note: here: this file system has no locks; start no second command there\n"


def test_the_first_process_of_a_job_locks_for_all(holder, tmp_path, monkeypatch):
    """The others wait for what it says, and end as it does."""
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda value: told.append(bool(value)) or told[0])
    with pytest.raises(InputError, match=rf"is in use by process {holder.pid} on"), lock.only_job(tmp_path / "run"):
        pass
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(InputError, match="cannot be used; the first process says why"), lock.only_job(tmp_path / "run"):
        pass
    told[0] = False
    with lock.only_job(tmp_path / "elsewhere"):
        assert not (tmp_path / "elsewhere").exists()
