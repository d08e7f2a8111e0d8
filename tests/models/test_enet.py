"""ENet against golden arrays of its authors' release in TensorFlow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.models.resampling import bicubic
from tests.helpers import relative_error


@pytest.mark.parametrize(("half_pixel", "name"), [(False, "sr"), (True, "sr_half_pixel")])
def test_matches_release(half_pixel, name, golden, state_dict):
    z, params = golden("enet"), weights.from_torch("enet", state_dict("enet"))
    assert sum(a.size for a in jax.tree.leaves(params)) == 852_867
    lr = jnp.float32(z["lr"] / 255)
    sr = models.published("enet").clone(half_pixel=half_pixel).apply({"params": params}, lr, lr)
    assert relative_error(sr, z[name]) < 1e-5


def test_bicubic_without_half_pixels_keeps_the_pixels_where_they_are():
    """Each fourth pixel of the result is one of the input; between two of a ramp the result is halfway."""
    x = jnp.asarray(np.random.default_rng(0).random((1, 5, 6, 2)), jnp.float32)
    np.testing.assert_allclose(bicubic(x, 4, half_pixel=False)[:, ::4, ::4], x, atol=1e-6)
    ramp = jnp.arange(8.0).reshape(1, 1, 8, 1)
    np.testing.assert_allclose(bicubic(ramp, 4, half_pixel=False)[0, 0, 6:24:4, 0], np.arange(1.5, 6), atol=1e-5)
