"""MASA against the golden arrays of the authors' release, and its matching against a slow definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models.masa import MASA, match_blocks
from rrsr_jax.models.resampling import bicubic_downsample
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import images, random_params, relative_error


def tiny_masa():
    return MASA(features=8, encoder_blocks=1, decoder_blocks=1, blocks=(1, 1, 1))


@pytest.fixture(scope="module")
def params():
    return random_params(tiny_masa())


@jax.jit
def apply(params, lr, ref):
    """Result and intermediates; compiled once per shapes, which the tests therefore share."""
    sr, found = tiny_masa().apply({"params": params}, lr, ref, mutable=["intermediates"])
    return sr, found["intermediates"]


@jax.jit
@functools.partial(jax.grad, argnums=(0, 2))
def gradient(params, lr, ref, target):
    return ((tiny_masa().apply({"params": params}, lr, ref) - target) ** 2).sum()


match = jax.jit(match_blocks, static_argnums=2)


def slow_match(features_in, features_ref):
    """The definition for one image, a block at a time, in float64: absolute index of every match, and its margin."""
    lr = np.pad(features_in.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    ref = features_ref.astype(np.float64)
    (h, w, _), (hr, wr, _) = features_in.shape, ref.shape
    index, margin = np.zeros((h, w), int), np.zeros((h, w))

    def unit(v):
        return v / np.linalg.norm(v)

    def stencil(x, y, c, d):
        return unit(np.stack([x[y + i * d, c + j * d] for i in (-1, 0, 1) for j in (-1, 0, 1)]))

    def window(size, centre, blocks):
        d = 2 * int(size // (2 * blocks) * 1.5) + 1
        first, last = centre - d // 2 - 1, centre + d // 2 + 1
        if first < 0:
            first, last = 0, d + 1
        if last > size - 1:
            first, last = size - 1 - (d + 1), size - 1
        return max(first, 0), last

    padded = np.pad(ref, ((3, 3), (3, 3), (0, 0)))
    for y0 in range(0, h, 8):
        for x0 in range(0, w, 8):
            block = lr[y0 : y0 + 10, x0 : x0 + 10]
            scores = [
                [
                    sum((stencil(block, 5, 5, d) * stencil(padded, y + 3, x + 3, d)).sum() for d in (1, 2, 3))
                    for x in range(wr)
                ]
                for y in range(hr)
            ]
            centre = np.unravel_index(np.argmax(scores), (hr, wr))
            (y1, y2), (x1, x2) = (window(s, c, b) for s, c, b in zip((hr, wr), centre, (h // 8, w // 8), strict=True))
            places = [(y, x) for y in range(y1 + 1, y2) for x in range(x1 + 1, x2)]
            patches = np.stack([stencil(ref, y, x, 1) for y, x in places])
            for y in range(8):
                for x in range(8):
                    products = (patches * stencil(block, y + 1, x + 1, 1)).sum((1, 2))
                    best = np.sort(products)
                    row, column = places[int(products.argmax())]
                    index[y0 + y, x0 + x], margin[y0 + y, x0 + x] = row * wr + column, best[-1] - best[-2]
    return index, margin


def test_matches_release(golden, state_dict):
    z = golden("masa")
    params = torch_layout.from_torch("masa", state_dict("masa"))
    sr = jax.jit(MASA().apply)({"params": params}, z["lr"][None], z["ref"][None])
    assert relative_error(sr, z["sr"]) < 1e-4
    np.testing.assert_allclose(bicubic_downsample(z["ref"][None])[0], z["ref_lr"], rtol=1e-6)


def test_parameters():
    variables = jax.eval_shape(MASA().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    assert sum(a.size for a in jax.tree.leaves(variables)) == 4_028_291


@pytest.mark.parametrize(("size", "ref_size", "tile"), [((16, 24), (16, 20), 2**22), ((24, 16), (12, 24), 1)])
def test_matching_is_the_definition(size, ref_size, tile):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, *s, 5)).astype(np.float32) for s in (size, ref_size))
    index = np.asarray(match(a, b, tile)).reshape(2, size[0] // 8, size[1] // 8, 8, 8)
    for got, lr, ref in zip(index.transpose(0, 1, 3, 2, 4).reshape(2, *size), a, b, strict=True):
        expected, margin = slow_match(lr, ref)
        clear = margin > 1e-5
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(got[clear], expected[clear])


def test_windows_are_no_larger_than_the_reference():
    a, b = (
        np.random.default_rng(i).standard_normal((1, *s, 5)).astype(np.float32) for i, s in ((0, (8, 8)), (1, (4, 4)))
    )
    index = np.asarray(match(a, b))
    assert index.shape == (1, 8, 8)
    assert set(index.ravel()) == {5, 6, 9, 10}


@pytest.mark.parametrize(("lr_size", "ref_size"), [((13, 6), (53, 30)), ((3, 3), (5, 14))])
def test_any_sizes(params, lr_size, ref_size):
    lr, ref = images((2, *lr_size), (2, *ref_size))
    sr, _ = apply(params, lr, ref)
    assert sr.shape == (2, 4 * lr_size[0], 4 * lr_size[1], 3)
    assert np.isfinite(sr).all()


def test_images_are_continued_to_whole_blocks_and_do_not_mix(params):
    lr, ref = images((2, 13, 6), (2, 53, 30))
    together, _ = apply(params, lr, ref)
    lr, ref = (jnp.pad(x, ((0, 0), (0, h), (0, w), (0, 0)), mode="edge") for x, h, w in ((lr, 3, 2), (ref, 11, 2)))
    for i in range(2):
        alone, _ = apply(params, lr[i : i + 1], ref[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0, :52, :24], atol=1e-5)
        other, _ = apply(params, lr[i : i + 1], ref[1 - i : 2 - i])
        assert np.abs(other - alone).mean() > 1e-4


def test_gradients_reach_every_parameter_and_the_reference(params):
    lr, ref = images((1, 16, 8), (1, 64, 32))
    by_params, by_ref = gradient(params, lr, ref, ref)
    for path, value in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(value).all(), path
        assert np.abs(value).max() > 0, path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref).max(-1) > 0).mean() > 0.3


def test_constant_images_have_finite_gradients(params):
    lr, ref = jnp.zeros((1, 16, 8, 3)), jnp.zeros((1, 64, 32, 3))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(params, lr, ref, ref + 1)))


def test_a_sharp_version_of_the_input_is_found_where_it_is(params):
    (hr,) = images((1, 64, 32))
    _, found = apply(params, bicubic_downsample(hr), hr)
    inner = np.s_[1:-1, 1:-1]  # no match is centred at the edge, where the input's patches reach into its continuation
    np.testing.assert_array_equal(found["match_index"][0][0][inner], np.arange(16 * 8).reshape(16, 8)[inner])
    np.testing.assert_allclose(found["match_score"][0][0][inner], 1, rtol=1e-5)
