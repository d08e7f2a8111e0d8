"""Patch transfer against slow loops, and the layers that only TTSR and MASA have."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import layers, resampling
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.transfer import coverage, similarity, transfer, transfer_cells
from tests.helpers import relative_error


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pasted(features, index, scale):
    """The definition of `transfer`, one image and one patch at a time, in float64: sum and number of patches."""
    (m, h, w), n = index.shape, features.shape[0]
    border = [(0, 0), (scale, scale), (scale, scale), (0, 0)]
    ref = np.pad(features.astype(np.float64), border)
    total = np.zeros((m, (h + 2) * scale, (w + 2) * scale, features.shape[-1]))
    count = np.zeros(total.shape[1:3])
    size, width = 3 * scale, features.shape[2] // scale
    for k in range(m):
        for y in range(h):
            for x in range(w):
                if index[k, y, x] < 0:
                    continue
                row, column = (scale * int(i) for i in divmod(index[k, y, x], width))
                patch = ref[k // (m // n), row : row + size, column : column + size]
                total[k, scale * y : scale * y + size, scale * x : scale * x + size] += patch
                count[scale * y : scale * y + size, scale * x : scale * x + size] += k == 0
    inner = np.s_[scale:-scale, scale:-scale]
    return total[:, *inner], count[inner]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_transfer_pastes_patches(scale):
    features = random(2, 5 * scale, 4 * scale, 3)
    index = np.random.default_rng(1).integers(0, 20, (4, 3, 6)).astype(np.int32)
    expected, count = pasted(features, index, scale)
    np.testing.assert_allclose(transfer(features, index, scale), expected, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(coverage(3, 6)).repeat(scale, 0).repeat(scale, 1)[..., 0], count)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_no_patch_is_pasted_where_there_is_no_match(scale):
    features = random(2, 5 * scale, 4 * scale, 3)
    index = np.random.default_rng(1).integers(0, 20, (2, 4, 6)).astype(np.int32)
    index[np.random.default_rng(2).uniform(size=index.shape) < 0.3] = -1
    np.testing.assert_allclose(transfer(features, index, scale), pasted(features, index, scale)[0], atol=1e-5)
    inside = np.pad(index.clip(0)[:1, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    _, count = pasted(features[:1], inside, scale)
    np.testing.assert_array_equal(np.asarray(coverage(4, 6, 1)).repeat(scale, 0).repeat(scale, 1)[..., 0], count)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_cells_alone(scale):
    features = random(2, 5 * scale, 4 * scale, 3)
    index = np.random.default_rng(1).integers(0, 20, (2, 3, 6)).astype(np.int32)
    got = transfer_cells(features, index, scale)
    for image, y, x in ((0, 0, 0), (1, 2, 5), (1, 0, 3)):
        row, column = (scale * i for i in divmod(int(index[image, y, x]), 4))
        expected = features[image, row : row + scale, column : column + scale]
        np.testing.assert_array_equal(got[image, y * scale : (y + 1) * scale, x * scale : (x + 1) * scale], expected)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_patches_that_stay_where_they_are_give_the_features(scale):
    features = random(2, 5 * scale, 6 * scale, 3)
    stay = jnp.arange(30, dtype=jnp.int32).reshape(1, 5, 6).repeat(2, 0)
    count = coverage(5, 6).repeat(scale, 0).repeat(scale, 1)[None]
    np.testing.assert_allclose(transfer(features, stay, scale) / count, features, rtol=1e-6)


def test_transfer_gives_each_gradient_back_to_its_source():
    features, cotangent = random(2, 8, 10, 3), random(2, 6, 6, 3, seed=1)
    index = np.random.default_rng(1).integers(0, 20, (2, 3, 3)).astype(np.int32)
    got = jax.vjp(lambda f: transfer(f, index, 2), features)[1](cotangent)[0]
    direction = random(*features.shape, seed=2)  # transfer is linear: <J d, c> = <d, J^T c>
    along, _ = pasted(direction, index, 2)
    np.testing.assert_allclose((got * direction).sum(), (along * cotangent).sum(), rtol=1e-4)


def test_similarity_is_the_score_of_the_search():
    a, b = random(2, 7, 6, 5), random(2, 9, 8, 5, seed=1)
    b = np.pad(b, ((0, 0), (1, 1), (1, 1), (0, 0)))
    index, score = match_patches(a, b, normalise=False)
    np.testing.assert_allclose(similarity(a, b, index), score, rtol=1e-4)
    gradients = jax.grad(lambda a, b: similarity(a, b, index).sum(), (0, 1))(a, b)
    eps = 1e-2
    for k, (x, gradient) in enumerate(zip((a, b), gradients, strict=True)):
        step = random(*x.shape, seed=3) * eps
        ends = [
            similarity(*(v + s * step if i == k else v for i, v in enumerate((a, b))), index).sum() for s in (1, -1)
        ]
        np.testing.assert_allclose((gradient * step).sum(), (ends[0] - ends[1]) / 2, rtol=0.02)


def test_patches_of_zeros_have_no_similarity_and_no_gradient():
    index = jnp.zeros((1, 3, 3), jnp.int32)
    a, b = jnp.zeros((1, 5, 5, 2)), jnp.asarray(random(1, 6, 6, 2))
    value, gradients = jax.value_and_grad(lambda a, b: similarity(a, b, index).sum(), (0, 1))(a, b)
    assert value == 0
    assert not any(g.any() for g in gradients)


def slow_bicubic(row, factor, aligned=False):
    """One row, one output pixel at a time, a = -0.75."""

    def weight(t):
        t = abs(t)
        return (1.25 * t - 2.25) * t**2 + 1 if t < 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    out, last = [], factor * len(row) - 1
    for i in range(factor * len(row)):
        position = i * (len(row) - 1) / last if aligned else (i + 0.5) / factor - 0.5
        first = int(np.floor(position)) - 1
        out.append(sum(weight(position - k) * row[min(max(k, 0), len(row) - 1)] for k in range(first, first + 4)))
    return np.array(out)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_interpolation(factor):
    x = random(2, 5, 7, 3)
    for function, aligned in ((resampling.bicubic, False), (resampling.bicubic_aligned, True)):
        expected = np.apply_along_axis(slow_bicubic, 1, x, factor, aligned)
        expected = np.apply_along_axis(slow_bicubic, 2, expected, factor, aligned)
        np.testing.assert_allclose(function(x, factor), expected, atol=1e-5)


@pytest.mark.parametrize("size", [3, 4])
def test_transposed_convolution(size):
    """One input pixel adds the kernel around twice its place; JAX's own transposed convolution has the same gradients."""
    model, x = layers.UpConv(5, size), random(2, 4, 6, 3)
    params = model.init(jax.random.key(0), x)["params"]
    kernel = random(size, size, 5, 3)
    expected = np.zeros((2, 2 * 4 + 2, 2 * 6 + 2, 5))  # with a border of one
    for y in range(4):
        for c in range(6):
            expected[:, 2 * y : 2 * y + size, 2 * c : 2 * c + size] += np.einsum("ni,yxoi->nyxo", x[:, y, c], kernel)
    params = params | {"kernel": kernel}
    np.testing.assert_allclose(model.apply({"params": params}, x), expected[:, 1:-1, 1:-1], atol=1e-5)

    def native(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), ((size - 2, 2), (size - 2, 2)), transpose_kernel=True)

    cotangent = random(2, 8, 12, 5)
    got = jax.vjp(lambda x, k: model.apply({"params": params | {"kernel": k}}, x), x, kernel)[1](cotangent)
    for a, b in zip(got, jax.vjp(native, x, kernel)[1](cotangent), strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("size", [3, 4])
def test_initial_parameters_are_pytorchs(size):
    """Uniform within 1 / sqrt(inputs), biases, too; of a transposed convolution, what it gives counts as inputs."""

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.UpConv(10, size, default_bias=True, name="up")(
                layers.default_conv(x, 20, size=size, name="conv")
            )

    params = jax.jit(Layers().init)(jax.random.key(0), random(1, 4, 4, 30))["params"]
    for name, inputs in (("conv", 30), ("up", 10)):
        bound = (size**2 * inputs) ** -0.5
        for leaf, value in params[name].items():
            assert 0.7 * bound < np.abs(value).max() <= bound, (name, leaf)
