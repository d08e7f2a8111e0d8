"""The losses of Table 1's other methods against golden arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import weights
from rrsr_jax.models import published
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.resampling import bicubic
from rrsr_jax.training import losses_table1 as losses
from rrsr_jax.training.adversarial import OBJECTIVES
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
    assert relative_error(losses.texture_transfer(maps, sr), z["texture"]) < 1e-4
    weight = [
        jax.nn.sigmoid(-20 * jnp.asarray(z[k])[..., None] + 0.65) for k in ("weights", "weights_2x", "weights_4x")
    ]
    assert relative_error(losses.texture_transfer(maps, sr, weight), z["texture_weighted"]) < 1e-4


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


def test_charbonnier_loss(golden):
    """CrossNet's is a sum over each image, SSEN's a mean."""
    for name, one_image in (("crossnet", 64 * 128 * 3), ("ssen", 1)):
        z = as_float(golden(name))
        assert relative_error(losses.charbonnier(z["hr"], z["sr"]) * one_image, z["charbonnier"]) < 1e-5, name


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


def test_losses_of_enet(golden, state_dict):
    """Each term, and the gradient to the image of each that has one there, by one pass forward and several back."""
    z = as_float(golden("enet_losses"))
    layers = {"pool2": "pool2", "pool5": "pool5", "texture1": "relu1_1", "texture2": "relu2_1", "texture3": "relu3_1"}
    vgg = VGG("pool5", others=tuple(layers.values()))
    params = weights.from_torch("vgg19_full", state_dict("vgg19_full"))
    real = jax.jit(lambda image: vgg.apply({"params": params}, image))(z["real"])

    def terms(fake):
        features = vgg.apply({"params": params}, fake)
        found = {}
        for name, layer in layers.items():
            if name.startswith("pool"):
                found[name] = losses.perceptual(features, real, {layer: 1.0}, "mse", normalise=True)
            else:
                found[name] = losses.texture(features, real, {layer: 1.0})
        return found

    values, pull_back = jax.vjp(jax.jit(terms), z["fake"])
    gradients = {}
    for name, value in values.items():
        assert relative_error(value, z[name]) < 1e-4, name
        (gradients[name],) = pull_back({other: jnp.float32(other == name) for other in values})
        if f"{name}_grad_norm" in z:
            assert relative_error(jnp.linalg.norm(gradients[name]), z[f"{name}_grad_norm"]) < 1e-3, name
    assert relative_error(losses.mse(z["real"], z["fake"]), z["mse"]) < 1e-5
    # With the discriminator's part, all of it is the published sum.
    judge = functools.partial(
        published("enet_discriminator").apply, weights.from_torch(*_of("enet_discriminator", state_dict))
    )
    value, gradient = jax.value_and_grad(lambda image: OBJECTIVES["standard"].generator(None, judge(image), None))(
        z["fake"]
    )
    weight = dict(pool2=0.2, pool5=0.02, texture1=3e-7, texture2=1e-6, texture3=1e-6)
    assert relative_error(2 * value + sum(weight[k] * values[k] for k in weight), z["pat"]) < 1e-4
    total = 2 * gradient + sum(weight[k] * gradients[k] for k in weight)
    assert relative_error(jnp.linalg.norm(total), z["pat_grad_norm"]) < 1e-3
    assert relative_error(total[:, 40:64, 32:56], z["pat_grad_crop"]) < 1e-3


def _of(kind, state_dict):
    return kind, state_dict(kind)


@pytest.mark.parametrize(
    ("file", "layer", "criterion", "name"),
    [("srgan_losses", "relu5_4", "mse", "content_mse"), ("esrgan_losses", "conv5_4", "l1", "perceptual_l1")],
)
def test_perceptual_losses(file, layer, criterion, name, golden, state_dict):
    z, params = as_float(golden(file)), weights.from_torch(*_of("vgg19_full", state_dict))
    features = [VGG(layer).apply({"params": params}, z[image]) for image in ("fake", "real")]
    value = losses.perceptual(*features, {layer: 1.0}, criterion)
    assert relative_error(value, z[name]) < 1e-4
