"""The GAN stage: a super-resolution model that also learns from a discriminator and from other networks' features."""

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
from rrsr_jax.models.discriminator import DISCRIMINATOR_KINDS
from rrsr_jax.training import adversarial
from rrsr_jax.training.initial import (
    fitted,
    flat_shapes,
    initialise,
    initialise_model,
    load_ranker,
    read_source,
)
from rrsr_jax.training.passes import pixel_terms, training_passes
from rrsr_jax.training.step import (
    DATA_AXIS,
    Step,
    compile_step,
    create_state,
    discriminator_optimizer,
    largest_gradient,
    merge,
    parameter_rates,
    split,
    split_discriminator,
    update,
    vjp_in_pieces,
)
from rrsr_jax.training.super_resolution import SuperResolution, model_params
from rrsr_jax.training.terms import build_ranker, feature_kind, feature_layers, feature_network, judged_terms
from rrsr_jax.workdir.state import TrainState


class Gan(SuperResolution):
    """A super-resolution model with a discriminator and losses of other networks (stage `gan`).

    A method is a choice of terms (`config.loss`), an objective (see `adversarial`), a discriminator, and an order of updates:

    | method | terms besides the adversarial one | objective | discriminator | updates of a step |
    |---|---|---|---|---|
    | RRSR | L1, reciprocal L1, Frobenius norm of relu5_1 | `wgan_gp` | `rrsr` | D, G |
    | SRGAN | squared differences of relu5_4 | `standard` | `srgan` | G, D |
    | ENet | squared differences of pool2, pool5; Gram matrices of relu1_1, relu2_1, relu3_1 | `standard` | `enet` | G, D |
    | ESRGAN | L1, L1 of conv5_4, before its activation | `relativistic` | `vgg_style` | G, D |
    | RankSRGAN | L1 of conv5_4, the Ranker's scores | `standard` | `vgg_style` | G, D |
    | SRNTT | L1 of both results; relu5_1; Gram matrices of transferred maps | `wgan_gp_per_pixel` | `srntt` | D, D, G, D |
    | TTSR | L1, squared differences of relu5_1, transferred maps | `wgan_gp` | `enet` | D, D, G |
    | MASA | L1, L1 of conv5_4 | `relativistic` | `vgg_style` | G, D |
    | DCSR | L1 of blurred images, contextual with reference and truth | none | none | G |

    Their weights and constants are in `configs/table1.py`; what their publications leave open is in docs/differences.md.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`."""
        super().__init__(config, mesh)
        self._full_step = make_gan_step(self.model, config, mesh)

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        parts: dict[str, Any] = {"frozen": {}}
        if self.config.loss.adversarial:
            parts |= _random_discriminator(self.config, key)
        if feature_layers(self.config):
            network = feature_network(self.config, self.model)
            parts["frozen"]["perceptual"] = network.init(key, jnp.zeros((1, 32, 32, 3)))["params"]
        if self.config.loss.get("ranking"):
            image = jnp.zeros((1, self.config.data.patch, self.config.data.patch, 3))
            parts["frozen"]["ranker"] = dict(build_ranker(self.config).init(key, image, train=False))
        return create_state(self.config, initialise_model(self.model, key), **parts)

    def check_sources(self, planned: Mapping[str, str]) -> None:
        """See `Stage`; losses of other networks need their weights."""
        needed = {}
        if feature_layers(self.config):
            needed["vgg"] = (
                "the perceptual loss needs VGG-19's weights (python -m rrsr_jax.weights fetch vgg19); or leave it out with "
                "--config.loss.perceptual=0, and so all other terms that look at features"
            )
        if self.config.loss.get("ranking"):
            needed["ranksrgan_ranker"] = (
                "the ranking loss needs a Ranker, a file or the workdir of a run of stage ranker; or leave it out with "
                "--config.loss.ranking=0"
            )
        for name, reason in needed.items():
            if not self.config.weights[name]:
                raise InputError(f"config.weights.{name} is empty: {reason}")
        super().check_sources(planned)

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; the other networks' parameters are those of `gan_parts`."""
        if complete:  # evaluation has no discriminator
            return super().initial_state(complete)
        self.check_sources({})
        source = read_source(self.config, self.SOURCES)
        params = model_params(self.model, self.config, source)
        return create_state(self.config, params, **gan_parts(self.config, self.model, source))

    def step(self, number: int) -> Step:
        """The step of the -rec stage before `config.pixel_steps`, then the full one; see `make_gan_step`."""
        return self._full_step if number >= self.config.pixel_steps else super().step(number)


def gan_parts(config: ConfigDict, model: nn.Module, source: TrainState | None = None) -> dict[str, Any]:
    """What the GAN stage has besides the generator, as far as the loss needs it: fields of `TrainState` by name.

    The discriminator comes from the first of these that is there: `config.weights.discriminator`; `source`, see `read_source`, if
    that is a GAN run; random numbers. VGG-19 and the Ranker come from `config.weights`.

    Raises:
      InputError: files that do not fit.
    """
    parts: dict[str, Any] = {"frozen": {}}
    if config.loss.adversarial:
        parts |= initialise(functools.partial(_random_discriminator, config), config.seed)
        shapes = flat_shapes({name: parts[name] for name in ("discriminator", "statistics")})
        if path := config.weights.discriminator:
            name = config.discriminator.name
            if name not in DISCRIMINATOR_KINDS:
                raise InputError(
                    f"config.weights.discriminator: no file expected for the discriminator {name}, got {path}"
                )
            loaded = weight_files.load(DISCRIMINATOR_KINDS[name], path)
            loaded = {"discriminator": loaded["params"], "statistics": loaded.get("batch_stats", {})}
            check_shapes(f"{path} (config.weights.discriminator) and config.discriminator", shapes, flat_shapes(loaded))
            parts |= loaded
        elif source and source.discriminator:
            found = {"discriminator": source.discriminator, "statistics": source.statistics}
            parts |= fitted(config, {name: parts[name] for name in found}, found)
    if feature_layers(config):
        network = feature_network(config, model)
        used = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        loaded = weight_files.load(feature_kind(config), config.weights.vgg)
        parts["frozen"]["perceptual"] = {name: value for name, value in loaded.items() if name in used}
    if config.loss.get("ranking"):
        ranker = initialise(functools.partial(_random_ranker, config), config.seed)
        parts["frozen"]["ranker"] = load_ranker(config.weights.ranksrgan_ranker, ranker)
    return parts


