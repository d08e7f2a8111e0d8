"""The GAN stage: discriminator and generator in one compiled step (eq. 6; WGAN-GP, Gulrajani et al. 2017)."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax import weights as weight_files
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.training import losses
from rrsr_jax.training.initial import fitted, flat_shapes, initialise, initialise_model, read_source
from rrsr_jax.training.step import (
    DATA_AXIS,
    Step,
    compile_step,
    create_state,
    largest_gradient,
    make_optimizer,
    merge,
    parameter_rates,
    passes,
    pixel_terms,
    split,
    split_discriminator,
    update,
)
from rrsr_jax.training.super_resolution import SuperResolution, model_params
from rrsr_jax.workdir.state import TrainState


class Gan(SuperResolution):
    """A super-resolution model with discriminator and perceptual loss (stage `gan`)."""

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`."""
        super().__init__(config, mesh)
        self._pixel_step = make_gan_step(self.model, config, mesh, judged=False)
        self._full_step = make_gan_step(self.model, config, mesh, judged=True)

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        parts: dict[str, Any] = {"frozen": {}}
        if self.config.loss.adversarial:
            parts |= _random_discriminator(self.config, key)
        if self.config.loss.perceptual:
            parts["frozen"] = {"perceptual": VGG("relu5_1").init(key, jnp.zeros((1, 16, 16, 3)))["params"]}
        return create_state(self.config, initialise_model(self.model, key), **parts)

    def check_sources(self, planned: Mapping[str, str]) -> None:
        """See `Stage`; the perceptual loss needs VGG-19."""
        if self.config.loss.perceptual and not self.config.weights.vgg:
            raise InputError(
                "config.weights.vgg is empty: the perceptual loss needs VGG-19's weights (python -m rrsr_jax.weights fetch "
                "vgg19); or leave it out with --config.loss.perceptual=0"
            )
        super().check_sources(planned)

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; the discriminator's parameters are those of `gan_parts`."""
        if complete:  # evaluation has no discriminator
            return super().initial_state(complete)
        self.check_sources({})
        source = read_source(self.config, self.SOURCES)
        params = model_params(self.model, self.config, source)
        return create_state(self.config, params, **gan_parts(self.config, source))

    def step(self, number: int) -> Step:
        """The step of the -rec stage before `config.pixel_steps`, then the full one; see `make_gan_step`."""
        return self._full_step if number >= self.config.pixel_steps else self._pixel_step


def gan_parts(config: ConfigDict, source: TrainState | None = None) -> dict[str, Any]:
    """What the GAN stage has besides the generator, as far as the loss needs it: fields of `TrainState` by name.

    The discriminator comes from the first of these that is there: `config.weights.discriminator`; `source`, see `read_source`, if
    that is a GAN run; random numbers. VGG-19 comes from `config.weights.vgg`.

    Raises:
      InputError: files that do not fit.
    """
    parts: dict[str, Any] = {"frozen": {}}
    if config.loss.adversarial:
        parts |= initialise(functools.partial(_random_discriminator, config), config.seed)
        shapes = flat_shapes({name: parts[name] for name in ("discriminator", "statistics")})
        if path := config.weights.discriminator:
            loaded = weight_files.load("discriminator", path)
            loaded = {"discriminator": loaded["params"], "statistics": loaded["batch_stats"]}
            check_shapes(f"{path} (config.weights.discriminator) and config.discriminator", shapes, flat_shapes(loaded))
            parts |= loaded
        elif source and source.discriminator:
            found = {"discriminator": source.discriminator, "statistics": source.statistics}
            parts |= fitted(config, {name: parts[name] for name in found}, found)
    if config.loss.perceptual:
        parts["frozen"] = {"perceptual": weight_files.load("vgg19", config.weights.vgg)}
    return parts


def _random_discriminator(config: ConfigDict, key: jax.Array) -> dict[str, Any]:
    variables = Discriminator(**config.discriminator.to_dict()).init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    return {"discriminator": variables["params"], "statistics": variables["batch_stats"]}


def make_gan_step(model: nn.Module, config: ConfigDict, mesh: Mesh, judged: bool = True) -> Step:
    """The compiled step of the GAN stage.

      1. Both passes of the generator, once.
      2. The discriminator is updated on the real and the generated images of the batch, with the gradient penalty between them.
      3. The generator is updated on the pixel terms of both passes, and on the perceptual term and the updated discriminator's
         verdict on `sr` alone.

    Without `judged` it leaves the discriminator and the perceptual term out, and is the step of the -rec stage.

    Metrics, unweighted: `rec`, `rtrr`, `perceptual`, `adversarial`; `loss`, their weighted sum; `grad_norm` of the generator;
    `real` and `fake`, the discriminator's mean verdicts, and `penalty`; `largest_gradient`, of both networks; `finite`.
    Results do not depend on how many devices share a batch.
    """
    return compile_step(functools.partial(_step, model, config, judged), mesh)


