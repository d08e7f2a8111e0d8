"""What the program says on a terminal, how it is asked to stop, and how a command ends.

JAX takes a second to import; a command that ends before it computes does without.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

import tqdm

from rrsr_jax.errors import FULL_DISK, InputError


def log(message: str) -> None:
    """One line on standard error, from the first process only; the last one says where a job hangs."""
    import jax

    if jax.process_index() == 0:
        tqdm.tqdm.write(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr)


@contextlib.contextmanager
def exit_on_error(interrupted: str = "") -> Iterator[None]:
    """Ends a command that fails for a reason outside the program: a message on standard error, and exit status 2.

    Reasons are bad input, numbers that are not finite, and a full disk. If `interrupted` says what is left of the work then,
    Ctrl-C ends the command likewise, with status 130.
    """
    try:
        yield
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        print(f"error: {error}; free space and give the same command again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if not interrupted:
            raise
        print(f"interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)


class StopRequest:
    """While active, the first SIGINT or SIGTERM asks for a stop after the step in progress; a second one interrupts."""

    def __enter__(self) -> "StopRequest":
        self._received = False
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python

    def _receive(self, *_: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    def requested(self, vote: bool = True) -> bool:
        """Whether to stop now; all processes of a run get the same answer.

        Several processes have to tell each other, which costs a synchronisation: without `vote` they do not, and go on.
        """
        import jax

        if jax.process_count() == 1:
            return self._received
        import numpy as np
        from jax.experimental import multihost_utils

        return vote and bool(multihost_utils.process_allgather(np.array(self._received)).any())
