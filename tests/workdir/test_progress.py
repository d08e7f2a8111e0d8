"""What a run writes while it trains."""

import json
import struct

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rrsr_jax.errors import InputError
from rrsr_jax.workdir import progress as progress_module
from rrsr_jax.workdir.progress import Profiler, Progress, read_records
from tests.helpers import largest_file


def events(workdir):
    """What TensorBoard reads: records of a length, its checksum, so many bytes, and their checksum."""
    (path,) = (workdir / "tensorboard").glob("events.*")
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def recorded(workdir):
    """Steps of the records of `metrics.jsonl` that are whole."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def run(workdir, first_step, steps, values):
    progress = Progress(workdir, first_step, 10, 2)
    try:
        for step in steps:
            progress.stepped(step)
            progress.write(step, values)
        progress.image("picture", np.full((4, 5, 3), step, np.uint8), step)
    finally:
        progress.close()


def test_metrics_and_pictures_come_to_both_files(tmp_path):
    run(tmp_path, 4, [5, 6], {"loss": 0.5, "rec": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["train/loss"], r["train/rec"]) for r in lines] == [(5, 0.5, 0.25), (6, 0.5, 0.25)]
    head, start, *values = events(tmp_path)
    assert head.file_version == "brain.Event:2"
    # TensorBoard then forgets what an interrupted run wrote from this step on.
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    shown = [(event.step, value.tag, value.simple_value) for event in values for value in event.summary.value]
    assert {(5, "train/loss", 0.5), (6, "train/rec", 0.25)} < set(shown)
    picture = values[-1].summary.value[0].image
    assert (values[-1].step, picture.height, picture.width) == (6, 4, 5)


def test_only_steps_are_timed(tmp_path, monkeypatch):
    """Two seconds a step, then four; compilation, evaluation and saving take others."""
    now = 100.0
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now)
    progress = Progress(tmp_path, 0, 10, 4)
    with progress.paused():
        now += 50  # compiles
    progress.stepped(1, counted=False)
    progress.write(1, {"loss": 1.0})
    for step in (2, 3):
        now += 2
        progress.stepped(step)
        with progress.paused():
            now += 30
    progress.write(3, {"loss": 1.0})
    for step in (4, 5):
        now += 4
        progress.stepped(step)
    progress.write(5, {"loss": 1.0})
    progress.close()
    first, last, slower = read_records(tmp_path)
    assert not {"seconds_per_step", "images_per_second", "eta_seconds"} & set(first)
    assert (last["seconds_per_step"], last["images_per_second"], last["eta_seconds"]) == (2.0, 2.0, 14)
    # Of the steps since the record before; the remaining time by the mean of all steps, 3 s.
    assert (slower["seconds_per_step"], slower["images_per_second"], slower["eta_seconds"]) == (4.0, 1.0, 15)


def test_a_profile_of_some_steps(tmp_path):
    state = jax.numpy.ones(3)
    profiler = Profiler(tmp_path / "profile", 10, 2)
    for step in range(11, 15):
        profiler.stepped(step, state)
    assert not list(tmp_path.rglob("*.xplane.pb"))  # still tracing
    profiler.stepped(15, state)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    profiler.close()
    off = Profiler(tmp_path / "off", 0, 0)
    for step in range(10):
        off.stepped(step, state)
    off.close()
    assert not (tmp_path / "off").exists()


def test_what_comes_again_is_dropped(tmp_path):
    run(tmp_path, 0, [1, 2, 3], {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    run(tmp_path, 2, [3], {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["train/loss"]) for r in lines] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_full_disk_ends_the_run_and_leaves_what_was_written(tmp_path):
    message = rf"cannot write metrics to {tmp_path}: File too large; free space and give the same command again"
    with largest_file(1000), pytest.raises(InputError, match=message):
        run(tmp_path, 0, range(1, 50), {"loss": 1.0})
    kept = recorded(tmp_path)
    assert kept == list(range(1, len(kept) + 1))
    run(tmp_path, 49, [50], {"loss": 2.0})
    assert recorded(tmp_path) == [*kept, 50]
