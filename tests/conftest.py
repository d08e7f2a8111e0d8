"""Golden arrays, and models small enough to compile in seconds."""

import collections
import os
import re
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
from tests.helpers import GOLDEN

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
