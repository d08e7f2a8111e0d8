"""TTSR against the golden arrays of the authors' release, and its properties."""

import math

import jax
import numpy as np
import optax
import pytest

from rrsr_jax.models.resampling import bicubic_downsample
from rrsr_jax.models.ttsr import TTSR
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import images, random_params, relative_error


def tiny_ttsr():
    return TTSR(features=8, blocks=(1, 1, 1, 1), vgg_channels=(4, 6, 8))


@pytest.fixture(scope="module")
def params():
    return random_params(tiny_ttsr())


@jax.jit
def apply(params, lr, ref):
    """Result and intermediates; compiled once per shapes, which the tests therefore share."""
    sr, found = tiny_ttsr().apply({"params": params}, lr, ref, mutable=["intermediates"])
    return sr, found["intermediates"]


def test_matches_release(golden, state_dict):
    z = golden("ttsr")
    params = torch_layout.from_torch("ttsr", state_dict("ttsr"))
    lr, ref = ((z[name][None] + 1) / 2 for name in ("lr", "ref"))
    apply = jax.jit(lambda lr, ref: TTSR().apply({"params": params}, lr, ref, mutable=["intermediates"]))
    sr, found = apply(lr, ref)
    assert relative_error(2 * sr - 1, z["sr"]) < 1e-4
    assert relative_error(found["intermediates"]["match_score"][0], z["soft_attention"]) < 1e-4
    assert relative_error(found["intermediates"]["transferred_1x"][0], z["t_lv3"]) < 1e-4


def test_parameters():
    variables = jax.eval_shape(TTSR().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    assert sum(a.size for a in jax.tree.leaves(variables)) == 6_729_603


@pytest.mark.parametrize(("lr_size", "ref_size"), [((7, 10), (37, 50)), ((3, 3), (5, 14))])
def test_any_sizes(params, lr_size, ref_size):
    lr, ref = images((2, *lr_size), (2, *ref_size))
    sr, found = apply(params, lr, ref)
    assert sr.shape == (2, 4 * lr_size[0], 4 * lr_size[1], 3)
    assert ((sr >= 0) & (sr <= 1)).all()
    index = found["match_index"][0]
    assert index.shape == (2, *lr_size)
    assert index.max() < math.ceil(ref_size[0] / 4) * math.ceil(ref_size[1] / 4)


def test_images_of_a_batch_do_not_mix(params):
    lr, ref = images((2, 10, 8), (2, 40, 32))
    together, _ = apply(params, lr, ref)
    for i in range(2):
        np.testing.assert_allclose(together[i], apply(params, lr[i : i + 1], ref[i : i + 1])[0][0], atol=1e-5)
    assert np.abs(apply(params, lr, ref[::-1])[0] - together).mean() > 1e-4


def test_gradients_reach_every_parameter_and_the_reference(params):
    lr, ref, target = images((1, 6, 5), (1, 20, 24), (1, 24, 20))

    def loss(params, ref):
        return ((tiny_ttsr().apply({"params": params}, lr, ref) - target) ** 2).sum()

    by_params, by_ref = jax.jit(jax.grad(loss, (0, 1)))(params, ref)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref).max(-1) > 0).mean() > 0.3


def test_the_score_teaches_the_extractor(params):
    """Soft attention alone has a gradient to the extractor: what finite differences say."""
    lr, ref = images((1, 6, 5), (1, 20, 24))

    @jax.jit
    def score(vgg):
        return apply(params | {"vgg": vgg}, lr, ref)[1]["match_score"][0].sum()

    gradient = jax.jit(jax.grad(score))(params["vgg"])
    norm = optax.tree.norm(gradient)
    ends = [score(jax.tree.map(lambda p, g, s=s: p + s * 1e-3 * g / norm, params["vgg"], gradient)) for s in (1, -1)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-3, norm, rtol=0.05)


def test_a_sharp_version_of_the_input_is_found_where_it_is(params):
    (hr,) = images((1, 40, 32))
    _, found = apply(params, bicubic_downsample(hr), hr)
    np.testing.assert_array_equal(found["match_index"][0], np.arange(80).reshape(1, 10, 8))
    np.testing.assert_allclose(found["match_score"][0], 1, rtol=1e-5)
