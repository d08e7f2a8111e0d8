"""The layers of VGG-19 that the perceptual losses of SRGAN, ESRGAN and ENet look at, by golden values of the losses."""

import jax
import jax.numpy as jnp
import pytest

from rrsr_jax import weights
from rrsr_jax.models.encoders import VGG
from tests.helpers import relative_error


@pytest.fixture(scope="module")
def features(state_dict):
    """Of the generated and the true images of a golden file, and that file's arrays."""
    params = weights.from_torch("vgg19_full", state_dict("vgg19_full"))
    net = VGG("pool5", others=("conv5_4", "relu5_4", "pool2"))
    apply = jax.jit(lambda image: net.apply({"params": params}, image))

    def load(z):
        return [apply(jnp.float32(z[name] / 255)) for name in ("fake", "real")]

    return load


def test_of_srgan(features, golden):
    z = golden("srgan_losses")
    a, b = (f["relu5_4"] for f in features(z))
    assert relative_error(((a - b) ** 2).mean(), z["content_mse"]) < 1e-4


def test_of_esrgan(features, golden):
    z = golden("esrgan_losses")
    a, b = (f["conv5_4"] for f in features(z))
    assert relative_error(jnp.abs(a - b).mean(), z["perceptual_l1"]) < 1e-4


def test_of_enet(features, golden):
    z = golden("enet_losses")
    pair = [{k: f / f.mean((1, 2, 3), keepdims=True) for k, f in found.items()} for found in features(z)]
    for name in ("pool2", "pool5"):
        assert relative_error(((pair[0][name] - pair[1][name]) ** 2).mean(), z[name]) < 1e-4
    for level in (1, 2, 3):
        grams = []
        for found in pair:
            n, h, w, c = found[f"relu{level}_1"].shape
            cells = found[f"relu{level}_1"].reshape(n, h // 16, 16, w // 16, 16, c)
            grams.append(jnp.einsum("nyixjc,nyixjd->nyxcd", cells, cells))
        assert relative_error(((grams[0] - grams[1]) ** 2).mean(), z[f"texture{level}"]) < 1e-4
