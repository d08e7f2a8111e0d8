"""Progress of a run: a bar on a terminal, JSON lines, TensorBoard, and profiles."""

import contextlib
import json
import pathlib
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np
import tensorboardX
import tqdm
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rrsr_jax import processes
from rrsr_jax.console import log
from rrsr_jax.errors import FULL_DISK, InputError
from rrsr_jax.workdir.files import inside, write_atomically


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run's `metrics.jsonl`: one per log step, and one per evaluation. A line that is cut off is left out."""
    path, records = workdir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def is_training(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a training step, not of an evaluation."""
    return any(name.startswith("train/") for name in record)


class Progress:
    """Speed, remaining time and metrics of a training run, from the first process.

    Time counts while steps run. What happens in `paused` does not: compilation, evaluations, pictures, saving.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, steps: int, batch_size: int):
        self._steps, self._batch_size = steps, batch_size
        self._seconds: float = 0.0
        self._since: float | None = None  # the clock starts after the first step
        self._counted = 0
        self._recorded = (0.0, 0)  # seconds and steps at the last record
        self._active = jax.process_index() == 0
        # Without what will come again: after the last checkpoint, and the evaluation in the end.
        kept = [r for r in read_records(workdir) if r["step"] <= first_step and (r["step"] < steps or is_training(r))]
        self.evaluated = set(processes.of_first([r["step"] for r in kept if not is_training(r)]))
        if self._active:
            board = inside(workdir, "tensorboard")
            self._lines = _reopen(workdir / "metrics.jsonl", kept)
            self._board = _Board(board, first_step)
            self._bar = tqdm.tqdm(
                total=steps, initial=first_step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not counted."""
        self._seconds = self._elapsed()
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def stepped(self, step: int, counted: bool = True) -> None:
        """Call after every step; `counted` unless it ran while paused."""
        if self._since is None:
            self._since = time.perf_counter()
        else:
            self._counted += counted
        if self._active:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records metrics with speed, remaining seconds and memory; the device must have finished the step."""
        if not self._active:
            return
        record = {f"train/{k}": round(float(v), 7) for k, v in metrics.items()}
        speed, eta = "", ""
        elapsed, (seconds_before, steps_before) = self._elapsed(), self._recorded
        if (
            self._counted > steps_before
        ):  # the time of the steps since the last record; the rest at the mean of all steps
            each = (elapsed - seconds_before) / (self._counted - steps_before)
            seconds = round((self._steps - step) * elapsed / self._counted)
            record |= {"seconds_per_step": round(each, 7), "images_per_second": round(self._batch_size / each, 3)}
            record["eta_seconds"] = seconds
            speed, eta = f"  {self._batch_size / each:.3g} images/s", f"  ETA {seconds // 60}:{seconds % 60:02d}"
        self._recorded = elapsed, self._counted
        record["memory_gib"] = round(_memory_bytes() / 2**30, 2)
        self._record(step, record)
        shown = "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items())
        shown += speed
        self._bar.set_postfix_str(shown)
        if self._bar.disable:
            log(f"step {step}/{self._steps}  {shown}{eta}")

    def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Records the metrics of an evaluation, and that it is done."""
        self.evaluated.add(step)
        if self._active and values:
            self._record(step, values)

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        with self._disk_errors():
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()
            self._board.add(step, *(summary.scalar(name, value) for name, value in values.items()))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows a (H, W, 3) uint8 image in TensorBoard."""
        if self._active:
            with self._disk_errors():
                self._board.add(step, summary.image(name, image, dataformats="HWC"))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = pathlib.Path(self._lines.name).parent
            remedy = "free space" if error.errno in FULL_DISK else "mend that"
            raise InputError(
                f"cannot write metrics to {folder}: {error.strerror}; {remedy} and give the same command again"
            ) from error

    def close(self) -> None:
        """Closes all outputs."""
        if self._active:
            self._bar.close()
            for output in (self._lines, self._board):
                with contextlib.suppress(OSError):  # what is left was refused before, and said
                    output.close()


class _Board:
    """TensorBoard's file. tensorboardX's own writer is a thread: a full disk ends it, and the run would wait for it forever."""

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._records = tensorboardX.RecordWriter(str(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        # Hides what an interrupted run wrote after the checkpoint that this run continues from.
        self._write(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, *summaries: summary.Summary) -> None:
        for value in summaries:
            self._write(Event(step=step, summary=value))
        self._records.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        self._records.close()


def _reopen(path: pathlib.Path, records: Sequence[Mapping]) -> TextIO:
    """Writes the records to the file, and opens it to append."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
    return path.open("a")


class Profiler:
    """Traces `number` steps of a run for TensorBoard's or Perfetto's profile viewer, after `WARM_UP` others."""

    WARM_UP = 3

    def __init__(self, folder: pathlib.Path, first_step: int, number: int):
        self._folder, self._first, self._number = folder, first_step + self.WARM_UP, number
        self._tracing = False

    def stepped(self, step: int, state: Any) -> None:
        """Call after every step with what it gives, which is waited for at both ends of the trace."""
        if self._number and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._tracing and step == self._first + self._number:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is being made."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            log(f"profile written to {self._folder}")


def _memory_bytes() -> int:
    """Peak memory of the accelerator, or of the process if the device does not report it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