def _step(model, config, judged: bool, state: TrainState, batch):
    weights = config.loss.to_dict()
    rates = parameter_rates(state.generator, config.learning_rates)
    trained, fixed = split(state.generator, rates)

    def generate(trained):
        return passes(functools.partial(model.apply, {"params": merge(trained, fixed)}), batch, weights)

    images, pull_back = jax.vjp(generate, trained)
    verdict, judge_gradient = {}, {}
    if judged and state.discriminator:
        state, verdict, judge_gradient = _update_discriminator(state, images["sr"], batch["hr"], config)

    def loss(images):
        terms = pixel_terms(images, batch, weights)
        if judged:
            terms |= _judged_terms(state, images["sr"], batch["hr"], config)
        total = sum(weights[name] * value for name, value in terms.items())
        return total, terms | {"loss": total}

    cotangent, metrics = jax.grad(loss, has_aux=True)(images)
    gradient, metrics = jax.lax.pmean((pull_back(cotangent)[0], metrics | verdict), DATA_AXIS)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    metrics["largest_gradient"] = largest_gradient({**gradient, **judge_gradient}, state)
    trained, opt_state, ema = update(gradient, trained, state, config, rates)
    moved = {"generator": merge(trained, fixed), "opt_state": {**state.opt_state, "generator": opt_state}, "ema": ema}
    return state.replace(step=state.step + 1, **moved), metrics


def _update_discriminator(state: TrainState, sr, hr, config):
    """The state with its discriminator updated, metrics, and the discriminator's gradient."""
    trained, fixed, rates = split_discriminator(state.discriminator, config)
    alpha = _between(config, state.step, len(hr))

    def loss(trained):
        net = functools.partial(_judge, config, merge(trained, fixed)["discriminator"])
        real, statistics = net(state.statistics, hr)
        fake, statistics = net(statistics, sr)
        penalty, _ = losses.gradient_penalty(lambda images: net(statistics, images)[0], hr, sr, alpha)
        metrics = {"real": real.mean(), "fake": fake.mean(), "penalty": penalty}
        return fake.mean() - real.mean() + config.penalty * penalty, (metrics, statistics)

    gradient, (metrics, statistics) = jax.lax.pmean(jax.grad(loss, has_aux=True)(trained), DATA_AXIS)
    optimizer = make_optimizer(config, rates, config.pixel_steps)
    updates, opt_state = optimizer.update(gradient, state.opt_state["discriminator"])
    moved = merge(optax.apply_updates(trained, updates), fixed)
    opt_state = {**state.opt_state, "discriminator": opt_state}
    state = state.replace(discriminator=moved["discriminator"], statistics=statistics, opt_state=opt_state)
    return state, metrics, gradient


def _judged_terms(state: TrainState, sr, hr, config) -> dict[str, jax.Array]:
    """The terms of eq. 6 that look at `sr` through another network."""
    terms = {}
    if config.loss.perceptual:
        vgg = {"params": state.frozen["perceptual"]}
        features: list[Any] = [VGG("relu5_1").apply(vgg, image) for image in (sr, hr)]
        terms["perceptual"] = losses.perceptual(*(f["relu5_1"] for f in features), axis_name=DATA_AXIS)
    if config.loss.adversarial:
        verdict, _ = _judge(config, state.discriminator, state.statistics, sr)
        terms["adversarial"] = -verdict.mean()
    return terms


def _judge(config, params, statistics, images) -> tuple[jax.Array, Mapping[str, Any]]:
    """Verdicts (N,) and running statistics, with the statistics of this batch, whatever devices share it."""
    net = Discriminator(**config.discriminator.to_dict(), axis_name=DATA_AXIS)
    variables = {"params": params, "batch_stats": statistics}
    verdict, updated = net.apply(variables, images, train=True, mutable=["batch_stats"])
    return verdict, updated["batch_stats"]


def _between(config, step, size: int) -> jax.Array:
    """Where between real and fake the penalty is taken, (size, 1, 1, 1) in [0, 1): this device's share of the batch's."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    alpha = jax.random.uniform(key, (size * jax.lax.axis_size(DATA_AXIS), 1, 1, 1))
    return jax.lax.dynamic_slice_in_dim(alpha, size * jax.lax.axis_index(DATA_AXIS), size)
