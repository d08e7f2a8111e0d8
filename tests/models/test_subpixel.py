"""Matches between pixels, on features that are known between pixels."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import matching
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.models.matching import match_patches, normalised, patch_norm
from rrsr_jax.models.subpixel import interpolated_offsets, smooth_flow, subpixel_shift
from tests.helpers import random_params, relative_error, tiny_rrsr


def features(height, width, dy=0.0, dx=0.0, channels=12):
    """(1, height, width, channels): slow waves of random direction, seen from (dy, dx)."""
    rng = np.random.default_rng(0)
    frequency, phase = rng.uniform(-0.9, 0.9, (2, channels)), rng.uniform(0, 6.3, channels)
    y, x = np.mgrid[:height, :width][..., None] + np.array([dy, dx])[:, None, None, None]
    return jnp.asarray(np.cos(y * frequency[0] + x * frequency[1] + phase)[None], jnp.float32)


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 0.0), (0.3, -0.4), (-0.45, 0.2), (0.1, 0.45)])
def test_the_shift_between_pixels_is_found(dy, dx):
    a, b = features(14, 18, dy, dx), features(16, 20)
    index, _ = match_patches(a, b)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    place = jnp.stack([index // 18, index % 18], -1) + subpixel_shift(a, b, index)
    expected = np.moveaxis(np.mgrid[:12, :16], 0, -1)[None] + np.array([dy, dx])
    error = np.abs((place - expected)[inside])
    assert error.max() < 0.2  # a parabola is not the peak's exact shape
    assert error.mean() < 0.05


def test_no_shift_at_the_edge_of_the_reference_or_without_a_peak():
    a, b = features(14, 18, 0.3, 0.3), features(16, 20)
    shift = subpixel_shift(a, b, jnp.zeros((1, 12, 16), jnp.int32))  # the top left corner
    np.testing.assert_array_equal(shift, 0)
    flat = jnp.ones_like(b)
    np.testing.assert_array_equal(subpixel_shift(a, flat, jnp.full((1, 12, 16), 40, jnp.int32)), 0)


def test_padding_of_the_reference_changes_no_shift():
    """Neither next to the edge nor at it, where there is none."""
    a, b = features(14, 18, 0.3, -0.4), features(14, 20)
    index, _ = match_patches(a, b)
    expected = subpixel_shift(a, b, index)
    padded = jnp.pad(b, ((0, 0), (0, 3), (0, 5), (0, 0)), constant_values=0.7)
    moved = index // 18 * 23 + index % 18
    np.testing.assert_allclose(subpixel_shift(a, padded, moved, np.array([[14, 20]])), expected, atol=1e-6)
    assert (np.asarray(index) // 18 == 11).any()  # the last row of patches
    known = normalised(padded)
    given = subpixel_shift(normalised(a), known, moved, np.array([[14, 20]]), patch_norm(known))
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_the_model_refines_each_match_in_its_own_reference():
    rng = np.random.default_rng(0)
    first, second = (
        cv2.GaussianBlur(rng.integers(0, 256, (*s, 3)).astype(np.float32), (0, 0), 4) for s in ((64, 72), (72, 64))
    )
    first, second = ((image - image.min()) / np.ptp(image) for image in (first, second))
    # The upper half shows one reference, the lower half the other; neither by whole cells.
    hr = np.concatenate([first[10:42, 14:62], second[18:50, 6:54]])
    lr = jnp.asarray(hr.reshape(16, 4, 12, 4, 3).mean((1, 3))[None])
    first, second = (jnp.asarray(image[None]) for image in (first, second))
    plain, refined = (tiny_rrsr(match_subpixel=field) for field in (False, True))
    params = random_params(plain)
    params["correspondence"] = untrained(params["correspondence"])

    def run(model, refs):
        _, state = model.apply({"params": params}, lr, refs, mutable=["intermediates"])
        return {k: v[0] for k, v in state["intermediates"].items() if k in ("match_reference", "flow")}

    whole, both = run(plain, [first, second]), run(refined, [first, second])
    moved = np.asarray(both["flow"] - whole["flow"])
    assert np.abs(moved).max() <= 0.5
    np.testing.assert_array_equal(moved[:, -2:], 0)
    np.testing.assert_array_equal(moved[:, :, -2:], 0)
    for number, ref in enumerate([first, second]):  # as if the other one were not there
        alone = np.asarray(run(refined, [ref])["flow"] - run(plain, [ref])["flow"])[:, :-2, :-2]
        chosen = np.asarray(whole["match_reference"] == number)
        np.testing.assert_allclose(moved[:, :-2, :-2][chosen], alone[chosen], atol=1e-5)
        assert (np.abs(alone[chosen]) > 0.05).any(0).all()  # in y and in x
    assert relative_error(*(model.apply({"params": params}, lr, first) for model in (plain, refined))) > 1e-6


def affine_flow(height, width):
    """Flow (1, height, width, 2) of patches' top left corners whose centres move by a scaled and turned map, and the map."""

    def flow(y, x):
        return np.stack([0.2 * y - 0.1 * x + 3, 0.15 * y + 0.3 * x - 2], -1)

    y, x = np.mgrid[:height, :width].astype(np.float32)
    found = flow(y + 1, x + 1)[None]
    found[:, -2:], found[:, :, -2:] = 0, 0
    return found.astype(np.float32), flow


def smooth_pre_offsets(flow, scale):
    return interpolated_offsets(smooth_flow(flow), scale)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_smooth_pre_offsets_follow_a_linear_flow_between_its_pixels(scale):
    flow, expected = affine_flow(11, 12)
    outlier = flow.copy()
    outlier[0, 4, 5] = 100
    y, x = (np.mgrid[: 11 * scale, : 12 * scale] + 0.5) / scale - 0.5
    inside = (slice(3 * scale, -3 * scale),) * 2  # the edge is repeated, and the median looks at it
    for given in (flow, outlier):
        got = np.asarray(smooth_pre_offsets(jnp.asarray(given), scale))
        assert got.shape == (1, 11 * scale, 12 * scale, 9, 2)
        assert (got == got[..., :1, :]).all()
        atol = 1e-4 if given is flow else 0.5 * scale  # a median of eight, next to an outlier
        np.testing.assert_allclose(got[0, ..., 0, :][inside], scale * expected(y, x)[inside], atol=atol)


def test_a_constant_flow_is_the_same_in_both_kinds_of_pre_offsets():
    flow = np.zeros((1, 8, 10, 2), np.float32)
    flow[:, :-2, :-2] = (2, -3)
    for scale in (1, 2, 4):
        both = (np.asarray(f(jnp.asarray(flow), scale)) for f in (matching.pre_offsets, smooth_pre_offsets))
        inside = (0, slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
        a, b = (offsets[inside] for offsets in both)
        np.testing.assert_array_equal(a, b)
