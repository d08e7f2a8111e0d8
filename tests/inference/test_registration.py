"""References brought to the view of the image: known views are found, others are left as they are."""

import cv2
import numpy as np
import pytest
import skimage.data

from rrsr_jax.data.images import downscale
from rrsr_jax.inference import registration
from rrsr_jax.inference.registration import homography, register

HR = skimage.data.astronaut()[:400]  # 400 x 512
OTHER = skimage.data.coffee()[:400, :512]
LR = downscale(HR)
VIEWS = {
    "nearer": (2.0, 0.0, 0.0),
    "further": (0.5, 0.0, 0.0),
    "turned": (1.0, 90.0, 0.0),
    "tilted": (1.2, -30.0, 3e-4),
}


def unit(image):
    return np.ascontiguousarray(image, np.float32) / 255


def view(scale, turn, tilt):
    """The homography from HR to a view of it."""
    to_view = np.eye(3)
    to_view[:2] = cv2.getRotationMatrix2D((256, 200), turn, scale)
    to_view[2, 0] = tilt
    return to_view


def photograph(to_view):
    image = cv2.GaussianBlur(HR, (0, 0), 1.0) if to_view[0, 0] == 0.5 else HR
    return unit(cv2.warpPerspective(image, to_view, (512, 400), flags=cv2.INTER_CUBIC))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_found_to_a_pixel(name):
    to_view = view(*VIEWS[name])
    found = homography(unit(LR), photograph(to_view))
    points = np.array([[200, 120, 1], [330, 160, 1], [240, 260, 1]], float).T  # (x, y) in HR
    back = found @ to_view @ points
    np.testing.assert_allclose(back[:2] / back[2], points[:2], atol=1.5)


@pytest.mark.parametrize("name", VIEWS)
def test_the_reference_then_shows_what_the_result_shows(name):
    reference, note = register(unit(LR), photograph(view(*VIEWS[name])))
    assert note == "warped to the view of the photograph"
    assert reference.dtype == np.float32
    # Where it was cut out of the frame of the result, found by its content.
    errors = cv2.matchTemplate(unit(HR), reference[40:-40, 40:-40], cv2.TM_SQDIFF)
    _, _, (left, top), _ = cv2.minMaxLoc(errors)
    shown = unit(HR)[top : top + reference.shape[0] - 80, left : left + reference.shape[1] - 80]
    inside = np.s_[60:120, 60:120] if name == "nearer" else np.s_[90:200, 120:250]
    assert np.abs(shown[inside] - reference[40:-40, 40:-40][inside]).mean() < 0.04
    if name == "nearer":  # the frame of the view is the middle half of the image
        np.testing.assert_allclose(reference.shape[:2], (200, 256), atol=4)


@pytest.mark.parametrize(
    "reference", [OTHER, HR[:, ::-1], np.full_like(HR, 127)], ids=["unrelated", "mirrored", "flat"]
)
def test_what_is_not_recognised_stays_as_it_is(reference):
    assert homography(unit(LR), unit(reference)) is None
    given = unit(reference)
    registered, note = register(unit(LR), given)
    assert registered is given
    assert note == ""


def test_what_is_much_larger_than_the_result_is_reduced():
    large = cv2.resize(unit(OTHER), (1200, 900))
    reference, note = register(unit(LR), large)
    assert reference.shape == (384, 512, 3)
    assert note == "reduced to the size of the result"
    np.testing.assert_allclose(reference.mean((0, 1)), large.mean((0, 1)), atol=0.01)
    narrow, _ = register(unit(LR), np.zeros((5, 3000, 3), np.float32))
    assert narrow.shape == (12, 512, 3)


def test_the_same_large_photograph_is_found(monkeypatch):
    """As it is with two cameras: the reference has four times the pixels of the result on each side."""
    small = downscale(HR[::2, ::2])
    reference, note = register(unit(small), unit(cv2.resize(HR, (1024, 800))))
    assert note == "warped to the view of the photograph"
    assert np.abs(reference[:192, :248] - unit(HR[::2, ::2])[:192, :248]).mean() < 0.05
    monkeypatch.setattr(registration, "_MOST_SIDE", 500)  # what OpenCV cannot warp
    assert register(unit(LR), unit(HR)).note == ""


def test_images_of_hardly_any_pixels():
    for size in (1, 3, 12):
        image = np.random.default_rng(0).random((size, size + 1, 3), np.float32)
        assert homography(image, unit(HR)) is None
        assert homography(unit(LR), image) is None
