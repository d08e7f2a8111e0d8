"""A batch in pieces gives the result of the batch in one piece, in every stage."""

import jax
import numpy as np
import optax
import pytest

from rrsr_jax.data import pipeline, transforms
from rrsr_jax.errors import InputError
from rrsr_jax.models.edsr import EDSR
from rrsr_jax.training import correspondence, train
from rrsr_jax.training import step as steps
from tests.helpers import TRACES, batch, gan_config, tiny_config
from tests.training import test_correspondence_stages, test_gan, test_step


def rec(config):
    return test_step.start(config)


def single_image(config):
    return test_step.start(config, model=EDSR(features=6, blocks=1))


def gan_stage(config):
    return test_gan.start(config, vgg=test_gan.random_vgg())


def matcher(config):
    mesh = steps.make_mesh(jax.devices()[:1])
    state = steps.place(steps.create_state(config, test_correspondence_stages.fresh(0)), mesh)
    return state, correspondence.make_matcher_step(test_correspondence_stages.NET, config, mesh)


def warped_pairs():
    """Of the four images, two of the first half and none of the second have enough correspondences."""
    images = next(pipeline.training_batches(matcher_config().data, 4, 0, transforms=transforms.warped_pairs))
    images["homography"][2:] = np.array([[1, 0, 70], [0, 1, 0], [0, 0, 1]])
    _, used = correspondence.correspondences(images["homography"], 80, 80)
    assert [bool(number >= 128) for number in used.sum((1, 2))] == [True, True, False, False]
    return images


def matcher_config():
    return test_correspondence_stages.stage_config()


STAGES = {
    "rec": (rec, tiny_config, lambda: batch(6), (2, 6)),
    "single_image": (single_image, lambda: tiny_config(loss__rtrr=0.0), lambda: batch(6), (3,)),
    "gan": (gan_stage, lambda: gan_config(loss__perceptual=1e-2), lambda: batch(6), (3,)),
    "teacher": (matcher, matcher_config, warped_pairs, (2,)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_pieces_change_nothing(stage):
    """Gradients, through Adam's first moments after one step; metrics; the discriminator's statistics."""
    start, make_config, make_batch, numbers = STAGES[stage]
    images, found = make_batch(), []
    for pieces in (1, *numbers):
        config = make_config()
        config.accumulate = pieces
        state, step = start(config)
        state, metrics = step(state, images)
        found.append((jax.tree.map(np.array, state), train.to_log(metrics)))
    (whole, metrics), *others = found
    for state, other_metrics in others:
        assert metrics == pytest.approx(other_metrics, rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole.statistics, state.statistics)
        for network, (adam, *_) in whole.opt_state.items():
            difference = jax.tree.map(np.subtract, adam.mu, state.opt_state[network][0].mu)
            assert optax.tree.norm(difference) < 1e-6 * optax.tree.norm(adam.mu), network


def test_the_memory_is_that_of_a_piece():
    """Of what the compiled step keeps between forward and backward pass."""

    def memory(pieces):
        state, step = test_step.start(tiny_config(accumulate=pieces))
        return step.lower(state, batch(8)).compile().memory_analysis().temp_size_in_bytes

    assert memory(8) < 0.4 * memory(1)


def test_the_model_is_traced_once_for_all_pieces():
    state, step = test_step.start(tiny_config(accumulate=4))
    TRACES.clear()
    step(state, batch(4))
    assert TRACES == [(1, 8, 8, 3)] * 2  # the two passes


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "message"),
    [
        (9, 1, 8, r"config\.batch_size: a multiple of 8 devices expected, such as 8 or 16, got 9; 9 images divide among 1 or 3 "),
        (3, 1, 4, r"config\.batch_size: a multiple of 4 devices expected, such as 4, got 3; 3 images divide among 1 or 3 of"),
        (12, 4, 2, r"config\.accumulate: a divisor of the 6 images of a device \(1, 2, 3, 6\) expected, got 4; .*batch_size=12"),
        (9, 0, 1, r"config\.accumulate: a whole number from 1 to 65536 expected, got 0"),
    ],
)  # fmt: skip
def test_batches_that_do_not_divide(batch_size, accumulate, devices, message, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    with pytest.raises(InputError, match=message):
        train.open_run(tiny_config(batch_size=batch_size, accumulate=accumulate), starts=True)
