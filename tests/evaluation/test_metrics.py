"""Metrics and resampling against the published protocol."""

import numpy as np
import pytest

from rrsr_jax.data import images
from rrsr_jax.evaluation import metrics


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
    np.testing.assert_array_equal(images.to_uint8(np.array([-0.2, 0.4 / 255, 0.6 / 255, 1.3])), [0, 0, 1, 255])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(np.zeros((4, 4)), np.zeros((4, 5)))


def slow_gmsd(a, b):
    """By its definition, pixel by pixel."""

    def gradients(image):
        height, width = (-(-n // 2) for n in image.shape)
        pixel = lambda y, x: float(image[y, x]) if y < image.shape[0] and x < image.shape[1] else 0.0  # noqa: E731
        small = {
            (y, x): sum(pixel(2 * y + i, 2 * x + j) for i in (0, 1) for j in (0, 1)) / 4
            for y in range(height)
            for x in range(width)
        }
        for y, x in small:
            at = {(i, j): small.get((y + i, x + j), 0.0) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            across = sum(at[i, 1] - at[i, -1] for i in (-1, 0, 1)) / 3
            down = sum(at[1, j] - at[-1, j] for j in (-1, 0, 1)) / 3
            yield (across**2 + down**2) ** 0.5

    pairs = list(zip(gradients(a), gradients(b), strict=True))
    similarities = [(2 * p * q + 170) / (p * p + q * q + 170) for p, q in pairs]
    mean = sum(similarities) / len(pairs)
    return (sum((s - mean) ** 2 for s in similarities) / (len(pairs) - 1)) ** 0.5


@pytest.mark.parametrize("shape", [(24, 32), (23, 31)])
def test_gmsd_follows_its_definition(golden, shape):
    image = metrics.luma(golden("protocol")["image"])
    a, b = image[: shape[0], : shape[1]], image[-shape[0] :, -shape[1] :]
    assert metrics.gmsd(a, b) == pytest.approx(slow_gmsd(a, b), rel=1e-9)
    assert metrics.gmsd(a, b) == metrics.gmsd(b, a) > 0.01
    assert metrics.gmsd(a, a) == 0
    assert metrics.gmsd(a, b, 4) == metrics.gmsd(a[4:-4, 4:-4], b[4:-4, 4:-4]) != metrics.gmsd(a, b)


def test_gmsd_of_blurred_images(golden):
    hr = golden("protocol")["image"]
    soft = (hr.astype(np.float64) + np.roll(hr, 1, 1)) / 2
    blurred = [hr, images.to_uint8(soft / 255), images.upscale(images.downscale(hr))]
    assert 0 == (values := [metrics.quality(image, hr, 0)["gmsd_y"] for image in blurred])[0] < values[1] < values[2]


def test_gmsd_by_hand():
    """Halved to 3 x 3: all black, against one grey value at the lower right corner; its gradient reaches four pixels."""
    black, corner = np.zeros((6, 6)), np.zeros((6, 6))
    corner[4:, 4:] = [[60, 60], [0, 120]]  # mean 60
    length = {(1, 1): (20**2 + 20**2) ** 0.5, (1, 2): 20, (2, 1): 20}  # at (2, 2) only neighbours count: 0
    similarities = np.ones((3, 3))
    for at, m in length.items():
        similarities[at] = 170 / (m**2 + 170)
    assert metrics.gmsd(black, corner) == pytest.approx(np.std(similarities, ddof=1), rel=1e-12)
