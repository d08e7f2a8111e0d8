"""The discriminators and the Ranker against golden arrays: outputs, losses and gradients.

Where one LeakyReLU flips in single precision, gradients through batch statistics move by half a percent.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.models.discriminator import VGGStyleDiscriminator
from rrsr_jax.training import losses_table1
from rrsr_jax.training.adversarial import OBJECTIVES
from tests.helpers import relative_error


def of_discriminator(objective):
    return lambda real, fake: OBJECTIVES[objective].discriminator(real, fake, None)


def of_generator(objective, real, fake):
    return OBJECTIVES[objective].generator(real, fake, None)


@pytest.fixture
def network(golden, state_dict):
    """`network(kind, file)`: published parameters, compiled function of them, an image in [0, 1] and `train`, golden arrays."""

    def load(kind, file):
        net, variables = models.published(kind), weights.from_torch(kind, state_dict(kind))
        params, z = variables.pop("params"), golden(file)

        @functools.partial(jax.jit, static_argnums=2)
        def judge(params, image, train):
            return net.apply({"params": params, **variables}, image, train, mutable=["batch_stats"])[0]

        return params, judge, {k: jnp.float32(v / 255) if v.dtype == np.uint8 else v for k, v in z.items()}

    return load


def check_gradients(kind, gradient, z, prefix="grad/", tolerance=2e-2):
    gradient = weights.to_torch(kind, {"params": gradient})
    keys = [key for key in z if key.startswith(prefix)]
    assert keys
    for key in keys:
        assert relative_error(gradient[key.removeprefix(prefix)], z[key]) < tolerance, key


def check_discriminator(kind, network, losses, z, tolerance=2e-2):
    """Losses, given as {name: (prefix of the gradients' names, function)}, and their gradients, of logits computed once."""
    params, judge = network

    def logits(params):
        return judge(params, z["real"], True), judge(params, z["fake"], True)

    found, pull_back = jax.vjp(logits, params)
    for name, (prefix, loss) in losses.items():
        value, cotangent = jax.value_and_grad(lambda pair, loss=loss: loss(*pair))(found)
        assert relative_error(value, z[name]) < 1e-4, name
        check_gradients(kind, pull_back(cotangent)[0], z, prefix, tolerance)
    return found


def test_srgan(network):
    params, judge, z = network("srgan_discriminator", "srgan_losses")
    losses = {"d_loss": ("grad/", of_discriminator("standard"))}
    real, fake = check_discriminator("srgan_discriminator", (params, judge), losses, z)
    assert relative_error(real, z["train/real"][:, 0]) < 1e-4
    assert relative_error(fake, z["train/fake"][:, 0]) < 1e-4
    assert relative_error(of_generator("standard", real, fake), z["adversarial"]) < 1e-4
    assert relative_error(judge(params, z["fake"], False), z["eval/fake"][:, 0]) < 1e-4


def test_esrgan(network):
    params, judge, z = network("vgg_style_discriminator", "esrgan_losses")
    losses = {
        "d_loss": ("grad/", of_discriminator("relativistic")),
        "d_loss_detached": ("grad_detached/", of_discriminator("relativistic_detached")),
        "plain_d_loss": ("grad_plain/", of_discriminator("standard")),
    }
    real, fake = check_discriminator("vgg_style_discriminator", (params, judge), losses, z)
    assert relative_error(real, z["train/real"][:, 0]) < 1e-4
    assert relative_error(of_generator("standard", real, fake), z["plain_adversarial"]) < 1e-4
    assert relative_error(judge(params, z["real"], False), z["eval/real"][:, 0]) < 1e-4
    value, gradient = jax.value_and_grad(lambda image: of_generator("relativistic", real, judge(params, image, True)))(
        z["fake"]
    )
    assert relative_error(value, z["adversarial"]) < 1e-4
    assert relative_error(jnp.linalg.norm(gradient), z["adversarial_grad_norm"]) < 2e-2


def test_enet(network):
    params, judge, z = network("enet_discriminator", "enet_losses")
    losses = {"d_loss": ("grad/", of_discriminator("standard"))}
    real, fake = check_discriminator("enet_discriminator", (params, judge), losses, z, 1e-3)
    assert relative_error(real, z["logits/real"][:, 0]) < 1e-4
    assert relative_error(of_generator("standard", real, fake), z["adversarial"]) < 1e-4


def test_ranker(network):
    params, judge, z = network("ranksrgan_ranker", "ranksrgan_losses")

    def ranking(params):
        a, b = (judge(params, z[name], True) for name in ("image1", "image2"))
        return losses_table1.ranking(a, b, z["label"][:, 0]), a

    (value, scores), gradient = jax.value_and_grad(ranking, has_aux=True)(params)
    assert relative_error(value, z["ranking"]) < 1e-4
    assert relative_error(scores, z["train/1"][:, 0]) < 1e-4
    check_gradients("ranksrgan_ranker", gradient, z)
    for train, name in ((False, "rank_content_eval"), (True, "rank_content")):
        content = jax.value_and_grad(lambda image, train=train: jax.nn.sigmoid(judge(params, image, train)).sum())
        value, gradient = content(z["image1"])
        assert relative_error(value, z[name]) < 1e-4
        assert relative_error(jnp.linalg.norm(gradient), z[f"{name}_grad_norm"]) < 2e-2
        assert relative_error(gradient[:, 40:52, 32:44], z[f"{name}_grad_crop"]) < 2e-2


@pytest.mark.parametrize(
    ("kind", "side", "count"),
    [
        ("srgan_discriminator", 96, 23_563_649),
        ("vgg_style_discriminator", 128, 14_499_401),
        ("vgg_style_discriminator", 160, 14_960_201),
        ("ranksrgan_discriminator", 296, 17_827_401),
        ("ranksrgan_ranker", 296, 13_734_281),
        ("enet_discriminator", 128, 13_102_881),
    ],
)
def test_parameters_as_published(kind, side, count):
    init = functools.partial(models.published(kind).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    assert sum(a.size for a in jax.tree.leaves(shapes)) == count


def test_initialisations():
    """The published ones: spread of the kernels by their number of inputs, biases of PyTorch's default within its bound."""
    for initial, variance in (("he", 2), ("default", 1 / 3)):
        net = VGGStyleDiscriminator(features=(32,), hidden=64, initial=initial)
        params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"]
        for kernel in (params["trunk"]["conv0_1"]["kernel"], params["linear1"]["kernel"]):
            np.testing.assert_allclose(kernel.var() * np.prod(kernel.shape[:-1]), variance, rtol=0.1)
        bias = params["linear1"]["bias"]
        assert np.abs(bias).max() <= 1 / np.sqrt(512)
        assert np.any(bias) == (initial == "default")
