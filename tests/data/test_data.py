"""Images, datasets, and the input pipeline."""

import itertools

import cv2
import numpy as np
import pytest

from configs import cufed5
from rrsr_jax.data import images, pipeline, transforms
from rrsr_jax.errors import InputError
from tests.helpers import tiny_config


def random_image(height=40, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_image(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) % 256], -1).astype(np.uint8)


def test_warp_moves_each_corner_within_its_range(monkeypatch):
    quadrilaterals = []
    original = cv2.getPerspectiveTransform
    monkeypatch.setattr(cv2, "getPerspectiveTransform", lambda a, b: quadrilaterals.append((a, b)) or original(a, b))
    image = smooth_image(80, 60)
    rng = np.random.default_rng(0)
    for _ in range(50):
        images.perspective_warp(image, rng)
    box = np.array([[0, 0], [60, 0], [60, 80], [0, 80]])
    # Pipelines of other tests may still prefetch.
    moves = np.stack([b - a for a, b in quadrilaterals if (a == box).all()])
    assert len(moves) == 50
    assert np.abs(moves).min() >= 5
    assert np.abs(moves).max() <= 20
    assert (moves > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_warp_is_the_homography_with_black_outside():
    image = smooth_image(120, 120)
    rng = np.random.default_rng(3)
    warped, homography = images.perspective_warp(image, rng)
    rng = np.random.default_rng(3)
    shift = rng.uniform(5, 20, (4, 2)) * rng.choice([-1, 1], (4, 2))
    box = np.array([[0, 0], [120, 0], [120, 120], [0, 120]], np.float64)
    # Solve for the homography anew, and look one pixel up by hand.
    rows = []
    for (x, y), (u, v) in zip(box, box + shift, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, u], [0, 0, 0, x, y, 1, -v * x, -v * y, v]]
    rows = np.array(rows)
    h = np.append(np.linalg.solve(rows[:, :8], rows[:, 8]), 1).reshape(3, 3)
    np.testing.assert_allclose(homography, h, rtol=1e-4, atol=1e-6)
    source = np.linalg.inv(h) @ [70, 50, 1]
    x, y = source[:2] / source[2]
    np.testing.assert_allclose(warped[50, 70, :2], [y * 255 / 120, x * 255 / 120], atol=2)
    assert warped.shape == image.shape
    inward = [corner for corner, s in zip([(0, 0), (0, -1), (-1, -1), (-1, 0)], shift, strict=True) if abs(s).min() > 5]
    assert any((warped[c] == 0).all() for c in inward)


def test_random_view_is_the_crop_and_something_near_it():
    photograph = smooth_image(200, 220)
    hr, ref = images.random_view(photograph, 64, np.random.default_rng(0))
    assert hr.shape == ref.shape == (64, 64, 3)
    assert (hr != ref).any()
    places = [(y, x) for y in range(137) for x in range(157) if (photograph[y, x] == hr[0, 0]).all()]
    assert any((photograph[y : y + 64, x : x + 64] == hr).all() for y, x in places)


def test_random_view_shifts_and_bends_as_far_as_it_is_told(monkeypatch):
    monkeypatch.setattr(images, "relight", lambda image, rng: image)
    photograph = random_image(200, 220)
    still, same = images.random_view(photograph, 64, np.random.default_rng(0), shift=0, corners=0)
    np.testing.assert_array_equal(still, same)
    moves = []
    original = cv2.getPerspectiveTransform
    monkeypatch.setattr(cv2, "getPerspectiveTransform", lambda a, b: moves.append(a - b) or original(a, b))
    for seed in range(40):
        images.random_view(photograph, 64, np.random.default_rng(seed), shift=0.25, corners=0, whole_pixels=True)
        rng = np.random.default_rng(seed)  # where the crop is
        top, left = rng.integers(0, 137), rng.integers(0, 157)
        moves[-1] -= [left, top]
    moves = np.array(moves)
    assert np.abs(moves).max() == 16
    assert (moves % 4 == 0).all()
    assert np.ptp(moves, axis=1).max() == 0  # all corners move together


def test_augmentation_treats_all_images_alike_and_reaches_all_eight_symmetries():
    image = random_image(8, 8)
    transform, seen = transforms.FlipAndTurn(), set()
    for seed in range(60):
        out = transform.random_map({"hr": image, "ref": image}, np.random.default_rng(seed))
        np.testing.assert_array_equal(out["hr"], out["ref"])
        seen.add(out["hr"].tobytes())
    assert len(seen) == 8


