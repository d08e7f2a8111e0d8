"""LPIPS and DISTS. The golden values are of their authors' packages (lpips 0.1.4, DISTS_pytorch 0.1), in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.models import quality
from tests.helpers import as_float, images, quick_jit


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_distances_are_those_of_the_authors_packages(name, golden, state_dict):
    expected = as_float(golden("quality"))
    params = weights.from_torch(name, state_dict(name))
    got = quick_jit(models.published(name).apply)({"params": params}, expected["a"], expected["b"])
    np.testing.assert_allclose(got, expected[name], rtol=1e-4)


@pytest.mark.parametrize("network", [quality.LPIPS, quality.DISTS])
def test_equal_images_have_no_distance(network):
    model = network(channels=(2, 3, 4, 5, 6))
    a, b = images((1, 17, 20), (1, 17, 20))
    shapes = jax.eval_shape(model.init, jax.random.key(0), a, b)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    distance = quick_jit(model.apply)
    np.testing.assert_allclose(distance({"params": params}, a, a), 0, atol=1e-5)
    np.testing.assert_allclose(
        distance({"params": params}, a, 0 * b), distance({"params": params}, 0 * b, a), rtol=1e-4
    )
    with pytest.raises(
        ValueError, match=r"one shape, at least 16 x 16 pixels, expected, got \(1, 17, 20, 3\) and \(1, 15"
    ):
        model.apply({"params": params}, a, b[:, :15])


@pytest.mark.parametrize("size", [(6, 9), (7, 4)])
def test_smooth_pooling_by_a_loop(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    window = np.outer([1, 2, 1], [1, 2, 1])[None, ..., None] / 16
    expected = [
        [np.sqrt((padded[:, i : i + 3, j : j + 3] * window).sum((1, 2)) + 1e-12) for j in range(0, size[1], 2)]
        for i in range(0, size[0], 2)
    ]
    got = quality.l2_pool(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, np.array(expected).transpose(2, 0, 1, 3), rtol=1e-5)
