"""The processes of one run: how they find each other, what they agree on, and how they end together.

Training steps exchange arrays on the devices. What is here is rare and small, and goes through the coordination service of
`jax.distributed` in process 0: it needs no device, and it may be asked by one process alone.
"""

import contextlib
import datetime
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed  # jax has no public way to its client

from rrsr_jax.console import ending
from rrsr_jax.errors import InputError

HEARTBEAT = 30  # seconds without a sign of life after which JAX takes a process for dead, and ends the others
_FAILURE = "rrsr/failure"  # the key under which the process that fails first says so
_STOP = "rrsr/stop"  # and the one under which a process says that it was asked to stop
_LOOK = 1.0  # seconds between two looks at the mark
_GRACE = 3.0  # seconds that a process gets to end by itself, after another has failed
_LONG = datetime.timedelta(days=30)
# In errors of a process that lost another one in the middle of an exchange.
_LOST = re.compile(r"Gloo|NCCL|by peer|UNAVAILABLE|[Cc]oordination ?[Ss]ervice|heartbeat")
_exchanges = itertools.count()


def join(distributed: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connects this process with the others of a run (`jax.distributed`); alone without `distributed`.

    Without the other three arguments it asks the scheduler, with them it asks nobody. It waits for the others; if one of them is
    not there within five minutes, JAX aborts the process.

    Raises:
      InputError: flags that do not belong together, no scheduler to ask, or a port that is taken.
    """
    values = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    given = [name for name, value in values.items() if value is not None]
    missing = [name for name in values if name not in given]
    if not distributed:
        if given:
            raise InputError(
                f"{', '.join(given)}: only with --distributed; add it, or leave them out to run one process"
            )
        return
    # It would take SIGTERM away from the program, see `console.StopRequest` and `step.compile_step`.
    jax.config.update("jax_enable_preemption_service", False)
    if not given:
        try:
            return jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
        except ValueError as error:  # JAX found no scheduler
            raise InputError(
                f"--distributed: a job of SLURM, Open MPI or a TPU pod expected, found none ({error}); start the processes "
                "yourself, each with --coordinator=HOST:PORT --processes=N --process=I"
            ) from error
    if coordinator is None or processes is None or process is None:
        raise InputError(f"--coordinator, --processes and --process belong together; add {', '.join(missing)}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--coordinator: HOST:PORT of process 0 expected, such as 10.0.0.1:8476, got {coordinator}")
    if process >= processes:
        raise InputError(f"--process: 0 to {processes - 1} expected, as --processes={processes}, got {process}")
    if process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:  # JAX crashes there
            raise InputError(
                f"--coordinator={coordinator}: process 0 cannot listen ({error}); choose another port"
            ) from error
    print(
        f"process {process} of {processes}: waiting for all of them at {coordinator}, five minutes at most",
        file=sys.stderr,
    )
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT,
    )


def count() -> int:
    """How many processes the run has. Unlike `jax.process_count`, it needs no device."""
    return distributed.global_state.num_processes if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which writes what only one may write."""
    return not jax.distributed.is_initialized() or distributed.global_state.process_id == 0


def gather(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order, known to all of them; all must call it."""
    if count() == 1:
        return [value]
    client, me = _client(), distributed.global_state.process_id
    number = next(_exchanges)
    folder = f"rrsr/exchange/{number}"
    client.key_value_set(f"{folder}/{me}", json.dumps(value))
    if me == 0:
        values = [json.loads(_wait_for(f"{folder}/{other}")) for other in range(count())]
        client.key_value_set(f"{folder}/all", json.dumps(values))
        if number:
            client.key_value_delete(f"rrsr/exchange/{number - 1}/")  # all have read it
    return json.loads(_wait_for(f"{folder}/all"))


def of_first(value: Any) -> Any:
    """The JSON value of process 0; all must call it. The others' values do not count."""
    return gather(value if is_first() else None)[0]


def tell_stop() -> None:
    """Tells the other processes that this one was asked to stop, where no training step does."""
    if count() > 1:
        _client().key_value_set(_STOP, "", allow_overwrite=True)


def told_stop() -> bool:
    """Whether any process has called `tell_stop`."""
    return count() > 1 and _try_get(_STOP) is not None


def check_alike(what: str, here: Mapping[str, Any]) -> None:
    """Raises InputError in a process whose flat JSON values differ from those of process 0; names every difference."""
    here = json.loads(json.dumps(here))
    first = of_first(here)
    names = [name for name in sorted({*first, *here}) if first.get(name) != here.get(name)]
    if names:
        raise InputError(
            f"all processes need the same {what}; process 0 and this one have:\n  "
            + "\n  ".join(
                f"{name}: {first.get(name, 'nothing')} there, {here.get(name, 'nothing')} here" for name in names
            )
        )


@contextlib.contextmanager
def ending_together(interrupted: str) -> Iterator[None]:
    """An error in one process ends all processes of the run, within seconds, with its reason printed once, and its exit status.

    The first process that fails leaves a mark with the coordination service. A thread of every process looks for it. After an
    error the process does not wait for the others as at its usual end: they may wait for it in the middle of a step.

    A process that is killed leaves no mark. The others notice when an exchange with it fails, or JAX ends them after `HEARTBEAT`.

    Args:
      interrupted: see `console.exit_on_error`, which handles the errors of a process that is alone.
    """
    if count() == 1:
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended,), daemon=True)
    watcher.start()
    try:
        yield
        _client().wait_at_barrier("rrsr/done", _LONG // datetime.timedelta(milliseconds=1))
    except BaseException as error:
        ended.set()
        _end(error, interrupted)
    ended.set()
    watcher.join()


def _end(error: BaseException, interrupted: str) -> NoReturn:
    """Tells the others and leaves."""
    signal.setitimer(signal.ITIMER_REAL, 0)  # of `console.Interrupt`
    message, status = ending(error, interrupted)
    if not status:  # a bug, or what follows from the end of another process
        deadline = time.monotonic() + _GRACE
        while _failure() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        message, status = _explain(error), 1
    me = distributed.global_state.process_id
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first, or process 0 is gone
        _client().key_value_set(_FAILURE, json.dumps({"process": me, "status": status}))
    failure = _failure()
    if failure is None or failure["process"] == me:
        _leave(status, f": {message}")
    _follow(failure)


def _explain(error: BaseException) -> str:
    if _LOST.search(str(error)):
        reason = str(error).splitlines()[0]
        return (
            f"error: lost another process, which was killed or cannot be reached ({reason}); the same command goes on"
        )
    return "".join(traceback.format_exception(error)).rstrip()


def _watch(ended: threading.Event) -> None:
    """Ends the process when another one has failed, whatever the main thread is waiting for."""
    while not ended.wait(_LOOK):
        failure = _failure()
        if failure is not None:
            if not ended.wait(_GRACE):
                _follow(failure)
            return


def _failure() -> dict[str, int] | None:
    """Which process has failed first, and its exit status."""
    found = _try_get(_FAILURE)
    return None if found is None else json.loads(found)


def _try_get(key: str) -> str | None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # not found, or process 0 is gone
        return _client().key_value_try_get(key)
    return None


def _follow(failure: Mapping[str, int]) -> NoReturn:
    _leave(failure["status"], f" ends with process {failure['process']}, which says why")


def _leave(status: int, message: str) -> NoReturn:
    """Ends the process as it is; process 0 last, because the others lose the coordination service with it."""
    with contextlib.suppress(OSError):  # the disk that is full may have the log
        print(f"process {distributed.global_state.process_id} of {count()}{message}", file=sys.stderr, flush=True)
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().wait_at_barrier("rrsr/end", 10_000)
    if is_first():
        time.sleep(0.5)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def _client() -> Any:
    return distributed.global_state.client


def _wait_for(key: str) -> str:
    """The value under a key, as soon as there is one. Signals are noticed in between."""
    while True:
        try:
            return _client().blocking_key_value_get(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