def test_batches_have_what_both_passes_need():
    config = tiny_config()
    batch = next(pipeline.training_batches(config.data, 2, seed=0))
    sizes = {"lr": 8, "hr": 32, "ref": 32, "ref_p": 32, "ref_lr_p": 8}
    assert {k: v.shape for k, v in batch.items()} == {k: (2, s, s, 3) for k, s in sizes.items()}
    assert all(v.dtype == np.uint8 for v in batch.values())
    for i in range(2):
        np.testing.assert_array_equal(batch["lr"][i], images.downscale(batch["hr"][i]))
        np.testing.assert_array_equal(batch["ref_lr_p"][i], images.downscale(batch["ref_p"][i]))
    assert (batch["ref_p"] != batch["ref"]).any()


def test_the_reference_is_what_gets_warped(monkeypatch):
    ranges = []
    monkeypatch.setattr(transforms, "perspective_warp", lambda image, rng, *r: (ranges.append(r) or 255 - image, None))
    batch = next(pipeline.training_batches(tiny_config(data__warp_range=(3.0, 6.0)).data, 2, seed=0))
    np.testing.assert_array_equal(batch["ref_p"], 255 - batch["ref"])
    assert (3.0, 6.0) in ranges  # others come from pipelines of other tests that still prefetch


def test_without_warp_the_reference_stands_in():
    config = tiny_config(data__warp=False)
    batch = next(pipeline.training_batches(config.data, 2, seed=0))
    np.testing.assert_array_equal(batch["ref_p"], batch["ref"])


def test_order_is_fixed_by_the_seed_and_resumes_at_any_batch():
    config = tiny_config()
    first, second = (pipeline.training_batches(config.data, 2, seed=7) for _ in range(2))
    for _ in range(3):
        np.testing.assert_array_equal(next(first)["ref_p"], next(second)["ref_p"])
    expected = [next(first)["hr"] for _ in range(2)]
    resumed = pipeline.training_data(config.data, 2, seed=7).start(3)
    for batch in expected:
        np.testing.assert_array_equal(next(resumed)["hr"], batch)
    other = next(pipeline.training_batches(config.data, 2, seed=8))["hr"]
    assert (other != next(pipeline.training_batches(config.data, 2, seed=7))["hr"]).any()


def test_processes_share_the_batch_without_overlap():
    config = tiny_config()
    whole = next(pipeline.training_batches(config.data, 4, seed=0))["hr"]
    parts = [next(pipeline.training_batches(config.data, 4, 0, i, 2))["hr"] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[[0, 2, 1, 3]])


def test_any_number_of_processes_goes_on_with_the_same_batches():
    """A run of two processes, then of one, then of three, sees what one process would have seen."""
    config = tiny_config().data
    whole = itertools.islice(pipeline.training_batches(config, 6, 0), 6)
    expected = [np.sort(batch["hr"].sum((1, 2, 3))) for batch in whole]
    got = []
    for count, first in ((2, 0), (1, 2), (3, 4)):
        shares = [pipeline.training_data(config, 6, 0, index, count).start(first) for index in range(count)]
        for _ in range(2):
            got.append(np.sort(np.concatenate([next(share)["hr"] for share in shares]).sum((1, 2, 3))))
    np.testing.assert_array_equal(got, expected)
    assert len({tuple(sums) for sums in got}) == 6


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"photo: 3 channels \(H, W, 3\) expected, got 4"),
        (np.zeros((8, 8), np.uint8), r"photo: 3 channels .* got shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), r"photo: 8-bit \(uint8\) expected, got float32"),
        (np.zeros((8, 30, 3), np.uint8), "photo: at least 12x12 pixels expected, got 8x30"),
    ],
)
def test_arrays_that_are_no_images(image, message):
    with pytest.raises(InputError, match=message):
        images.check_image(image, "photo", smallest=12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch=640), r"astronaut: at least 640x640 pixels expected"),
        (dict(name="cufed6"), r"dataset: one of cufed, cufed5, .* expected, got 'cufed6'"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    config = tiny_config()
    config.data.update(changes)
    with pytest.raises(InputError, match=message):
        pipeline.training_batches(config.data, 2, seed=0)


def test_paper_constants():
    config = cufed5.get_config()
    assert config.data.warp_range == (5.0, 20.0)
    assert (config.data.patch, config.batch_size, config.steps) == (160, 9, 255_000)
    assert config.loss.to_dict() == {"rec": 1.0, "rtrr": 0.4}
    rates = config.learning_rates
    assert (rates.default, rates.offset_4x, rates.offset_2x, rates.offset_1x) == (1e-4, 1e-4, 1e-5, 1e-6)
    assert rates.vgg == rates.correspondence == 0
    assert config.decay_steps == (72_545, 211_040)
