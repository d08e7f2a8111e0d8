"""What the program says on a terminal, how it is asked to stop, and how a command ends.

JAX takes a second to import; a command that ends before it computes does without.
"""

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import tqdm

from rrsr_jax.errors import FULL_DISK, InputError


def log(message: str) -> None:
    """One line on standard error, from the first process only; the last one says where a job hangs."""
    import jax

    if jax.process_index() == 0:
        tqdm.tqdm.write(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr)


class Interrupt(KeyboardInterrupt):
    """A signal asked the process to end at once.

    Attributes:
      sent: whether it has been raised since the command began. Code that it passes through may make another exception of it.
    """

    sent = False


@contextlib.contextmanager
def exit_on_error(interrupted: str = "what is complete stays") -> Iterator[None]:
    """Ends a command that fails for a reason outside the program: one message on standard error, and exit status 2.

    Reasons are bad input, numbers that are not finite, too little memory, and whatever the operating system refuses. Ctrl-C and
    SIGTERM end the command likewise, after it has cleaned up, with status 130; `interrupted` says what is left of the work then.
    """
    _escape_what_cannot_be_printed()
    sys.unraisablehook = _print_unraisable
    sys.excepthook = functools.partial(_print_uncaught, interrupted)
    Interrupt.sent = False
    with _interrupted_by_signals():
        try:
            yield
            return
        except BaseException as error:
            message, status = ending(error, interrupted)
            if not status:
                raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(message, file=sys.stderr)
    if Interrupt.sent:
        _exit(status)
    sys.exit(status)


def _exit(status: int) -> NoReturn:
    """Without the usual end of an interpreter, in which XLA may crash after it was interrupted."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def ending(error: BaseException, interrupted: str) -> tuple[str, int]:
    """What is said about an exception, and the exit status; 0 for one that is none of the command's reasons to fail."""
    if Interrupt.sent or isinstance(error, KeyboardInterrupt):
        return f"interrupted; {interrupted}", 130
    if isinstance(error, InputError | FloatingPointError):
        return f"error: {error}", 2
    if isinstance(error, MemoryError):
        return f"error: not enough memory{f' ({error})' if str(error) else ''}; use smaller images", 2
    if isinstance(error, OSError):
        remedy = "free space and give the same command again" if error.errno in FULL_DISK else "mend that"
        return f"error: {error}; {remedy}", 2
    return "", 0


def _escape_what_cannot_be_printed() -> None:
    """File names need not be text; a message about one that is none must not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _print_unraisable(what: Any) -> None:
    """An exception that cannot be raised where it happens, such as in a callback of the garbage collector."""
    if isinstance(what.exc_value, Interrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # again
    elif (
        threading.current_thread() is threading.main_thread()
    ):  # TensorStore's threads raise theirs where it is waited for
        sys.__unraisablehook__(what)


def _print_uncaught(interrupted: str, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An exception that nothing caught: an interruption that came on the way into or out of `exit_on_error` is one, too."""
    if Interrupt.sent or isinstance(error, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0)
        message, status = ending(error, interrupted)
        print(message, file=sys.stderr)
        _exit(status)
    sys.__excepthook__(kind, error, trace)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """While active, SIGINT and SIGTERM raise `Interrupt`."""
    if threading.current_thread() is not threading.main_thread():  # signals are for the main one
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _restore(before)


def _interrupt(number: int, _: object) -> None:
    """Raises `Interrupt`, and again every half second: code that it passes through may drop it."""
    if signal.getsignal(signal.SIGALRM) is _interrupt:
        if Interrupt.sent and number != signal.SIGALRM:
            return  # it is on its way
        signal.setitimer(signal.ITIMER_REAL, 0.5)
    Interrupt.sent = True
    raise Interrupt


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python


class StopRequest:
    """While active, the first SIGINT or SIGTERM asks for a stop after the step in progress; a second one interrupts."""

    def __enter__(self) -> "StopRequest":
        self._received = False
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    def _receive(self, number: int, frame: object) -> None:
        if self._received:
            _interrupt(number, frame)
        self._received = True

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received
