"""Commands as forks of one process that has imported everything, so that a start costs milliseconds instead of seconds.

The process that forks must not have started JAX's backend, which does not survive a fork.
"""

import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PAUSE = 0.004  # seconds between two looks at a process
CPU_SECONDS = 300  # of one process; then the kernel ends it


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
      status: its exit status; of one that a signal ended, the negative number of the signal.
      out, err: what it said.
      late: whether it was killed because it ran longer than allowed.
      seconds: of processor time that it took.
    """

    status: int
    out: str
    err: str
    late: bool = False
    seconds: float = 0.0

    def last(self) -> str:
        """The last line on standard error."""
        return (self.err.strip().splitlines() or [""])[-1]


class Process:
    """A command that runs in a fork, in a session of its own.

    Args:
      call: the command, without arguments; `SystemExit` has its usual meaning.
      folder: the current folder.
      said: beside which path what it says is written; `folder` if None.
      seconds: after so long it is killed.
      cpu_seconds: of processor time that it may take.
      memory: bytes of address space that it may take besides what it was forked with; 0: any.
      variables: added to its environment.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        folder: pathlib.Path,
        *,
        said: pathlib.Path | None = None,
        seconds: float = 1800,
        cpu_seconds: int = CPU_SECONDS,
        memory: int = 0,
        variables: Mapping[str, str] | None = None,
    ):
        self._said = said or folder
        self._until, self._status, self._seconds = time.monotonic() + seconds, None, 0.0
        for path in _files(self._said):
            path.write_bytes(b"")  # here, because the fork may be killed at once
        sys.stdout.flush()
        sys.stderr.flush()
        begins, tells = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _run(call, folder, self._said, tells, cpu_seconds, memory, variables or {})
        os.close(tells)
        os.read(begins, 1)  # before that no signal would meet the command
        os.close(begins)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        if not self.ended():
            os.kill(self._pid, number)

    def ended(self) -> bool:
        """Whether it has ended, without waiting."""
        if self._status is None:
            pid, status, used = os.wait4(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self._seconds = used.ru_utime + used.ru_stime
        return self._status is not None

    def overdue(self) -> bool:
        """Whether it runs longer than allowed."""
        return time.monotonic() > self._until

    def wait(self) -> Ended:
        """Waits for the end; kills what takes too long."""
        late = False
        while not self.ended():
            if self.overdue() and not late:
                late = True
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(PAUSE)
        out, err = said(self._said)
        return Ended(self._status or 0, out, err, late, self._seconds)


def said(folder: pathlib.Path) -> list[str]:
    """What a process in this folder said, on standard output and on standard error."""
    return [path.read_text(errors="replace") for path in _files(folder)]


def _files(beside: pathlib.Path) -> list[pathlib.Path]:
    return [beside.with_name(f"{beside.name}.{name}") for name in ("out", "err")]


def run(call: Callable[[], Any], folder: pathlib.Path, **options: Any) -> Ended:
    """Runs a command to its end; arguments as for `Process`."""
    return Process(call, folder, **options).wait()


def _run(
    call: Callable[[], Any],
    folder: pathlib.Path,
    beside: pathlib.Path,
    tells: int,
    cpu_seconds: int,
    memory: int,
    variables: Mapping[str, str],
) -> None:
    """What happens in the fork; does not return."""
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(variables)
        for number, path in enumerate((os.devnull, *_files(beside))):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
            os.close(file)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        if memory:
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.write(tells, b"\0")
        os.close(tells)
        status = _status(call)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(call: Callable[[], Any]) -> int:
    """The exit status of a command, as the interpreter would have it."""
    try:
        call()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
