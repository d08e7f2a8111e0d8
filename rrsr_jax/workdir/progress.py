"""What a run tells about itself: a bar on a terminal, JSON lines, TensorBoard."""

import contextlib
import json
import os
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

from rrsr_jax.console import log
from rrsr_jax.errors import FULL_DISK, InputError


class Progress:
    """Speed, remaining time and metrics of a training run, from the first process."""

    def __init__(self, workdir: pathlib.Path, first_step: int, steps: int, batch_size: int):
        self._first, self._steps, self._batch_size = first_step, steps, batch_size
        self._started: float | None = None
        self._active = jax.process_index() == 0
        kept = _records_until(workdir, first_step, steps)
        self.evaluated = {record["step"] for record in kept if not _is_training(record)}  # alike in all processes
        if self._active:
            self._lines = _reopen(workdir / "metrics.jsonl", kept)
            self._board = _Board(workdir / "tensorboard", first_step)
            self._bar = tqdm.tqdm(
                total=steps, initial=first_step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
            )

    def stepped(self, step: int) -> None:
        """Call after every finished step."""
        if self._started is None:
            self._started, self._first = time.perf_counter(), step  # leaves compilation out of the speed
        if self._active:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records metrics with speed, remaining seconds and memory."""
        if not self._active:
            return
        elapsed, done = time.perf_counter() - self._started, step - self._first
        speed = done / elapsed if done else 0.0
        record = {f"train/{k}": round(float(v), 7) for k, v in metrics.items()}
        record["images_per_second"] = round(speed * self._batch_size, 3)
        record["seconds_per_step"] = round(1 / speed, 6) if speed else None
        record["eta_seconds"] = round((self._steps - step) / speed) if speed else None
        record["memory_gib"] = round(_memory_bytes() / 2**30, 2)
        self._record(step, record)
        shown = "  ".join(f"{k} {float(v):.4g}" for k, v in metrics.items())
        shown += f"  {record['images_per_second']:.3g} images/s"
        self._bar.set_postfix_str(shown)
        if self._bar.disable:
            eta = "" if not speed else f"  ETA {record['eta_seconds'] // 60}:{record['eta_seconds'] % 60:02d}"
            log(f"step {step}/{self._steps}  {shown}{eta}")

    def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Records the outcome of an evaluation, and that there was one."""
        self.evaluated.add(step)
        if self._active and values:
            self._record(step, values)

    def _record(self, step: int, values: Mapping[str, float | None]) -> None:
        with self._disk_errors():
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()
            self._board.add(step, *(summary.scalar(name, value) for name, value in values.items() if value is not None))

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
    """TensorBoard's file. tensorboardX's own writer is a thread, which a full disk ends, and the run waits for it for ever."""

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._records = tensorboardX.RecordWriter(str(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        # Hides what an interrupted run wrote after the checkpoint that this one goes on from.
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


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl` so far; without a line that is cut off, by a kill or because it is being written."""
    path, records = workdir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _is_training(record: Mapping) -> bool:
    return any(name.startswith("train/") for name in record)


def _records_until(workdir: pathlib.Path, step: int, steps: int) -> list[dict]:
    """What is recorded, without what will come again: after the last checkpoint, and the evaluation in the end."""
    return [r for r in read_records(workdir) if r["step"] <= step and (r["step"] < steps or _is_training(r))]


def _reopen(path: pathlib.Path, records: Sequence[Mapping]) -> TextIO:
    """The file with these records, open at its end."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(temporary, path)
    return path.open("a")


def _memory_bytes() -> int:
    """Peak memory of the accelerator, or of the process where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