def _random_discriminator(config: ConfigDict, key: jax.Array) -> dict[str, Any]:
    image = jnp.zeros((1, config.data.patch, config.data.patch, 3))
    variables = adversarial.build(config).init(key, image, train=False)
    return {"discriminator": variables["params"], "statistics": variables.get("batch_stats", {})}


def _random_ranker(config: ConfigDict, key: jax.Array) -> dict[str, Any]:
    return dict(build_ranker(config).init(key, jnp.zeros((1, config.data.patch, config.data.patch, 3)), train=False))


def make_gan_step(model: nn.Module, config: ConfigDict, mesh: Mesh) -> Step:
    """The compiled step of the GAN stage.

      1. Both passes of the generator, once; with `config.accumulate` above 1, once more for the gradient.
      2. The updates that `config.updates` names, one after the other:
         `discriminator`: by the real images of the batch and those of 1, with the objective's gradient penalty, if it has one.
         `generator`: by `pixel_terms` of both passes, `judged_terms` of `sr`, and what the discriminator, as it is by then, says
         of `sr`.

    Metrics, unweighted: all terms; `loss`, their weighted sum; `grad_norm` of the generator; of the discriminator's last update
    `real` and `fake`, its mean values, and `penalty`; `largest_gradient`, of both networks; `finite`.
    Results do not depend on how many devices share a batch.
    """
    return compile_step(functools.partial(_step, model, config), mesh)


def _step(model, config, state: TrainState, batch):
    rates = parameter_rates(state.generator, config.learning_rates)
    trained, fixed = split(state.generator, rates)

    def generate(trained, piece):
        return training_passes(model, merge(trained, fixed), piece, state.step, config)

    images, pull_back, statistics = vjp_in_pieces(generate, trained, batch, config.accumulate)
    gradient, judge_gradient, metrics, made = {}, {}, {}, 0
    for network in config.updates:
        if network == "discriminator" and state.discriminator:
            state, verdict, judge_gradient = _update_discriminator(state, images["sr"], batch["hr"], config, made)
            metrics, made = metrics | verdict, made + 1
        elif network == "generator":
            cotangent, terms = jax.grad(functools.partial(_loss, state, batch, config, model), has_aux=True)(images)
            gradient, terms = jax.lax.pmean((pull_back(cotangent), terms), DATA_AXIS)
            metrics |= terms | {"grad_norm": optax.tree.norm(gradient)}
            moved, opt_state, ema = update(gradient, trained, state, config, rates)
            generator = merge(moved, fixed | jax.lax.pmean(statistics, DATA_AXIS))
            opt_state = {**state.opt_state, "generator": opt_state}
            state = state.replace(generator=generator, opt_state=opt_state, ema=ema)
    metrics["largest_gradient"] = largest_gradient({**gradient, **judge_gradient}, state)
    return state.replace(step=state.step + 1), metrics


def _loss(state: TrainState, batch, config, model, images):
    """What the generator minimises, and its metrics."""
    weights = config.loss.to_dict()
    terms = pixel_terms(images, batch, weights, config.pixel_loss)
    terms |= judged_terms(state, images, batch, config, model)
    if config.loss.adversarial:
        verdict = (state.discriminator, state.statistics, batch["hr"], images["sr"])
        terms["adversarial"] = adversarial.generator_loss(config, *verdict)
    total = sum(weights[name] * value for name, value in terms.items())
    return total, terms | {"loss": total}


def _update_discriminator(state: TrainState, sr, hr, config, made: int):
    """The state with its discriminator updated once more, after `made` updates of this step; metrics, and the gradient."""
    trained, fixed, rates = split_discriminator(state.discriminator, config)
    alpha = _between(config, state.step, len(hr), made)

    def loss(trained):
        params = merge(trained, fixed)["discriminator"]
        return adversarial.discriminator_loss(config, params, state.statistics, hr, sr, alpha)

    gradient, (metrics, statistics) = jax.lax.pmean(jax.grad(loss, has_aux=True)(trained), DATA_AXIS)
    optimizer = discriminator_optimizer(config, rates)
    updates, opt_state = optimizer.update(gradient, state.opt_state["discriminator"], trained)
    moved = merge(optax.apply_updates(trained, updates), fixed)
    opt_state = {**state.opt_state, "discriminator": opt_state}
    state = state.replace(discriminator=moved["discriminator"], statistics=statistics, opt_state=opt_state)
    return state, metrics, gradient


def _between(config, step, size: int, made: int = 0) -> jax.Array:
    """Where between real and fake the penalty is taken, (size, 1, 1, 1) in [0, 1): this device's share of the batch's.

    Another place at every step, and for every update in it.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    key = jax.random.fold_in(key, made) if made else key
    alpha = jax.random.uniform(key, (size * jax.lax.axis_size(DATA_AXIS), 1, 1, 1))
    return jax.lax.dynamic_slice_in_dim(alpha, size * jax.lax.axis_index(DATA_AXIS), size)
