"""The batches of a run, on their devices, and what its processes tell each other with them."""

from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rrsr_jax import processes
from rrsr_jax.console import StopRequest
from rrsr_jax.errors import InputError
from rrsr_jax.training.step import DATA_AXIS, GO_ON, NO_BATCH, STOP


def to_devices(mesh: Mesh) -> Callable[[dict[str, np.ndarray]], dict[str, Any]]:
    """Puts a batch of this process on its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return lambda batch: {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


class Source:
    """The batches of a run, each with what this process has to tell the others: a `notice`, see `compile_step`.

    A process that has no batch, and one that was asked to stop, cannot just leave: the others would wait for it in the next step.
    It says so with this step, and all leave after the same one.

    Attributes:
      problem: why this process has no batch; an empty one takes its place.
    """

    def __init__(self, batches: grain.DatasetIterator, mesh: Mesh, stop: StopRequest):
        self._batches, self._stop, self._put = batches, stop, to_devices(mesh)
        self._shapes: Mapping[str, Any] = {}  # of this process's share of a batch
        local = len(mesh.local_devices)
        self._notices = [self._put({"notice": np.full(local, n, np.int32)}) for n in (GO_ON, STOP, NO_BATCH)]
        self.problem: InputError | None = None

    def next(self) -> dict[str, Any] | None:
        """A batch; None if this process is alone, and has to stop or has no batch."""
        if processes.count() == 1 and self._stop.received():
            return None
        batch = None
        if self.problem is None:
            try:
                batch = next(self._batches)
            except InputError as error:
                self.problem = error
        if processes.count() == 1:
            return batch
        if batch is None:
            if not self._shapes:  # before its first step: there is nothing to save
                assert self.problem is not None
                raise self.problem
            return self._put({k: np.zeros(*like) for k, like in self._shapes.items()}) | self._notices[NO_BATCH]
        if not self._shapes:
            self._shapes = {k: ((a.shape[0] // processes.count(), *a.shape[1:]), a.dtype) for k, a in batch.items()}
        return batch | self._notices[STOP if self._stop.received() else GO_ON]

    def raise_problem(self) -> None:
        """Raises in all processes what one of them could not read; all must call it."""
        for process, problem in enumerate(processes.gather(self.problem and str(self.problem))):
            if problem:
                raise InputError(problem if processes.count() == 1 else f"process {process} has no batch: {problem}")
