"""What the program says on a terminal, and how it is asked to stop."""

import signal
import sys
import time

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils


def log(message: str) -> None:
    """One line on standard error, from the first process only; the last one says where a job hangs."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr)


class StopRequest:
    """While active, the first SIGINT or SIGTERM asks for a stop after the step in progress; a second one interrupts."""

    def __enter__(self):
        self._received = False
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, *_):
        if self._received:
            raise KeyboardInterrupt
        self._received = True

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    def requested(self) -> bool:
        """Whether to stop now; all processes of a run get the same answer."""
        if jax.process_count() > 1:
            return bool(multihost_utils.process_allgather(np.array(self._received)).any())
        return self._received
