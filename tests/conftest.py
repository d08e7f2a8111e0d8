"""Golden arrays, and models small enough to compile in seconds."""

import collections
import os
import re
import subprocess
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# Programs that take long to compile are shared between tests, and with the processes that tests start.
_CACHE = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # also in the processes that tests start
os.environ.setdefault("NPROC", "16")  # several CPU devices deadlock in collectives when they outnumber the threads


import jax
import numpy as np
import pytest
from absl import flags

from kernels import deform_conv
from tests.golden import recipe
from tests.helpers import GOLDEN, ROOT

flags.FLAGS.mark_as_parsed()  # Grain reads absl flags


@pytest.fixture(scope="session")
def golden():
    """`golden(name)` is the dict of arrays of `tests/golden/<name>.npz`."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def state_dict():
    """`state_dict(kind)` has the deterministic PyTorch-layout weights behind the golden arrays."""
    return recipe.state_dict


@pytest.fixture
def on_cuda(monkeypatch):
    """Pretends that JAX runs on two CUDA GPUs; the value counts the deformable convolution's kernels in what was lowered."""
    monkeypatch.setattr(deform_conv, "_on_cuda", lambda: True)
    deform_conv.default_implementation.cache_clear()

    def kernels(lowered):
        return dict(collections.Counter(re.findall(r'name = "deform_conv_(\w+)_kernel"', lowered.as_text())))

    # Lowering asks the mesh which GPU it is for.
    device = jax.sharding.AbstractDevice("NVIDIA H100", None, "gpu")
    auto = jax.sharding.AxisType.Auto
    mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        yield kernels
    deform_conv.default_implementation.cache_clear()


# A config file for runs in processes of their own.
TINY = """
from tests.helpers import tiny_config

def get_config():
    return tiny_config(steps=150, checkpoint_every=10, image_every=1000)
"""


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """Starts `main` on a tiny config; compiled programs are shared between the runs."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "tiny.py").write_text(TINY)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}

    def run(*arguments, config=folder / "tiny.py", prefix=(), **options):
        call = [*prefix, sys.executable, "-m", "rrsr_jax.main", *([f"--config={config}"] if config else ()), *arguments]
        return subprocess.Popen(
            call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    return run
