"""One writer per folder: a lock that the kernel releases when its process ends, in whatever way."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import shlex
import socket
import sys
from collections.abc import Iterator

from rrsr_jax.errors import InputError

NAME = ".lock"  # of the file, in a folder that is written to
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system


def beside(path: pathlib.Path) -> pathlib.Path:
    """Where the lock of a file, or of a folder that is written as a whole, lies: in the same folder as that."""
    path = path.absolute()
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def only_writer(path: pathlib.Path, what: str) -> Iterator[int]:
    """While active, no other process holds the lock at `path`: none of this machine and, on NFS, none of another one.

    The file tells who holds the lock. At the end it goes, with the folders that were made for it and are empty. After a kill it
    stays and stops nobody: the lock is the kernel's. On a file system without locks there is only a note.

    Args:
      path: of the file.
      what: is written, as users name it: `--workdir=runs/demo`.

    Yields:
      The open file's descriptor. A process that inherits it holds the lock, too.

    Raises:
      InputError: another process holds the lock (says which one, where, and since when), or the file cannot be written.
    """
    missing = [parent for parent in path.parents if not os.path.lexists(parent)]  # innermost first
    try:
        file = _locked(path, what)
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone, or can no longer be written to
                path.unlink()
            os.close(file)
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


@contextlib.contextmanager
def only_job(workdir: pathlib.Path) -> Iterator[None]:
    """`only_writer` of a workdir, for all processes of a job: the first one takes the lock, and tells the others."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    with contextlib.ExitStack() as stack:
        refused = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(only_writer(workdir / NAME, f"--workdir={workdir}"))
            except InputError as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.array(refused is not None)):
            refused = refused or InputError(f"--workdir={workdir} cannot be used; the first process says why")
        if refused:
            raise refused
        yield


def _locked(path: pathlib.Path, what: str) -> int:
    """The descriptor of the open file, with the lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _open(path)
        except FileNotFoundError:  # the folder went in between
            continue
        except PermissionError as error:
            if not os.path.lexists(path):
                raise InputError(f"{what}: a writable folder expected ({error})") from error
            raise InputError(
                f"{what}: {path} is the lock of a command that user {_owner(path)} gave, and cannot be opened; "
                "that user can go on there, or name another folder"
            ) from error
        except OSError as error:
            raise InputError(f"{what}: a writable folder expected ({error})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between the two calls.
            if _is_at(file, path):
                break
        except OSError as error:
            if error.errno in _NO_LOCKS:
                print(f"note: {what}: this file system has no locks; start no second command there", file=sys.stderr)
                break
            holder = _told(os.pread(file, 10_000, 0))
            os.close(file)
            if error.errno in _HELD:
                raise InputError(f"{what} is in use by {holder}; wait until it ends, or name another one") from error
            raise InputError(f"{what}: a writable folder expected ({error})") from error
        os.close(file)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": now, "command": shlex.join(sys.argv)}
    with contextlib.suppress(OSError):  # of a full disk: the lock holds all the same
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(about).encode() + b"\n", 0)
    return file


def _open(path: pathlib.Path) -> int:
    """The descriptor of the file. One that another user's killed command left is read only, which is enough for a lock."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not os.path.isfile(path):
            raise
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _owner(path: pathlib.Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):  # no name is known for the number
        return str(path.stat().st_uid)


def _is_at(file: int, path: pathlib.Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def _told(holder: bytes) -> str:
    """Who holds a lock, in words, by the content of its file."""
    try:
        about = json.loads(holder)
        who = f"process {about['process']} on {about['host']} since {about['since']}"
        return f"{who}, or by one that it started ({about['command']})"
    except (ValueError, KeyError, TypeError):  # it is not written yet
        return "another process"
