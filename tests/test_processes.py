"""Runs of two and three real processes on one machine: they train as one, and no fault of one leaves the others waiting."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rrsr_jax import config_files
from rrsr_jax.data import prepare
from rrsr_jax.main import STOPPED
from rrsr_jax.training import train
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import has_checkpoint
from tests.helpers import ROOT, damage, lines, noise, write

# Small and quick to compile. Batches divide among two processes with two devices, and among three.
TINY = """
from configs import srcnn

def get_config():
    c = srcnn.get_config()
    c.model.features = (6, 4)
    c.data.update(name="photos", dir="{data}", patch=32, warp_range=(1.0, 4.0), threads=1)
    c.eval.update(sets="photos", dir="{data}", shown=0, every=2)
    c.update(batch_size=12, steps=4, log_every=1, checkpoint_every=2)
    return c
"""
LIMIT = 60  # seconds until all have ended, after a fault
ENDS = "process {} of 2 ends with process {}, which says why"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # of ml_collections
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photographs of three sizes in `data`, and a config of them in `tiny.py`."""
    folder = tmp_path_factory.mktemp("processes")
    sizes = [(48, 60), (60, 48), (96, 99), (48, 60), (60, 48), (64, 64), (64, 64)]
    source = write(folder / "in", {f"{i}.png": noise(*size, i) for i, size in enumerate(sizes)})
    prepare.prepare("photos", str(source), str(folder / "data"))
    (folder / "tiny.py").write_text(TINY.format(data=folder / "data"))
    return folder


