"""Augmentation of training pairs: geometry, light, degradation, unrelated references and none."""

import contextlib

import cv2
import numpy as np
import pytest

from rrsr_jax.data import augment, images, pipeline, transforms
from tests.data.test_data import random_image, smooth_image
from tests.helpers import get_config, tiny_config

HARSH = dict(share=1.0, blur=2.0, noise=10.0, jpeg=30)


def textured(height=300, width=320):
    """Smooth random texture, whose views can be compared after warping them back."""
    image = cv2.GaussianBlur(random_image(height, width), (0, 0), 3).astype(float)
    return np.clip(128 + 6 * (image - 128), 0, 255).astype(np.uint8)


def test_the_homography_takes_the_first_view_to_the_second():
    photograph = textured()
    for seed in range(20):
        hr, other, homography = images.view_pair(
            photograph, 96, np.random.default_rng(seed), shift=0.1, corners=0.05, rotation=20, zoom=(0.6, 1.6)
        )
        assert hr.shape == other.shape == (96, 96, 3)
        back = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
        inside = cv2.warpPerspective(np.ones((96, 96)), homography, (96, 96), flags=back) > 0.99
        returned = cv2.warpPerspective(other, homography, (96, 96), flags=back)
        off = cv2.warpPerspective(other, homography @ [[1, 0, 1], [0, 1, 0], [0, 0, 1]], (96, 96), flags=back)
        error, error_off = (np.abs(hr[inside].astype(float) - x[inside]).mean() for x in (returned, off))
        assert error < 5, seed
        assert error < error_off, seed  # a pixel to the side is worse


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.6])
def test_views_zoom_as_told_and_neither_is_enlarged(zoom):
    # The finest texture, pixel by pixel, is whole in the view that shows the scene larger.
    photograph, rng = random_image(300, 320), np.random.default_rng(0)
    hr, other, homography = images.view_pair(photograph, 96, rng, shift=0, corners=0, zoom=(zoom, zoom))
    assert np.sqrt(np.linalg.det(homography[:2, :2])) == pytest.approx(zoom, rel=0.01)
    assert (hr.std() < 0.8 * other.std()) == (zoom > 1)
    assert (other.std() < 0.8 * hr.std()) == (zoom < 1)


def test_views_turn_up_to_the_angle():
    angles = []
    for seed in range(40):
        *_, homography = images.view_pair(textured(), 64, np.random.default_rng(seed), shift=0, corners=0, rotation=30)
        angles.append(np.degrees(np.arctan2(homography[1, 0], homography[0, 0])))
    assert -30 <= min(angles) < -20
    assert 20 < max(angles) <= 30


def test_a_photograph_too_small_to_zoom_is_zoomed_as_far_as_it_goes():
    hr, _, homography = images.view_pair(textured(100, 130), 96, np.random.default_rng(0), zoom=(3.0, 3.0))
    assert hr.shape == (96, 96, 3)
    assert 1 < np.sqrt(np.linalg.det(homography[:2, :2])) < 1.2


def test_light_changes_within_its_range_and_not_at_all_without_one():
    image = textured()
    np.testing.assert_array_equal(augment.change_light(image, np.random.default_rng(0)), image)
    grey = np.full((8, 8, 3), 100, np.uint8)
    for seed in range(50):
        changed = augment.change_light(grey, np.random.default_rng(seed), exposure=1.0) / 100.0
        assert 2 ** (-1 / 2.2) - 0.01 <= changed.min() <= changed.max() <= 2 ** (1 / 2.2) + 0.01
        assert np.ptp(changed) == 0  # no channel more than another
        coloured = augment.change_light(grey, np.random.default_rng(seed), white_balance=0.5)
        assert np.ptp(coloured[0, 0]) > 0
        contrast = augment.change_light(image, np.random.default_rng(seed), contrast=0.3)
        assert contrast.mean() == pytest.approx(image.mean(), abs=3)


def test_no_degradation_is_the_bicubic_reduction():
    image = textured()
    np.testing.assert_array_equal(augment.degrade(image, np.random.default_rng(0)), image)
    got = augment.degrade(image, np.random.default_rng(0), share=1.0, reduce=True)
    np.testing.assert_array_equal(got, images.downscale(image))


def test_each_degradation_does_its_part():
    image = textured(200, 200)
    rngs = [np.random.default_rng(seed) for seed in range(12)]
    flat = np.full((64, 64, 3), 128, np.uint8)
    noises = [augment.degrade(flat, rng, share=1.0, noise=10.0).std() for rng in rngs]
    assert 5 < max(noises) < 11
    assert min(noises) < 5
    blurred = [augment.degrade(random_image(), rng, share=1.0, blur=2.0).std() for rng in rngs]
    assert min(blurred) < 0.3 * random_image().std()
    assert all(
        1 < np.abs(augment.degrade(image, rng, share=1.0, jpeg=20).astype(float) - image).mean() + 1 < 12
        for rng in rngs
    )
    assert augment.degrade(image, rngs[0], **HARSH, reduce=True).shape == (50, 50, 3)


