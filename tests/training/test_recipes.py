"""The recipe of each method of Table 1: one step of its config against losses and updates that are written out here."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrsr_jax.models.discriminator import DISCRIMINATORS
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.ranksrgan import Ranker
from rrsr_jax.models.resampling import bicubic_downsample_matlab
from rrsr_jax.training import gan, terms
from rrsr_jax.training import step as steps
from rrsr_jax.training.losses_table1 import contextual, texture_weights
from tests.helpers import get_config, quick_jit

WIDTHS = (3, 4, 4, 4, 4)
RANKER = dict(features=(3, 4), hidden=4)


class Net(nn.Module):
    """A model with all intermediates that a loss can look at."""

    vgg_channels = WIDTHS[:3]

    @nn.compact
    def __call__(self, lr, ref):
        features = VGG("relu3_1", self.vgg_channels, name="vgg")(ref)
        maps = [features[f"relu{level}_1"] for level in (3, 2, 1)]
        for scale, pasted in zip((1, 2, 4), maps, strict=True):
            self.sow("intermediates", f"transferred_{scale}x", pasted)
        self.sow("intermediates", "match_score", 0.03 * (1 + nn.tanh(maps[0].mean(-1)))[:, 1:-1, 1:-1])
        up = jax.image.resize(lr, ref.shape, "linear")
        self.sow("intermediates", "upscale", up + nn.Conv(3, (3, 3), name="early")(up))
        x = nn.Conv(4, (3, 3), name="merge")(jnp.concatenate([up, maps[2]], -1))
        return up + nn.Conv(3, (3, 3), name="late")(nn.tanh(x))


def softplus(x):
    return jnp.logaddexp(x, 0.0)


class Written:
    """Losses as the publications write them, of one set of parameters."""

    def __init__(self, config, state, images):
        self.config, self.start, self.images = config, state, images
        fields = config.discriminator.to_dict() if "discriminator" in config else {"name": "enet"}
        self.net = DISCRIMINATORS[fields.pop("name")](**fields)

    def vgg(self, image, *layers):
        network = VGG(layers[-1], WIDTHS, others=layers[:-1])
        found = network.apply({"params": self.start.frozen["perceptual"]}, image)
        return [found[layer] for layer in layers]

    def judge(self, params, image):
        variables = {"params": params, "batch_stats": self.start.statistics}
        return self.net.apply(variables, image, train=True, mutable=["batch_stats"])[0]

    def generator(self, params, discriminator):
        """Unweighted terms by name."""
        lr, ref, hr = (self.images[name] for name in ("lr", "ref", "hr"))
        sr, kept = Net().apply({"params": params}, lr, ref, mutable=["intermediates"])
        kept = {name: value[0] for name, value in kept["intermediates"].items()}
        maps = [kept[f"transferred_{scale}x"] for scale in (1, 2, 4)]
        return METHODS[self.name](self, sr, hr, lr, ref, kept, maps, params, discriminator), sr

    def deep(self, sr, hr, layer, power):
        (a,), (b,) = self.vgg(sr, layer), self.vgg(hr, layer)
        return (jnp.abs(a - b) ** power).mean()

    def srgan(self, sr, hr, lr, ref, kept, maps, params, d):
        fool = softplus(-self.judge(d, sr)).mean()
        return {"perceptual": self.deep(sr, hr, "relu5_4", 2), "adversarial": fool}

    def enet(self, sr, hr, lr, ref, kept, maps, params, d):
        layers = ("relu1_1", "relu2_1", "relu3_1", "pool2", "pool5")
        order = ("relu1_1", "relu2_1", "pool2", "relu3_1", "pool5")
        pair = [dict(zip(order, self.vgg(image, *order), strict=True)) for image in (sr, hr)]
        pair = [{k: v / v.mean((1, 2, 3), keepdims=True) for k, v in found.items()} for found in pair]

        def cells(x):
            sides = range(0, x.shape[1], 16)
            return jnp.stack([x[:, y : y + 16, z : z + 16].reshape(len(x), 256, -1) for y in sides for z in sides])

        grams = [[jnp.swapaxes(c, -1, -2) @ c for c in (cells(found[k]) for k in layers[:3])] for found in pair]
        squares = [((a - b) ** 2).mean() for a, b in zip(*grams, strict=True)]
        pools = [((pair[0][k] - pair[1][k]) ** 2).mean() for k in layers[3:]]
        return {
            "perceptual": 0.2 * pools[0] + 0.02 * pools[1],
            "texture": 3e-7 * squares[0] + 1e-6 * squares[1] + 1e-6 * squares[2],
            "adversarial": softplus(-self.judge(d, sr)).mean(),
        }

    def esrgan(self, sr, hr, lr, ref, kept, maps, params, d):
        real, fake = self.judge(d, hr), self.judge(d, sr)
        # The real ones should now look less real than the generated ones.
        fool = softplus(real - fake.mean()).mean() + softplus(real.mean() - fake).mean()
        return {
            "rec": jnp.abs(sr - hr).mean(),
            "perceptual": self.deep(sr, hr, "conv5_4", 1),
            "adversarial": fool / 2,
        }

    def ranksrgan(self, sr, hr, lr, ref, kept, maps, params, d):
        score, _ = Ranker(**RANKER).apply(self.start.frozen["ranker"], sr, train=True, mutable=["batch_stats"])
        return {
            "perceptual": self.deep(sr, hr, "conv5_4", 1),
            "ranking": (1 / (1 + jnp.exp(-score))).sum(),
            "adversarial": softplus(-self.judge(d, sr)).mean(),
        }

    def srntt(self, sr, hr, lr, ref, kept, maps, params, d):
        score = jnp.pad(kept["match_score"], ((0, 0), (1, 1), (1, 1)), mode="edge")[..., None]

        weights = texture_weights(kept["match_score"])  # pinned elsewhere
        np.testing.assert_array_equal(weights[0].shape, score.shape)
        total = 0.0
        for pasted, own, weight in zip(maps, self.vgg(sr, "relu1_1", "relu2_1", "relu3_1")[::-1], weights, strict=True):
            a, b = ((x * weight).reshape(len(x), -1, x.shape[-1]) for x in (pasted, own))
            difference = jnp.swapaxes(a, 1, 2) @ a - jnp.swapaxes(b, 1, 2) @ b
            total += (difference**2).mean() / (4 * (own.shape[1] * own.shape[2] * own.shape[3]) ** 2)
        return {
            "rec": jnp.abs(sr - hr).mean(),
            "upscale": jnp.abs(kept["upscale"] - hr).mean(),
            "perceptual": self.deep(sr, hr, "relu5_1", 2),
            "texture_transfer": total / 3,
            "back_projection": jnp.abs(bicubic_downsample_matlab(sr, 4) - lr).mean(),
            "adversarial": -self.judge(d, sr).mean(),
        }

    def ttsr_gan(self, sr, hr, lr, ref, kept, maps, params, d):
        fixed = jax.lax.stop_gradient(params["vgg"])
        own = VGG("relu3_1", Net.vgg_channels).apply({"params": fixed}, sr)
        squares = [((a - own[f"relu{k}_1"]) ** 2).mean() for a, k in zip(maps, (3, 2, 1), strict=True)]
        return {
            "rec": jnp.abs(sr - hr).mean(),
            "perceptual": self.deep(sr, hr, "relu5_1", 2),
            "transferal": sum(squares) / 3,
            "adversarial": -self.judge(d, sr).mean(),
        }

    def dcsr(self, sr, hr, lr, ref, kept, maps, params, d):
        kernel = jnp.array([[0.08767308, 0.12075024, 0.08767308]] * 3)
        kernel = kernel.at[1].set(jnp.array([0.12075024, 0.1663067, 0.12075024])).reshape(3, 3, 1, 1)

        def blur(x):
            x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
            planes = x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3], 1)
            return jax.lax.conv_general_dilated(
                planes, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        of = {name: self.vgg(x, "relu3_4")[0] for name, x in (("sr", sr), ("hr", hr), ("ref", ref))}
        return {
            "rec": jnp.abs(blur(sr) - blur(hr)).mean(),
            "contextual_ref": contextual(of["sr"], of["ref"]),
            "contextual_hr": contextual(of["sr"], of["hr"]) + contextual(of["hr"], of["sr"]),
        }

    def discriminator(self, params, real, fake, alpha):
        """What the discriminator minimises."""
        a, b = self.judge(params, real), self.judge(params, fake)
        if self.config.objective == "standard":
            return softplus(-a).mean() + softplus(b).mean()
        if self.config.objective == "relativistic":
            return (softplus(b.mean() - a).mean() + softplus(b - a.mean()).mean()) / 2
        between = fake + alpha * (real - fake)
        slope = jax.grad(lambda x: self.judge(params, x).sum())(between)
        if self.config.objective == "wgan_gp":
            norm = jnp.sqrt((slope**2).sum((1, 2, 3)))
        else:  # for each pixel of an image from -1 to 1
            norm = jnp.sqrt(((slope / 2) ** 2).sum(-1) + 1e-20)
        return b.mean() - a.mean() + 10 * ((norm - 1) ** 2).mean()


METHODS = {
    name: getattr(Written, name) for name in ("srgan", "enet", "esrgan", "ranksrgan", "srntt", "ttsr_gan", "dcsr")
}
ORDERS = {
    "srgan": "GD",
    "enet": "GD",
    "esrgan": "GD",
    "ranksrgan": "GD",
    "srntt": "DDGD",
    "ttsr_gan": "DDG",
    "dcsr": "G",
}
_RATE = 1e-2


def prepare(name, monkeypatch):
    """The method's config and a state, small; with a patch of 64 where cells of 16 x 16 pixels are cut at a quarter of it."""
    monkeypatch.setattr(terms, "VGG", functools.partial(VGG, channels=WIDTHS))
    config, side = get_config(f"table1:{name}"), 64 if name == "enet" else 32
    config.data.patch = side
    config.learning_rates = {"default": _RATE, "discriminator": _RATE}
    config.update(decay_steps=(), schedule="steps", pixel_steps=0, adam_betas=(0.9, 0.999))
    if "discriminator" in config:
        config.discriminator.update(features=(3, 4), hidden=5)
    if "ranker" in config:
        config.ranker.update(RANKER)
    rng = np.random.default_rng(0)
    images = {k: rng.random((2, s, s, 3), np.float32) for k, s in (("lr", side // 4), ("hr", side), ("ref", side))}
    key, frozen = jax.random.key(0), {}
    network = terms.feature_network(config, Net())
    frozen["perceptual"] = network.init(key, images["hr"])["params"]
    if name == "ranksrgan":
        frozen["ranker"] = Ranker(**RANKER).init(key, images["hr"], train=False)
    parts = gan._random_discriminator(config, key) if config.loss.adversarial else {}
    params = Net().init(key, images["lr"], images["ref"])["params"]
    return config, lambda: steps.create_state(config, params, frozen=frozen, **parts), images


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_each_method(name, monkeypatch):
    config, make, images = prepare(name, monkeypatch)
    state = make()
    written = Written(config, state, images)
    written.name = name
    mesh = steps.make_mesh(jax.devices()[:1])

    # Weights with which every term has a gradient of the same size, whatever its units; the published ones are pinned elsewhere.
    @quick_jit
    def slopes(params, discriminator):
        values, pull_back, sr = jax.vjp(lambda p: written.generator(p, discriminator), params, has_aux=True)
        one_hot = {k: {other: jnp.float32(other == k) for other in values} for k in values}
        return values, {k: pull_back(chosen)[0] for k, chosen in one_hot.items()}, sr

    values, gradients, sr = slopes(state.generator, state.discriminator)
    assert {k for k, w in config.loss.items() if w} | {"back_projection"} == set(values) | {"back_projection"}
    weights = {k: float(1 / optax.tree.norm(gradient)) for k, gradient in gradients.items()}
    config.loss.update(weights)

    adam, discriminator = optax.adam(_RATE), state.discriminator
    moments = adam.init(discriminator)
    learn, made = quick_jit(jax.grad(written.discriminator)), 0
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    for network in ORDERS[name]:
        if network == "G":
            values, gradients, _ = slopes(state.generator, discriminator)
        else:
            alpha = jax.random.uniform(jax.random.fold_in(key, made) if made else key, (2, 1, 1, 1))
            step, moments = adam.update(learn(discriminator, images["hr"], sr, alpha), moments)
            discriminator, made = optax.apply_updates(discriminator, step), made + 1
    expected = jax.tree.map(
        lambda *parts: sum(w * p for w, p in zip(weights.values(), parts, strict=True)), *gradients.values()
    )

    state, metrics = gan.make_gan_step(Net(), config, mesh)(steps.place(make(), mesh), images)
    for term, value in values.items():
        np.testing.assert_allclose(metrics[term], value, rtol=2e-3, atol=1e-6, err_msg=term)
    np.testing.assert_allclose(metrics["loss"], sum(weights[k] * values[k] for k in values), rtol=2e-3)
    moment = steps.merge(state.opt_state["generator"][0].mu, {})
    difference = optax.tree.norm(jax.tree.map(lambda m, g: m / 0.1 - g, moment, expected))
    assert difference < 1e-2 * optax.tree.norm(expected)
    found = {k: v for k, v in jax.tree.leaves_with_path(state.discriminator)}
    for path, value in jax.tree.leaves_with_path(discriminator):
        if path[-1].key == "kernel":  # biases before a normalisation have a gradient of noise
            np.testing.assert_allclose(found[path], value, atol=2e-3, err_msg=str(path))
    assert set(metrics) >= {"real", "fake"} or name == "dcsr"
