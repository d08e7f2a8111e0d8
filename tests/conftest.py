"""Golden arrays, and models small enough to compile in seconds."""

import collections
import contextlib
import os
import pathlib
import re
import resource
import tempfile

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# Programs that take long to compile are shared between tests, and with the processes that tests start.
_CACHE = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
os.environ.setdefault("NPROC", "16")  # several CPU devices deadlock in collectives when they outnumber the threads


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from configs import demo
from kernels import deform_conv
from rrsr_jax.models.rrsr import RRSR
from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parent / "golden"
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


def relative_error(got, expected) -> float:
    """|got - expected| / |expected|, in float64."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"{got.shape} != {expected.shape}"
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def images(*shapes, seed=0):
    """Noise with the values of 8-bit images, (N, H, W, 3) in [0, 1], for each (N, H, W)."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.integers(0, 256, (*shape, 3)) / 255, jnp.float32) for shape in shapes]


def random_params(model):
    """Parameters with which everything, biases included, has a say; without compiling `model.init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))["params"]
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def tiny_rrsr(**changes):
    """An RRSR with every part of the full one that compiles in seconds."""
    fields = dict(
        features=8,
        context_blocks=1,
        alignments=(1, 2, 1),
        blocks=(1, 1, 1),
        experts=2,
        groups=2,
        vgg_channels=(4, 6, 8),
        correspondence_channels=(4, 6, 8),
    )
    return RRSR(**{**fields, **changes})


def tiny_config(**changes):
    """The demo's config, shrunk to `tiny_rrsr` and a few steps; `changes` by dotted name (`data__patch`: `data.patch`)."""
    config = demo.get_config()
    config.model.update({k: getattr(tiny_rrsr(), k) for k in config.model if k != "name"})
    config.data.update(patch=32, warp_range=(1.0, 4.0))
    config.eval.update(crops=2, patch=48, sheets=1)
    config.update(batch_size=2, steps=3, log_every=1, image_every=2, checkpoint_every=2)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config
