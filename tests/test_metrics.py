"""Metrics and resampling against the published protocol."""

import numpy as np
import pytest

from rrsr_jax import metrics
from rrsr_jax.data import images


@pytest.mark.parametrize("border", [0, 4])
def test_matches_golden(golden, border):
    z = golden("protocol")
    got = metrics.quality(z["noisy"], z["image"], border)
    assert got["psnr_y"] == pytest.approx(float(z[f"psnr_y_crop{border}"]), abs=1e-6)
    assert got["ssim_y"] == pytest.approx(float(z[f"ssim_y_crop{border}"]), abs=1e-6)
    if border:
        rgb = metrics.psnr(z["noisy"], z["image"], border)
        assert rgb == pytest.approx(float(z["psnr_rgb_crop4"]), abs=1e-6)


def test_resampling_is_the_published_one(golden):
    z = golden("protocol")
    np.testing.assert_array_equal(images.downscale(z["image"]), z["down"])
    np.testing.assert_array_equal(images.upscale(z["down"]), z["up"])


def test_equal_and_opposite_images():
    black = np.zeros((20, 20, 3), np.uint8)
    assert metrics.psnr(black, black) == float("inf")
    assert metrics.psnr(black, black + 255) == 0
    assert metrics.ssim(metrics.luma(black), metrics.luma(black)) == 1


def test_luma_of_black_white_and_colours():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(metrics.luma(colours)[0], [16, 235, 81.481, 40.966], atol=0.01)


def test_saved_image_is_rounded_and_clipped():
    np.testing.assert_array_equal(metrics.to_uint8(np.array([-0.2, 0.4 / 255, 0.6 / 255, 1.3])), [0, 0, 1, 255])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(np.zeros((4, 4)), np.zeros((4, 5)))
