"""Scripts outside the program run: the figure of the documentation, the launchers."""

import json
import os
import random
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, lines

# Small and quick to compile; a file, because the scripts start processes.
TINY = """
from configs import srcnn

def get_config():
    c = srcnn.get_config()
    c.model.features = (6, 4)
    c.data.update(name="embedded", patch=32, warp_range=(1.0, 4.0), threads=1)
    c.eval.update(sets="embedded", crops=2, patch=48, shown=0)
    c.update(batch_size=2, steps=4, log_every=1)
    return c
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY)
    return path


def start(*call, **environment):
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | environment
    return subprocess.Popen(
        list(map(str, call)),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_the_figure_of_the_warp(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["warp.py", str(tmp_path / "warp.jpg")])
    runpy.run_path(str(ROOT / "docs/warp.py"), run_name="__main__")
    with Image.open(tmp_path / "warp.jpg") as drawn, Image.open(ROOT / "docs/warp.jpg") as kept:
        assert np.abs(np.asarray(drawn, float) - np.asarray(kept, float)).mean() < 2


def test_training_on_one_machine(config, tmp_path):
    finish(start("launch/train.sh", config, tmp_path / "run", "--config.steps=2"))
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    assert json.loads((tmp_path / "run/results.json").read_text())["step"] == 2


def test_training_as_two_tasks_of_a_job(config, tmp_path):
    """The environment is that of SLURM; the two processes share a batch, and one of them writes."""
    job = {"SLURM_JOB_ID": str(random.randrange(4096)), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [
        start("launch/pod.sh", config, tmp_path / "run", "--config.steps=2", SLURM_PROCID=n, SLURM_LOCALID=n, **job)
        for n in "01"
    ]
    outputs = [finish(task) for task in tasks]
    assert "on 2 cpu device(s)" in outputs[0]
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    assert json.loads((tmp_path / "run/results.json").read_text())["step"] == 2
