"""CrossNet against the golden arrays of the authors' release, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import crossnet
from rrsr_jax.models.crossnet import CrossNet, warp
from rrsr_jax.models.resampling import bicubic_downsample, bicubic_upsample
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import as_float, images, quick_jit, random_params, relative_error


def tiny_crossnet():
    return CrossNet(features=4, flow_channels=(4,) * 6, flow_up_channels=(4,) * 6)


@pytest.fixture(scope="module")
def params():
    return random_params(tiny_crossnet())


@quick_jit
def apply(params, lr, ref, sisr=None):
    return tiny_crossnet().apply({"params": params}, lr, ref, sisr)


def test_matches_release(golden, state_dict):
    """Result, flows, features, loss, and its gradient to the reference."""
    z = as_float(golden("crossnet"))
    lr = bicubic_downsample(z["hr"])
    np.testing.assert_array_equal(bicubic_upsample(lr), z["lr_up"])
    params = torch_layout.from_torch("crossnet", state_dict("crossnet"))

    def loss(ref, params):
        sr, found = CrossNet().apply({"params": params}, lr, ref, z["sisr"], mutable=["intermediates"])
        return jnp.sqrt((sr - z["hr"]) ** 2 + 1e-6).sum() / len(sr), (sr, found["intermediates"])

    (value, (sr, found)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(z["ref"], params)
    assert relative_error(sr, z["sr"]) < 1e-4
    assert relative_error(value, z["charbonnier"]) < 1e-5
    assert relative_error(gradient, z["grad_ref"]) < 5e-3
    for name in ("flow_1", "flow_2", "flow_4", "flow_8", "warped_8"):
        assert relative_error(found[name][0], z[name]) < 1e-4, name


def test_parameters():
    params = jax.eval_shape(CrossNet().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))["params"]
    count = {name: sum(a.size for a in jax.tree.leaves(part)) for name, part in params.items()}
    assert sum(count.values()) == 35_183_841
    assert count["flow_net"] == 33_830_110


def test_any_sizes_by_continuing_images_to_whole_cells(params, monkeypatch):
    lr, ref, sisr = images((1, 13, 18), (1, 52, 72), (1, 52, 72))
    sr = apply(params, lr, ref, sisr)
    assert sr.shape == (1, 52, 72, 3)
    border = ((0, 0), (0, 12), (0, 56), (0, 0))
    up, ref, sisr = (jnp.pad(image, border, mode="edge") for image in (bicubic_upsample(lr), ref, sisr))
    monkeypatch.setattr(crossnet, "bicubic_upsample", lambda _: up)
    expected = quick_jit(tiny_crossnet().apply)({"params": params}, lr, ref, sisr)
    np.testing.assert_allclose(sr, expected[:, :52, :72], atol=1e-5)


def test_a_reference_of_another_size_is_resized(params):
    lr, ref = images((1, 16, 16), (1, 40, 100))
    expected = apply(params, lr, jax.image.resize(ref, (1, 64, 64, 3), "cubic"))
    np.testing.assert_allclose(apply(params, lr, ref), expected, atol=1e-5)


def test_without_a_single_image_result_it_is_the_bicubic_one(params):
    lr, ref = images((1, 16, 16), (1, 64, 64))
    np.testing.assert_allclose(apply(params, lr, ref), apply(params, lr, ref, bicubic_upsample(lr)), atol=1e-6)
    assert np.abs(apply(params, lr, ref) - apply(params, lr, ref, ref)).mean() > 1e-3
    with pytest.raises(
        ValueError, match=r"sisr: shape \(1, 64, 64, 3\) expected for lr of shape .*, got \(1, 16, 16, 3\)"
    ):
        apply(params, lr, ref, lr)


def test_gradients_reach_every_parameter_and_the_reference_and_images_do_not_mix(params):
    lr, ref, target = images((2, 16, 16), (2, 64, 64), (2, 64, 64))

    def loss(params, ref):
        return ((tiny_crossnet().apply({"params": params}, lr, ref) - target)[0] ** 2).sum()

    by_params, by_ref = quick_jit(jax.grad(loss, (0, 1)))(params, ref)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(gradient).all(), path
        assert gradient.any() == ("post_fusion2" not in jax.tree_util.keystr(path)), path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref[0]).max(-1) > 0).mean() > 0.3
    assert not by_ref[1].any()


def test_flow_points_from_a_pixel_to_its_place_in_the_reference():
    x = np.random.default_rng(0).standard_normal((1, 6, 8, 2)).astype(np.float32)
    flow = np.broadcast_to(np.float32([2, -1]), (1, 6, 8, 2))  # two to the right, one up
    moved = np.asarray(warp(x, flow))
    np.testing.assert_allclose(moved[:, 1:, :-2], x[:, :-1, 2:])
    np.testing.assert_allclose(moved[:, 0, :-2], x[:, 0, 2:])  # continued by the border
    np.testing.assert_allclose(moved[:, 1:, -2:], x[:, :-1, -1:].repeat(2, 2))
