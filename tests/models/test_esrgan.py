"""ESRGAN's and RankSRGAN's generators against golden arrays: results, losses, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from tests.helpers import relative_error


@pytest.mark.parametrize(("kind", "count"), [("esrgan", 16_697_987), ("ranksrgan", 1_554_499)])
def test_result_loss_and_gradients(kind, count, golden, state_dict):
    """Not compiled as a whole, which would take ESRGAN's hundreds of like layers half a minute."""
    z, params, model = golden(kind), weights.from_torch(kind, state_dict(kind)), models.published(kind)
    assert sum(a.size for a in jax.tree.leaves(params)) == count
    lr, hr = (jnp.float32(z[name] / 255) for name in ("lr", "hr"))

    def loss(params, lr):
        sr = model.apply({"params": params}, lr, lr)
        return jnp.abs(sr - hr).mean(), sr

    (l1, sr), (gradient, gradient_lr) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, lr)
    assert relative_error(sr, z["sr"]) < 1e-5
    assert relative_error(l1, z["l1"]) < 1e-5
    found = {**weights.to_torch(kind, gradient), "lr": np.asarray(gradient_lr)}
    for key in (key for key in z if key.startswith("grad/")):
        assert relative_error(found[key.removeprefix("grad/")], z[key]) < 1e-4, key


def test_generators_start_with_small_residuals():
    """He et al.'s initialisation times 0.1; of RankSRGAN's last convolution of the trunk, PyTorch's default."""
    image = jnp.zeros((1, 2, 2, 3))
    for kind, body in (("esrgan", 0.02), ("ranksrgan", 1 / 3)):
        params = models.published(kind).clone(blocks=0).init(jax.random.key(0), image, image)["params"]
        for layer, variance in (("tail1", 0.02), ("body", body)):
            np.testing.assert_allclose(params[layer]["kernel"].var() * 9 * 64, variance, rtol=0.05)
        assert np.any(params["body"]["bias"]) == (kind == "ranksrgan")
