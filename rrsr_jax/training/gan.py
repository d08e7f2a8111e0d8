"""The GAN stage: discriminator and generator in one compiled step (eq. 6; WGAN-GP, Gulrajani et al. 2017)."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.training import losses
from rrsr_jax.training.initial import GAN_PARTS
from rrsr_jax.training.step import (
    DATA_AXIS,
    compile_step,
    create_state,
    largest_gradient,
    make_optimizer,
    merge,
    parameter_rates,
    passes,
    pixel_terms,
    split,
    update,
)
from rrsr_jax.workdir.state import TrainState


def create_gan_state(params: Mapping, config: ConfigDict) -> TrainState:
    """A state before the first step; `params` has the model's and `GAN_PARTS`, `opt_state` an optimiser for each network."""
    generator, gan = _separate(params)
    state = create_state(generator, config)
    opt_state = {"generator": state.opt_state}
    if "discriminator" in gan:
        flat, _, rates = _discriminator(gan, config)
        opt_state["discriminator"] = make_optimizer(config, rates, config.pixel_steps).init(flat)
    return state.replace(params={**generator, **gan}, opt_state=opt_state)


def make_gan_step(
    model: nn.Module, config: ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The step of the GAN stage, (state, batch) -> (state, metrics); the state is donated.

    Before `config.pixel_steps` it is that of the -rec stage. Then:
      1. both passes of the generator, once;
      2. the discriminator moves, by real and generated images of the batch and the gradient penalty between them;
      3. the generator moves, by the pixel terms of both passes, and by the perceptual term and the moved discriminator's verdict
         on `sr` alone.

    Metrics, unweighted: `rec`, `rtrr`, `perceptual`, `adversarial`; `loss`, their weighted sum; `grad_norm` of the generator;
    `real` and `fake`, the discriminator's mean verdicts, and `penalty`; `largest_gradient`, of both networks. Results do not
    depend on how many devices share a batch.
    """
    pixel, full = (compile_step(functools.partial(_step, model, config, judged), mesh) for judged in (False, True))

    def step(state, batch):
        return (full if int(state.step) >= config.pixel_steps else pixel)(state, batch)

    return step


def _step(model, config, judged: bool, state, batch):
    weights = config.loss.to_dict()
    params, gan = _separate(state.params)
    opt_state = dict(state.opt_state)
    rates = parameter_rates(params, config.learning_rates)
    trained, frozen = split(params, rates)

    def generate(trained):
        return passes(functools.partial(model.apply, {"params": merge(trained, frozen)}), batch, weights)

    images, pull_back = jax.vjp(generate, trained)
    verdict, judge_gradient = {}, {}
    if judged and "discriminator" in gan:
        gan, opt_state["discriminator"], verdict, judge_gradient = _move_discriminator(
            gan, images["sr"], batch["hr"], state, config
        )

    def loss(images):
        terms = pixel_terms(images, batch, weights)
        if judged:
            terms |= _judged_terms(gan, images["sr"], batch["hr"], config)
        total = sum(weights[name] * value for name, value in terms.items())
        return total, terms | {"loss": total}

    cotangent, metrics = jax.grad(loss, has_aux=True)(images)
    gradient, metrics = jax.lax.pmean((pull_back(cotangent)[0], metrics | verdict), DATA_AXIS)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    metrics["largest_gradient"] = largest_gradient({**gradient, **judge_gradient}, state.params)
    trained, opt_state["generator"], ema = update(gradient, trained, opt_state["generator"], state.ema, config, rates)
    return TrainState(state.step + 1, {**merge(trained, frozen), **gan}, opt_state, ema), metrics


def _move_discriminator(gan, sr, hr, state, config):
    """The parts with the discriminator moved, its optimiser, metrics, and its gradient."""
    flat, frozen, rates = _discriminator(gan, config)
    alpha = _between(config, state.step, len(hr))

    def loss(flat):
        net = functools.partial(_judge, config, merge(flat, frozen)["discriminator"])
        real, stats = net(gan["discriminator_stats"], hr)
        fake, stats = net(stats, sr)
        penalty, _ = losses.gradient_penalty(lambda images: net(stats, images)[0], hr, sr, alpha)
        metrics = {"real": real.mean(), "fake": fake.mean(), "penalty": penalty}
        return fake.mean() - real.mean() + config.penalty * penalty, (metrics, stats)

    gradient, (metrics, stats) = jax.lax.pmean(jax.grad(loss, has_aux=True)(flat), DATA_AXIS)
    optimizer = make_optimizer(config, rates, config.pixel_steps)
    updates, opt_state = optimizer.update(gradient, state.opt_state["discriminator"])
    moved = merge(optax.apply_updates(flat, updates), frozen)
    return {**gan, **moved, "discriminator_stats": stats}, opt_state, metrics, gradient


def _judged_terms(gan, sr, hr, config) -> dict[str, jax.Array]:
    """The terms of eq. 6 that look at `sr` through another network."""
    terms = {}
    if config.loss.perceptual:
        features = [VGG("relu5_1").apply({"params": gan["perceptual"]}, image)["relu5_1"] for image in (sr, hr)]
        terms["perceptual"] = losses.perceptual(*features, axis_name=DATA_AXIS)
    if config.loss.adversarial:
        verdict, _ = _judge(config, gan["discriminator"], gan["discriminator_stats"], sr)
        terms["adversarial"] = -verdict.mean()
    return terms


def _judge(config, params, stats, images) -> tuple[jax.Array, Mapping]:
    """Verdicts (N,) and running statistics, with the statistics of this batch, whatever devices share it."""
    net = Discriminator(**config.discriminator.to_dict(), axis_name=DATA_AXIS)
    verdict, moved = net.apply({"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"])
    return verdict, moved["batch_stats"]


def _between(config, step, size: int) -> jax.Array:
    """Where between real and fake the penalty is taken, (size, 1, 1, 1) in [0, 1): this device's share of the batch's."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    alpha = jax.random.uniform(key, (size * jax.lax.axis_size(DATA_AXIS), 1, 1, 1))
    return jax.lax.dynamic_slice_in_dim(alpha, size * jax.lax.axis_index(DATA_AXIS), size)


def _separate(params: Mapping) -> tuple[dict, dict]:
    """The model's parameters, and `GAN_PARTS`."""
    return {k: v for k, v in params.items() if k not in GAN_PARTS}, {k: v for k, v in params.items() if k in GAN_PARTS}


def _discriminator(gan: Mapping, config: ConfigDict) -> tuple[dict, dict, dict]:
    """The discriminator's trained and frozen parameters and their rates, flat by path."""
    wrapped = {"discriminator": gan["discriminator"]}
    rates = parameter_rates(wrapped, config.learning_rates)
    return *split(wrapped, rates), rates
