"""Evaluation of a correspondence net."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.evaluation import correspondence, protocols
from rrsr_jax.evaluation.sharing import Stopped
from rrsr_jax.models.correspondence import CorrespondenceNet
from tests.helpers import noise, random_params, tiny_config

NET = CorrespondenceNet((4, 6, 8))


class Pixels(nn.Module):
    """A net whose descriptors are the 4 x 4 pixels of a cell: it finds every cell that has moved by whole cells."""

    def __call__(self, *images):
        def cells(x):
            n, h, w, c = x.shape
            return x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 4, w // 4, 16 * c)

        return tuple(map(cells, images))


def test_matches_within_a_cell_of_the_truth_count():
    accuracy, params = correspondence.make_accuracy(Pixels()), {"branch_lr": {}, "branch_ref": {}}
    image = noise(96, 128)
    moved = np.roll(image, (8, 12), (0, 1))

    def share(second, dy, dx):
        return float(accuracy(params, image, second, np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], np.float32)))

    assert share(image, 0, 0) == 1
    assert share(moved, 8, 12) == 1
    assert share(moved, 12, 8) == 1  # the truth is one cell away, in y and in x
    assert share(moved, 8, 20) < 0.01  # two cells, in x only
    assert share(moved, 0, 12) < 0.01  # two cells, in y only
    half = np.concatenate([image[:, :64], moved[:, 64:]], axis=1)
    assert 0.4 < share(half, 0, 0) < 0.5


def evaluate(accuracy, test_sets, params, patch=48, stop=bool):
    random = random_params(NET)
    return correspondence.evaluate_sets(
        accuracy, params, test_sets, random_params=random, patch=patch, warp_range=(0.0, 5.0), stop=stop
    )


def test_an_image_without_correspondences_fails():
    """Within so few pixels nothing lies far enough from the edges; flat images have correspondences, and a share."""
    (test_set,) = protocols.test_sets(tiny_config(eval__limit=1).eval)
    (name,) = evaluate(correspondence.make_accuracy(NET), [test_set], random_params(NET), patch=20)["embedded"][
        "failed"
    ]
    assert name == test_set[0]["name"]
    accuracy, flat = correspondence.make_accuracy(NET), np.zeros((48, 48, 3), np.uint8)
    for second in (flat, flat + 255, noise(48, 48)):
        assert 0 <= float(accuracy(random_params(NET), flat, second, np.eye(3, dtype=np.float32))) <= 1


def test_what_is_matched():
    """`hr_hr` sharp images; `lr_hr` the upsampled with the sharp one; the latter with both baselines."""
    seen = []

    def accuracy(params, first, second, homography):
        seen.append((params, first, second))
        return len(seen) / 10

    test_sets = protocols.test_sets(tiny_config(eval__limit=1).eval)
    results = evaluate(accuracy, test_sets, {"mine": 1})
    hr = test_sets[0][0]["hr"]
    for (_, first, second), sharp in zip(seen, (True, False, False, False), strict=True):
        np.testing.assert_array_equal(first, hr if sharp else upscale(downscale(hr)))
        assert second.shape == hr.shape
    assert [params == {"mine": 1} for params, _, _ in seen] == [True, True, False, False]
    random = random_params(NET)["branch_ref"]
    for branch in ("branch_lr", "branch_ref"):
        jax.tree.map(np.testing.assert_array_equal, seen[3][0][branch], random)
        assert not np.array_equal(seen[2][0][branch]["conv1_1"]["kernel"], random["conv1_1"]["kernel"])
    rows = results["embedded"]["references"]
    assert {name: row["within_one_cell"] for name, row in rows.items()} == {
        "hr_hr": 0.1, "lr_hr": 0.2, "untrained_lr_hr": 0.3, "random_lr_hr": 0.4
    }  # fmt: skip
    text = correspondence.as_text(results)
    assert text.startswith("embedded: 1 images and their warps")
    assert "lr hr" in text
    assert "20.0%" in text


def test_the_middle_of_an_image_is_matched():
    image = np.arange(60 * 80 * 3).reshape(60, 80, 3)
    np.testing.assert_array_equal(correspondence._middle(image, 48, "x"), image[6:54, 16:64])


def test_images_smaller_than_the_patch_are_named():
    test_sets = protocols.test_sets(tiny_config().eval)
    results = evaluate(lambda *_: 1.0, test_sets, {}, patch=52)
    assert results["embedded"]["references"] == {}
    assert set(results["embedded"]["failed"]) == {"record 0", "record 1"}
    reason = "at least 52x52 pixels (config.eval.patch) expected, got 48x48"
    assert reason in results["embedded"]["failed"]["record 0"]
    assert f"FAILED, and in no mean: record 0: chelsea_0: {reason}" in correspondence.as_text(results)


def test_an_evaluation_stops_when_asked_to():
    with pytest.raises(Stopped):
        evaluate(lambda *_: 1.0, protocols.test_sets(tiny_config().eval), {}, stop=lambda: True)
