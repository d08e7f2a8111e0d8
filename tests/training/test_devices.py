"""Four devices give the result of one, in every stage.

The number of devices is fixed when a process starts, so this file is also the program of a process of its own.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from rrsr_jax.data import pipeline, transforms
from rrsr_jax.training import correspondence
from rrsr_jax.training import step as steps
from tests.helpers import ROOT, batch, gan_config, tiny_config, tiny_rrsr
from tests.training import test_correspondence_stages, test_gan, test_passes, test_step


def results(start, batches, devices):
    """Metrics of each step, and the state in the end."""
    state, train_step = start(devices)
    metrics = []
    for images in batches:
        state, out = jax.block_until_ready(train_step(state, images))
        metrics.append({k: float(v) for k, v in out.items()})
    assert all(len(a.sharding.device_set) == devices for a in jax.tree.leaves(state.generator))
    return metrics, jax.tree.map(np.array, state)


def compare(start, batches, tolerance):
    (one, state), (four, other) = (results(start, batches, devices) for devices in (1, 4))
    for a, b in zip(one, four, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=tolerance, err_msg=name)
    return state, other


def check_rec():
    images = [batch(4, seed) for seed in range(2)]
    states = compare(lambda n: test_step.start(tiny_config(), n, tiny_rrsr()), images, 1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *(state.generator for state in states))


def check_gan():
    config, vgg = gan_config(loss__perceptual=1e-2), test_gan.random_vgg()
    config.learning_rates.update(default=1e-4, discriminator=1e-4)
    images = [batch(4, seed) for seed in range(2)]
    states = compare(lambda n: test_gan.start(config, n, vgg), images, 1e-3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *(state.statistics for state in states)
    )


def check_other_methods():
    """Statistics of a generator, and a loss in which the images of a batch are compared with each other."""
    images = [batch(4, seed) for seed in range(2)]
    states = compare(
        lambda n: test_passes.start(n)[1:], images[:1], 1e-3
    )  # a second step would have noise: Adam's, of biases
    for name in ("mean", "var"):
        np.testing.assert_allclose(*(state.generator["norm"][name] for state in states), rtol=1e-4)
    config = gan_config(objective="relativistic", updates=("generator", "discriminator"), loss__rtrr=0.0)
    config.learning_rates.update(default=1e-4, discriminator=1e-4)
    compare(lambda n: test_gan.start(config, n), images, 1e-3)


def check_pieces():
    """Each of four devices takes its two images one after the other, or both at once."""
    found = []
    for pieces in (1, 2):
        metrics, state = results(lambda n, p=pieces: test_gan.start(gan_config(accumulate=p), n), [batch(8)], 4)
        found.append((metrics[0], state.statistics))
    (metrics, statistics), (others, other_statistics) = found
    assert metrics == pytest.approx(others, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), statistics, other_statistics)


def check_correspondence():
    """One of the four images has too few correspondences: its device then has nothing to average."""
    config, net = test_correspondence_stages.stage_config(), test_correspondence_stages.NET
    images = next(pipeline.training_batches(config.data, 4, 0, transforms=transforms.warped_pairs))
    images["homography"][2] = np.array([[1, 0, 70], [0, 1, 0], [0, 0, 1]])
    _, used = correspondence.correspondences(images["homography"], 80, 80)
    assert [bool(number >= 128) for number in used.sum((1, 2))] == [True, True, False, True]

    def start(devices):
        mesh = steps.make_mesh(jax.devices()[:devices])
        state = steps.place(steps.create_state(config, test_correspondence_stages.fresh(0)), mesh)
        return state, correspondence.make_matcher_step(net, config, mesh)

    compare(start, [images], 1e-4)


@pytest.mark.timeout(900)
def test_four_devices_give_the_result_of_one():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "16"}
    call = [sys.executable, "-m", "tests.training.test_devices"]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["rec", "gan", "other_methods", "pieces", "correspondence"]


if __name__ == "__main__":
    assert jax.device_count() == 4
    for check in (check_rec, check_gan, check_other_methods, check_pieces, check_correspondence):
        check()
        print(check.__name__.removeprefix("check_"))
