"""The objectives of a generator and its discriminator, and the discriminator's network, called as in training.

| objective | discriminator minimises | generator minimises | of |
|---|---|---|---|
| `wgan_gp` | fake - real + w penalty | -fake | RRSR, TTSR (Gulrajani et al. 2017) |
| `wgan_gp_per_pixel` | the same, with a slope for each pixel | -fake | SRNTT's release |
| `standard` | BCE1(real) + BCE0(fake) | BCE1(fake) | SRGAN, ENet, RankSRGAN |
| `relativistic` | (BCE1(real - fake') + BCE0(fake - real')) / 2 | (BCE0(real - fake') + BCE1(fake - real')) / 2 | ESRGAN |
| `relativistic_detached` | the same, without a gradient through the means | as above | BasicSR's ESRGAN |

`real` and `fake` are values of the discriminator, means over the batch where nothing else is said; BCE1(z) = mean softplus(-z) of
logits that should say "real", BCE0(z) = mean softplus(z), and x' is the mean of x over the batch of all devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rrsr_jax import models
from rrsr_jax.models.discriminator import DISCRIMINATORS
from rrsr_jax.training import losses
from rrsr_jax.training.passes import over_devices
from rrsr_jax.training.step import DATA_AXIS

# (real, fake, axis_name) -> loss: values (N,) each, and the axis of the devices that share the batch, if any.
Loss = Callable[[jax.Array, jax.Array, str | None], jax.Array]


class Objective(NamedTuple):
    """What the two networks minimise.

    Attributes:
      discriminator, generator: losses. The gradient of the generator's goes through `fake` alone.
      slopes: axes of an image's gradient that a norm is taken over, for the gradient penalty; None without one.
      span: of the colours for which that norm should be 1; images here have 1, from 0 to 1.
      compares: whether the generator's looks at `real`.
    """

    discriminator: Loss
    generator: Loss
    slopes: tuple[int, ...] | None = None
    span: float = 1.0
    compares: bool = False


def is_real(logits: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits that should say "real"."""
    return jax.nn.softplus(-logits).mean()


def is_fake(logits: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits that should say "generated"."""
    return jax.nn.softplus(logits).mean()


def _wasserstein(real, fake, axis_name):
    return fake.mean() - real.mean()


def _fool_wasserstein(real, fake, axis_name):
    return -fake.mean()


def _standard(real, fake, axis_name):
    return is_real(real) + is_fake(fake)


def _fool_standard(real, fake, axis_name):
    return is_real(fake)


def _relativistic(real, fake, axis_name):
    return (is_real(real - _mean(fake, axis_name)) + is_fake(fake - _mean(real, axis_name))) / 2


def _relativistic_detached(real, fake, axis_name):
    real_mean, fake_mean = (jax.lax.stop_gradient(_mean(x, axis_name)) for x in (real, fake))
    return (is_real(real - fake_mean) + is_fake(fake - real_mean)) / 2


def _fool_relativistic(real, fake, axis_name):
    return _relativistic(fake, jax.lax.stop_gradient(real), axis_name)


def _mean(values, axis_name):
    mean = values.mean()
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


OBJECTIVES = {
    "wgan_gp": Objective(_wasserstein, _fool_wasserstein, slopes=(1, 2, 3)),
    "wgan_gp_per_pixel": Objective(_wasserstein, _fool_wasserstein, slopes=(3,), span=2.0),
    "standard": Objective(_standard, _fool_standard),
    "relativistic": Objective(_relativistic, _fool_relativistic, compares=True),
    "relativistic_detached": Objective(_relativistic_detached, _fool_relativistic, compares=True),
}


def build(config) -> nn.Module:
    """The discriminator that `config.discriminator` names."""
    return models.build(config.discriminator, DISCRIMINATORS)


def judge(
    config, params: Mapping[str, Any], statistics: Mapping[str, Any], images: jax.Array
) -> tuple[jax.Array, Mapping[str, Any]]:
    """Values (N,) and running statistics, with the statistics of this batch, whatever devices share it."""
    variables = {"params": params, "batch_stats": statistics}
    result: Any = over_devices(build(config)).apply(variables, images, train=True, mutable=["batch_stats"])
    verdict, updated = result
    return verdict, updated.get("batch_stats", statistics)


def discriminator_loss(
    config,
    params: Mapping[str, Any],
    statistics: Mapping[str, Any],
    real: jax.Array,
    fake: jax.Array,
    alpha: jax.Array | None,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Mapping[str, Any]]]:
    """What the discriminator minimises, with metrics and running statistics.

    Args:
      config: of the run.
      params, statistics: of the discriminator.
      real, fake: (N, H, W, 3) in [0, 1].
      alpha: (N, 1, 1, 1), where between them the gradient penalty is taken; None for an objective without one.

    Returns:
      The loss; `real` and `fake`, mean values, and with a penalty `penalty`; statistics of the real, then the fake images.
    """
    objective = OBJECTIVES[config.objective]
    on_real, statistics = judge(config, params, statistics, real)
    on_fake, statistics = judge(config, params, statistics, fake)
    loss = objective.discriminator(on_real, on_fake, DATA_AXIS)
    metrics = {"real": on_real.mean(), "fake": on_fake.mean()}
    if objective.slopes and alpha is not None:
        penalty, _ = losses.gradient_penalty(
            lambda images: judge(config, params, statistics, images)[0],
            real,
            fake,
            alpha,
            axes=objective.slopes,
            span=objective.span,
        )
        metrics["penalty"] = penalty
        loss = loss + config.penalty * penalty
    return loss, (metrics, statistics)


def generator_loss(
    config, params: Mapping[str, Any], statistics: Mapping[str, Any], real: jax.Array, fake: jax.Array
) -> jax.Array:
    """The generator's adversarial term; arguments as in `discriminator_loss`."""
    objective = OBJECTIVES[config.objective]
    on_fake, _ = judge(config, params, statistics, fake)
    on_real = judge(config, params, statistics, real)[0] if objective.compares else on_fake
    return objective.generator(on_real, on_fake, DATA_AXIS)
