"""The losses of SRNTT and DCSR against golden arrays of the authors' releases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import weights
from rrsr_jax.models import published
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.resampling import bicubic
from rrsr_jax.training import losses_refsr as losses
from tests.helpers import as_float, relative_error


@pytest.fixture(scope="module")
def srntt(golden, state_dict):
    """Golden arrays, and VGG's features of `sr` and `hr`."""
    z = as_float(golden("srntt_losses"))
    params = weights.from_torch("srntt_vgg19", state_dict("srntt_vgg19"))
    vgg = jax.jit(functools.partial(published("srntt_vgg19").apply, {"params": params}))
    return z, vgg(z["sr"]), vgg(z["hr"])


def test_perceptual_loss_of_srntt(srntt):
    z, sr, hr = srntt
    assert relative_error(((sr["relu5_1"] - hr["relu5_1"]) ** 2).mean(), z["perceptual"]) < 1e-4


def test_texture_loss_of_srntt(srntt):
    z, *features = srntt
    sr, hr = ([f[f"relu{level}_1"] for level in (3, 2, 1)] for f in features)
    maps = [f[::-1] for f in hr]
    assert relative_error(losses.texture(maps, sr), z["texture"]) < 1e-4
    weight = [
        jax.nn.sigmoid(-20 * jnp.asarray(z[k])[..., None] + 0.65) for k in ("weights", "weights_2x", "weights_4x")
    ]
    assert relative_error(losses.texture(maps, sr, weight), z["texture_weighted"]) < 1e-4


def test_texture_weights_of_srntt(golden):
    z = golden("srntt_losses")
    score = z["weights"][:, 1:-1, 1:-1]
    small, *enlarged = losses.texture_weights(score)
    edge = np.pad(score, ((0, 0), (1, 1), (1, 1)), mode="edge")
    np.testing.assert_allclose(small[..., 0], 1 / (1 + np.exp(20 * edge - 0.65)), rtol=1e-4)
    for scale, got in zip((2, 4), enlarged, strict=True):
        whole = bicubic(jnp.asarray(z["weights"])[..., None], scale, half_pixel=False)
        assert relative_error(whole[..., 0], z[f"weights_{scale}x"]) < 1e-4
        np.testing.assert_allclose(got[:, ::scale, ::scale], small, rtol=1e-4)


def test_back_projection_of_srntt(golden):
    z = as_float(golden("srntt_losses"))
    lr, sr = (2 * z[name] - 1 for name in ("lr", "sr"))
    assert relative_error(losses.back_projection(lr, sr), z["back_projection"]) < 1e-4


def test_losses_of_dcsr(golden, state_dict):
    z = as_float(golden("dcsr_losses"))
    params = weights.from_torch("vgg19", state_dict("vgg19"))
    vgg = jax.jit(lambda image: VGG("relu3_4").apply({"params": params}, image)["relu3_4"])
    features = {name: vgg(z[name]) for name in ("sr", "hr", "ref")}
    contextual = jax.jit(losses.contextual)
    for a, b in (("sr", "ref"), ("sr", "hr"), ("hr", "sr")):
        assert relative_error(contextual(features[a], features[b]), z[f"contextual_{a}_{b}"]) < 1e-4, (a, b)
    assert relative_error(losses.blurred_l1(z["hr"], z["sr"]), z["blurred_l1"]) < 1e-4
    assert all(np.isfinite(jax.grad(contextual)(features["sr"], features["hr"])).ravel())
