"""Evaluation of a correspondence net."""

import jax
import numpy as np
import pytest

from rrsr_jax.data.datasets import embedded_photographs
from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.evaluation import correspondence, protocols
from rrsr_jax.evaluation.evaluate import Stopped
from rrsr_jax.models.correspondence import CorrespondenceNet, untrained
from tests.helpers import images, random_params, tiny_config

NET = CorrespondenceNet((4, 6, 8))


@pytest.fixture(scope="module")
def initial():
    """Random parameters of `NET`, as it draws them."""
    return jax.jit(NET.init)(jax.random.key(0), *images((1, 12, 12), (1, 12, 12)))["params"]


def test_accuracy_of_an_image_with_itself_and_with_nothing(initial):
    (photograph,) = embedded_photographs(("coffee",), 96)
    image = np.ascontiguousarray(photograph[:96, :128])
    accuracy, params = correspondence.make_accuracy(NET), untrained(initial)
    assert accuracy(params, image, image, np.eye(3, dtype=np.float32)) == 1
    moved = np.roll(image, (8, 12), (0, 1))
    shift = np.array([[1, 0, 12], [0, 1, 8], [0, 0, 1]], np.float32)
    assert accuracy(params, image, moved, shift) > 0.95
    assert (
        accuracy(params, image, moved, np.float32([[1, 0, 8], [0, 1, 12], [0, 0, 1]])) > 0.9
    )  # one cell off, in x and y
    assert accuracy(params, image, moved, np.float32([[1, 0, 12], [0, 1, 0], [0, 0, 1]])) < 0.3  # two cells
    assert accuracy(params, image, moved, np.eye(3, dtype=np.float32)) < 0.3


def evaluate(accuracy, test_sets, params, patch=48, stop=bool):
    random = random_params(NET)
    return correspondence.evaluate_sets(
        accuracy, params, test_sets, random_params=random, patch=patch, warp_range=(0.0, 5.0), stop=stop
    )


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