def test_a_share_is_degraded():
    image = random_image()
    changed = [
        (augment.degrade(image, np.random.default_rng(seed), **HARSH | {"share": 0.5}) != image).any()
        for seed in range(200)
    ]
    assert 0.4 < np.mean(changed) < 0.6


def batches(number, transforms=transforms.reciprocal_pairs, **changes):
    config = tiny_config(**changes)
    with contextlib.closing(pipeline.training_batches(config.data, 2, seed=0, transforms=transforms)) as source:
        return [next(source) for _ in range(number)]


def test_everything_off_adds_nothing_to_the_pipeline():
    config = get_config("cufed5").data
    kinds = [type(t).__name__ for t in transforms.reciprocal_pairs(config, [], True)]
    assert kinds == ["ChooseReference", "FlipAndTurn", "Reciprocal"]
    kinds = [type(t).__name__ for t in transforms.warped_pairs(config, [], False)]
    assert kinds == ["Crop", "FlipAndTurn", "WarpedPair"]


def test_inputs_are_degraded_references_spoilt_and_targets_clean():
    (plain,) = batches(1)
    (batch,) = batches(1, data__degradation=HARSH, data__reference_degradation=HARSH)
    for name in ("hr", "ref_p"):
        np.testing.assert_array_equal(batch[name], plain[name])
    for name in ("lr", "ref_lr_p", "ref"):
        assert batch[name].shape == plain[name].shape
        assert (batch[name] != plain[name]).any((1, 2, 3)).all(), name


def test_light_changes_the_reference_and_its_warp_alike():
    (plain,) = batches(1)
    (batch,) = batches(1, data__light__exposure=2.0)
    np.testing.assert_array_equal(np.sort(batch["hr"], None), np.sort(plain["hr"], None))  # flipped in another way
    change = batch["ref"].mean((1, 2, 3)) - plain["ref"].mean((1, 2, 3))
    assert (np.abs(change) > 1).all()
    warped = batch["ref_p"].mean((1, 2, 3)) - plain["ref_p"].mean((1, 2, 3))
    assert (np.sign(change) == np.sign(warped)).all()


def test_a_reference_of_another_photograph():
    plain, other = batches(4), batches(4, data__reference_shares__unrelated=1.0)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(np.sort(a["hr"], None), np.sort(b["hr"], None))  # flipped in another way
        means = a["ref"].mean((1, 2, 3)), b["ref"].mean((1, 2, 3))
        assert (np.abs(means[0] - means[1]) > 1).all()


def test_no_reference_is_the_input_itself():
    for batch in batches(2, data__reference_shares__none=1.0, data__degradation=HARSH):
        np.testing.assert_array_equal(batch["ref"][:, :8, :8], batch["lr"])
        np.testing.assert_array_equal(batch["ref"][:, :8, 8:16], batch["lr"][:, :, ::-1])
        assert batch["ref"].shape == batch["hr"].shape


def test_shares_of_references():
    config = tiny_config(data__reference_shares=dict(unrelated=0.3, none=0.2)).data
    examples = [{"name": "a", "hr": np.full((40, 50, 3), 7, np.uint8)}, {"name": "b", "hr": smooth_image(20, 20)}]
    transform, ref = transforms.Unrelated(examples, **config.reference_shares), np.full((32, 32, 3), 255, np.uint8)
    drawn = [transform.random_map({"ref": ref}, np.random.default_rng(seed)) for seed in range(400)]
    replaced = [element["ref"] is not ref for element in drawn]
    assert all(element["ref"].shape == (32, 32, 3) for element in drawn)  # also from a photograph smaller than that
    assert np.mean(replaced) == pytest.approx(0.3, abs=0.06)
    assert np.mean(["no_reference" in element for element in drawn]) == pytest.approx(0.2, abs=0.06)


def test_the_correspondence_net_can_learn_from_views():
    changes = dict(data__pairs="view", data__patch=96, data__degradation=HARSH, data__light__exposure=1.0)
    (batch,) = batches(1, transforms.warped_pairs, **changes)
    shapes = {"lr": (2, 24, 24, 3), "hr": (2, 96, 96, 3), "warped": (2, 96, 96, 3), "homography": (2, 3, 3)}
    assert {name: value.shape for name, value in batch.items()} == shapes
    assert batch["homography"].dtype == np.float32
    assert (batch["lr"] != np.stack([images.downscale(hr) for hr in batch["hr"]])).any()