class Job:
    """Processes of one run.

    Args:
      root: of the fixture.
      number: of processes.
      workdir: of the run.
      flags: of all processes.
      own: flags of one process, by its number.
      prefix: what one process is started with, by its number.
      devices: of each process.
    """

    def __init__(self, root, number, workdir, *flags, own=None, prefix=None, devices=1):
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONUNBUFFERED": "1"}
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        call = [sys.executable, "-m", "rrsr_jax.main", f"--config={root}/tiny.py", f"--workdir={workdir}", *flags]
        call += ["--distributed", f"--coordinator=127.0.0.1:{port}", f"--processes={number}"]
        self.workdir, self.logs = workdir, [root / f"log{i}" for i in range(number)]
        self.processes = []
        for i, log in enumerate(self.logs):
            mine = [*(prefix or {}).get(i, ()), *call, f"--process={i}", *(own or {}).get(i, ())]
            with log.open("w") as said:
                self.processes.append(
                    subprocess.Popen(mine, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
                )

    def reach(self, step):
        """Waits until the run has logged a step."""
        while not (there := lines(self.workdir)) or there[-1]["step"] < step:
            assert not self.ended(), self.said()
            time.sleep(0.02)

    def ended(self):
        """Whether one of them has."""
        return any(process.poll() is not None for process in self.processes)

    def said(self):
        """What each process has said."""
        return [log.read_text() for log in self.logs]

    def finish(self, status=0, limit=300):
        """What each has said, when all have ended with this status within `limit` seconds after the first of them."""
        try:
            while not self.ended():
                time.sleep(0.02)
            end = time.monotonic() + limit
            found = [process.wait(max(0, end - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        if status is not None:
            assert found == [status] * len(found), self.said()
        return self.said()


def one_process(root, workdir, *overrides):
    """The same run, in the process of the tests."""
    config = config_files.load(str(root / "tiny.py"), list(overrides))
    return train.train_and_evaluate(config, str(workdir))


def parameters(workdir):
    return Checkpoints(workdir).read_state().generator


@pytest.fixture(scope="module")
def two(root):
    """A run of two processes with two devices each, until step 4. It is evaluated after step 2, and in the end."""
    said = Job(root, 2, root / "two", devices=2).finish()
    assert "on 4 cpu device(s)" in said[0]
    return root / "two"


def copy(workdir, to):
    shutil.copytree(workdir, to)
    return to


def test_a_run_goes_on_with_other_numbers_of_processes(root, two, tmp_path):
    """2 processes, then 1, then 3, do what one does alone."""
    one_process(root, tmp_path / "one", "steps=8", "eval.sets=")
    run = copy(two, tmp_path / "run")
    one_process(root, run, "steps=6", "eval.sets=")
    Job(root, 3, run, "--config.steps=8", "--config.eval.sets=").finish()
    expected, found = lines(tmp_path / "one"), lines(run)
    assert [line["step"] for line in found] == list(range(1, 9))
    for name in ("train/loss", "train/grad_norm"):
        np.testing.assert_allclose([r[name] for r in found], [r[name] for r in expected], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parameters(run), parameters(tmp_path / "one")
    )


def test_an_evaluation_is_that_of_one_process(root, two, tmp_path):
    """To the last digit, with every image once; training has gone on after the one at step 2."""
    run = copy(two, tmp_path / "run")
    shutil.rmtree(run / "eval")
    (run / "results.json").unlink()
    train.evaluate_only(config_files.load(str(root / "tiny.py"), []), str(run))
    for name in ("results.json", "eval/photos/images.csv", "eval/photos/lr_itself/6.png"):
        assert (run / name).read_bytes() == (two / name).read_bytes(), name
    assert (two / "eval/photos/images.csv").read_text().count("lr_itself") == 7
    assert not list((two / "eval/photos").glob("images.process_*.csv"))
    assert [line["step"] for line in lines(two, "val/")] == [2, 4]


def test_an_image_that_fails_is_named(root, two, tmp_path):
    shutil.copytree(root / "data", tmp_path / "data")
    index = damage(tmp_path / "data", "photos")
    flags = "--mode=eval", f"--config.eval.dir={tmp_path}/data"
    said = "".join(Job(root, 3, copy(two, tmp_path / "run"), *flags).finish(2, LIMIT))
    assert said.count(f"failed: photos: record {index}, lr_itself: ") == 1
    assert said.count("error: 2 image(s) failed, see above") == 1


def test_a_process_with_another_config(root, tmp_path):
    said = Job(root, 2, tmp_path / "run", own={1: ["--config.batch_size=24"]}).finish(2, LIMIT)
    assert "process 1 of 2: error: all processes need the same flags and config" in said[1]
    assert "config.batch_size: 12 there, 24 here" in said[1]
    assert ENDS.format(0, 1) in said[0]


def test_a_damaged_record_ends_all_and_loses_no_step(root, tmp_path):
    """The process that has to read it and the other one save the step before."""
    shutil.copytree(root / "data", tmp_path / "data")
    damage(tmp_path / "data", "photos")
    flags = f"--config.data.dir={tmp_path}/data", "--config.batch_size=2", "--config.eval.sets="
    flags += "--config.steps=20", "--config.checkpoint_every=100"
    said = Job(root, 2, tmp_path / "run", *flags).finish(2, LIMIT)
    done = lines(tmp_path / "run")[-1]["step"]
    assert Checkpoints(tmp_path / "run").latest() == done > 0
    assert len(re.findall(r"error: process \d has no batch: .*photos: record \d of 7", "".join(said))) == 1
    Job(root, 2, tmp_path / "run", *flags, "--config.data.skip_damaged").finish()
    records = lines(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(1, 21))
    # Of both processes: each epoch of 7 images has the record once.
    assert records[-1]["train/skipped"] == pytest.approx((20 - done) * 2 / 7, abs=1)


def test_results_that_cannot_be_written(root, two, tmp_path):
    run = copy(two, tmp_path / "run")
    shutil.rmtree(run / "eval")
    (run / "eval").touch()
    said = Job(root, 2, run).finish(2, LIMIT)
    assert "process 0 of 2: error: cannot write the results to" in said[0]
    assert ENDS.format(1, 0) in said[1]


def test_damaged_checkpoints(root, two, tmp_path):
    run = copy(two, tmp_path / "run")
    for path in run.glob("checkpoints/*/checksums.json"):
        path.write_text("{}[")
    said = Job(root, 2, run).finish(2, LIMIT)
    assert "process 0 of 2: error: all checkpoints in" in said[0]
    assert ENDS.format(1, 0) in said[1]


def test_a_full_disk_in_a_save(root, tmp_path):
    limit = "bash", "-c", 'ulimit -f 64; exec "$@"', "bash"  # KiB of a file; metrics stay below
    larger = "--config.model.features=(64, 32)", "--config.steps=100000"
    said = Job(root, 2, tmp_path / "run", *larger, prefix={0: limit}).finish(2, LIMIT)
    assert "process 0 of 2: error: cannot save checkpoint 2 to" in said[0]
    assert ENDS.format(1, 0) in said[1]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others(root, tmp_path, killed):
    job = Job(root, 2, tmp_path / "run", "--config.steps=100000", "--config.eval.sets=")
    while not has_checkpoint(tmp_path / "run"):
        assert not job.ended(), job.said()
        time.sleep(0.05)
    job.processes[killed].kill()
    said = job.finish(None, LIMIT)[1 - killed]
    assert job.processes[1 - killed].returncode not in (0, 2)
    assert "lost another process" in said or "another task died" in said
    # From the last checkpoint, on another number of processes.
    one_process(root, tmp_path / "run", f"steps={Checkpoints(tmp_path / 'run').latest() + 1}", "eval.sets=")


@pytest.mark.parametrize("asked", [(1,), (0, 1)])
def test_a_request_to_stop_reaches_all(root, tmp_path, asked):
    """They save the same step, without looking at each other before it."""
    flags = "--config.eval.sets=", "--config.log_every=5", "--config.checkpoint_every=100000"
    job = Job(root, 2, tmp_path / "run", *flags, "--config.steps=100000")
    job.reach(5)
    for process in asked:
        job.processes[process].send_signal(signal.SIGTERM)
    said = job.finish(STOPPED, LIMIT)[0]
    step = Checkpoints(tmp_path / "run").latest()
    assert f"stopped and saved at step {step}; the same command goes on from there" in said
    Job(root, 2, tmp_path / "run", *flags, f"--config.steps={step + 1}").finish()
    assert Checkpoints(tmp_path / "run").latest() == step + 1


def test_a_request_to_stop_before_the_first_step(root, tmp_path):
    job = Job(root, 2, tmp_path / "run", "--config.steps=100000")
    while "opening the data" not in job.said()[0]:
        assert not job.ended(), job.said()
        time.sleep(0.01)
    job.processes[1].send_signal(signal.SIGTERM)
    said = job.finish(None, LIMIT)
    if [process.returncode for process in job.processes] != [STOPPED] * 2:  # so it came in the first step
        assert [process.returncode for process in job.processes] == [130] * 2
        assert "interrupted; the same command goes on" in said[1]
        assert ENDS.format(0, 1) in said[0]
