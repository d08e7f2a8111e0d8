"""NIQE against golden arrays, and what it says of images that it cannot measure."""

import numpy as np
import pytest

from rrsr_jax.evaluation.niqe import asymmetric_gaussian, block_features, halve, niqe
from tests.helpers import noise


def test_matches_release(golden):
    z = golden("niqe")
    np.testing.assert_allclose(niqe(z["image"]), z["niqe"], rtol=1e-6)


def test_parts_match_release(golden):
    z = golden("niqe")
    image = z["image"][4:196, 4:292].astype(np.int64)
    grey = np.floor(16.5 + image @ np.array([65_481, 128_553, 24_966]) / 255_000)
    np.testing.assert_allclose(halve(grey), z["half"], atol=1e-4)
    np.testing.assert_allclose(block_features(grey, 96)[0], z["features_first_block"], rtol=1e-9)


def test_fit_finds_the_distribution():
    """Sides with different scales, of a Gaussian (alpha = 2) and of a Laplacian (alpha = 1)."""
    rng = np.random.default_rng(0)
    for draw, alpha, ratio in ((rng.standard_normal, 2, np.sqrt(2)), (rng.laplace, 1, 1)):
        values = np.abs(draw(size=200_000)).reshape(1, -1)
        # A side has as large a share of the values as it has of the sum of both scales.
        signs = np.where(rng.random(values.shape) < 0.25, -1, 3)
        found, left, right = asymmetric_gaussian(values * signs)
        np.testing.assert_allclose([found[0], left[0], right[0]], [alpha, ratio, 3 * ratio], rtol=0.03)


def test_flat_blocks_do_not_count(golden):
    image = golden("niqe")["image"].copy()
    assert np.isfinite(niqe(np.pad(image, ((0, 192), (0, 0), (0, 0)))))
    with pytest.raises(ValueError, match="two blocks that are not of one colour, got 0 of 4"):
        niqe(np.full((200, 200, 3), 7, np.uint8))


@pytest.mark.parametrize("size", [(199, 103), (96, 400), (3, 3)])
def test_images_that_are_too_small(size):
    with pytest.raises(
        ValueError, match=f"two or more expected in the image without a border of 4, got {size[0]} x {size[1]}"
    ):
        niqe(noise(*size))


def test_wrong_images():
    for image in (noise()[..., 0], noise() / 255):
        with pytest.raises(ValueError, match=r"an RGB image \(H, W, 3\) uint8 expected, got"):
            niqe(image)
