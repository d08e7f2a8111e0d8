"""Bilinear sampling against a slow definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models.sampling import bilinear


def slow(x, rows, columns, double_edge):
    """One sample at a time, in float64."""
    x, rows, columns = (np.asarray(a, np.float64) for a in (x, rows, columns))
    _, h, w, _ = x.shape
    out = np.zeros((*rows.shape, x.shape[-1]))

    def neighbours(p, size):
        inside = min(max(p, 0), size - 1)
        if not double_edge:
            low = int(np.floor(inside))
            return [(low, 1 - (inside - low)), (min(low + 1, size - 1), inside - low)]
        low, high = (min(max(int(np.floor(p)) + k, 0), size - 1) for k in (0, 1))
        return [(low, 1 + low - inside), (high, 1 - (high - inside))]

    for place in np.ndindex(rows.shape):
        for y, weight_y in neighbours(rows[place], h):
            for x_, weight_x in neighbours(columns[place], w):
                out[place] += weight_y * weight_x * x[place[0], y, x_]
    return out


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
    rows, columns = (rng.uniform(-2, size + 1, (2, 5, 3)).astype(np.float32) for size in (4, 6))
    return tuple(map(jnp.asarray, (x, rows, columns)))


@pytest.mark.parametrize("double_edge", [False, True])
def test_is_the_definition(example, double_edge):
    x, rows, columns = example
    np.testing.assert_allclose(bilinear(*example, double_edge), slow(x, rows, columns, double_edge), atol=1e-5)


def test_on_pixels_and_on_the_edge():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    rows, columns = jnp.array([[[1.0, 2.0, -0.5]]]), jnp.array([[[2.0, 3.0, 1.5]]])
    np.testing.assert_allclose(bilinear(x, rows, columns)[0, 0, :, 0], [6, 11, 1.5])
    np.testing.assert_allclose(bilinear(x, rows, columns, double_edge=True)[0, 0, :, 0], [6, 44, 3])


@pytest.mark.parametrize("double_edge", [False, True])
def test_gradients(example, double_edge):
    _, rows, _ = example
    rng = np.random.default_rng(1)
    cotangent = rng.standard_normal((*rows.shape, 3)).astype(np.float32)

    def value(*args):
        return (bilinear(*args, double_edge) * cotangent).sum()

    gradients = jax.grad(value, (0, 1, 2))(*example)
    eps = 1e-4
    for k, (argument, gradient) in enumerate(zip(example, gradients, strict=True)):
        step = eps * rng.standard_normal(argument.shape)
        ends = [
            (
                slow(
                    *(np.asarray(a, np.float64) + s * step if i == k else a for i, a in enumerate(example)), double_edge
                )
                * cotangent
            )
            for s in (1, -1)
        ]
        np.testing.assert_allclose((gradient * step).sum(), (ends[0] - ends[1]).sum() / 2, rtol=1e-3)
    outside = (rows < 0) | (rows > 3)
    assert outside.any()
    assert not gradients[1][outside].any()
    assert gradients[1][~outside].all()
