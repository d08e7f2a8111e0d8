"""Choosing references of an album by their matches."""

import numpy as np
import pytest
import skimage.data

from rrsr_jax.errors import InputError
from rrsr_jax.inference.ranking import match_scores
from rrsr_jax.inference.references import SIDE, reduced
from rrsr_jax.models.edsr import EDSR
from tests.helpers import random_params, tiny_rrsr


def test_the_other_view_of_a_photograph_has_the_highest_score():
    """Whatever the shapes; with both branches of the net alike, even untrained."""
    photo, other = skimage.data.astronaut() / np.float32(255), skimage.data.coffee() / np.float32(255)
    lr = reduced(photo[100:400, 60:440], SIDE // 4)
    views = [other[:300, :500], photo[130:430, 90:420], photo[::-1][:200], np.full((90, 30, 3), 0.5, np.float32)]
    model = tiny_rrsr()
    params = random_params(model)
    params["correspondence"]["branch_lr"] = params["correspondence"]["branch_ref"]
    scores = match_scores(model, params, lr, [reduced(view, SIDE) for view in views])
    assert int(np.argmax(scores)) == 1
    assert all(-1 <= score <= 1 for score in scores)


def test_the_smallest_images():
    model = tiny_rrsr()
    (score,) = match_scores(
        model, random_params(model), np.full((1, 2, 3), 0.5, np.float32), [np.zeros((3, 1, 3), np.float32)]
    )
    assert np.isfinite(score)


def test_models_that_match_nothing():
    with pytest.raises(InputError, match="a model EDSR gives none; name the references one by one, not their folder"):
        match_scores(EDSR(), {}, np.zeros((8, 8, 3)), [])


def test_reduced_images_keep_their_proportions():
    image = np.linspace(0, 1, 400 * 100 * 3, dtype=np.float32).reshape(400, 100, 3)
    small = reduced(image, 100)
    assert small.shape == (100, 25, 3)
    assert abs(small.mean() - image.mean()) < 0.01
    assert reduced(image, 400) is image
