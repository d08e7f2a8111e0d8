"""Parts of progressive feature alignment and selection, and the layers it shares with others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import pfas
from rrsr_jax.models.layers import pixel_shuffle
from rrsr_jax.models.pfas import ReferenceAwareSelection
from tests.helpers import images, relative_error


def test_selection_mixes_experts_as_in_equations_4_and_5():
    """One mixed kernel equals the weighted sum of the experts' convolutions, plus the mixed bias, per image."""
    (merged,) = images((2, 5, 6))
    model = ReferenceAwareSelection(features=4, experts=3, gate=False)
    variables = model.init(jax.random.key(1), merged)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), jnp.float32), variables["params"])
    got, found = model.apply({"params": params}, merged, mutable=["intermediates"])
    routing = found["intermediates"]["routing"][0]
    logits = merged.mean((1, 2)) @ params["router"]["kernel"] + params["router"]["bias"][None]
    np.testing.assert_allclose(routing, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    dims = ("NHWC", "HWIO", "NHWC")
    each = [
        jax.lax.conv_general_dilated(merged, kernel, (1, 1), "SAME", dimension_numbers=dims) + bias[None, None, None]
        for kernel, bias in zip(params["experts"], params["bias"], strict=True)
    ]
    expected = sum(routing[:, k, None, None, None] * each[k] for k in range(3))
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("backend", "convolutions"), [("cpu", 3), ("gpu", 1)])
def test_every_image_is_convolved_with_its_own_kernel(monkeypatch, backend, convolutions):
    """In one convolution for the batch on a GPU, in one for each image on a CPU."""
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 5, 7, 4), (3, 3, 3, 4, 2)))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    y, vjp = jax.vjp(pfas._conv_per_image, x, kernel)
    d_x, d_kernel = vjp(y)
    program = str(jax.make_jaxpr(lambda *a: pfas._conv_per_image(*a))(x, kernel))
    assert program.count("conv_general_dilated[") == convolutions
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.stack([padded[:, i : i + 5, j : j + 7] for i in range(3) for j in range(3)], 3)  # (n, h, w, tap, c)
    taps = np.asarray(kernel, np.float64).reshape(3, 9, 4, 2)
    expected = np.einsum("nhwtc,ntco->nhwo", windows, taps)
    assert relative_error(y, expected) < 1e-6
    by_kernel = np.einsum("nhwtc,nhwo->ntco", windows, expected).reshape(kernel.shape)
    assert relative_error(d_kernel, by_kernel) < 1e-6
    by_windows, d_padded = np.einsum("nhwo,ntco->nhwtc", expected, taps), np.zeros_like(padded)
    for i in range(3):
        for j in range(3):
            d_padded[:, i : i + 5, j : j + 7] += by_windows[:, :, :, 3 * i + j]
    assert relative_error(d_x, d_padded[:, 1:-1, 1:-1]) < 1e-6


def test_pixel_shuffle_orders_channels_before_positions():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # (c, dy, dx) = (2, 2, 2)
    np.testing.assert_array_equal(pixel_shuffle(x)[0, ..., 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(pixel_shuffle(x)[0, ..., 1], [[4, 5], [6, 7]])
