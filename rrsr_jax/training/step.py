"""Mesh, optimiser, and what a training step is made of: passes, gradients in pieces, update, and the compiled function."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.models.layers import STATISTICS
from rrsr_jax.workdir.state import TrainState, parameter_names

DATA_AXIS = "data"

# What a process can tell the others with its share of a batch, see `compile_step`; the larger one counts.
GO_ON, STOP, NO_BATCH = 0, 1, 2

Batch = Mapping[str, jax.Array]
# (state, batch) -> (state, metrics).
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis `data` over all devices of the run, or over `devices`."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def parameter_rates(params: Mapping[str, Any], learning_rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rate of every parameter by its path: that of the module in `learning_rates` it lies in, else `default`.

    Running statistics have the rate 0: a training step replaces them.
    """

    def rate(path):
        if path[-1] in STATISTICS:
            return 0.0
        named = [learning_rates[module] for module in path if module in learning_rates]
        return named[-1] if named else learning_rates["default"]

    return {"/".join(path): rate(path) for path in traverse_util.flatten_dict(params)}


def split(params: Mapping[str, Any], rates: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained and frozen (rate 0) parameters, both flat by path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {k: v for k, v in flat.items() if rates[k]}, {k: v for k, v in flat.items() if not rates[k]}


def merge(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split`."""
    return traverse_util.unflatten_dict({**frozen, **trained}, sep="/")


def make_decay(config: ConfigDict) -> optax.Schedule:
    """The factor of all learning rates, by step.

    `config.schedule` is one of:

      steps            a factor of `decay_factor` at each of `decay_steps`
      cosine           half a wave down to 0 at the one step of `decay_steps`
      cosine_restarts  half a wave down to `decay_factor` at each of `decay_steps`, and from 1 again after it
    """
    steps = [int(step) for step in config.decay_steps]
    if config.schedule == "steps":
        return optax.piecewise_constant_schedule(1.0, dict.fromkeys(steps, config.decay_factor))
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(1.0, steps[0])
    lengths = [end - start for start, end in itertools.pairwise([0, *steps])]
    return optax.join_schedules(
        [optax.cosine_decay_schedule(1.0, length, config.decay_factor) for length in lengths], steps[:-1]
    )


def make_optimizer(
    config: ConfigDict, rates: Mapping[str, float], first_step: int = 0, per_step: int = 1
) -> optax.GradientTransformation:
    """Adam with a rate per parameter, all decayed together by `make_decay`.

    Its first update is at step `first_step`, and each step has `per_step` of them. `config.weight_decay` times the parameters is
    added to the gradient, as PyTorch's Adam does.
    """
    decay = make_decay(config)
    scale = optax.stateless(lambda updates, _: {k: -rates[k] * v for k, v in updates.items()})
    schedule = optax.scale_by_schedule(lambda count: decay(count // per_step + first_step))
    adam = (optax.scale_by_adam(*config.adam_betas), schedule, scale)
    return optax.chain(*((optax.add_decayed_weights(config.weight_decay),) if config.weight_decay else ()), *adam)


def create_state(
    config: ConfigDict,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Any] | None = None,
    frozen: Mapping[str, Any] | None = None,
) -> TrainState:
    """A state before the first step, of initial or imported parameters; see `TrainState`.

    Raises:
      InputError: no parameter has a learning rate above 0.
    """
    rates = parameter_rates(generator, config.learning_rates)
    trained, _ = split(generator, rates)
    if not trained:
        raise InputError(
            f"config.learning_rates: a rate above 0 expected for a module of {config.model.name}, "
            f"got {config.learning_rates.to_dict()}"
        )
    opt_state = {"generator": make_optimizer(config, rates).init(trained)}
    if discriminator:
        judge, _, rates = split_discriminator(discriminator, config)
        opt_state["discriminator"] = discriminator_optimizer(config, rates).init(judge)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        discriminator=discriminator or {},
        statistics=statistics or {},
        frozen=frozen or {},
        opt_state=opt_state,
        ema=jax.tree.map(jnp.copy, trained) if config.ema_decay else {},
    )


def split_discriminator(
    discriminator: Mapping[str, Any], config: ConfigDict
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """The discriminator's trained and frozen parameters and their rates, flat by paths that begin with `discriminator/`."""
    named = {"discriminator": discriminator}
    rates = parameter_rates(named, config.learning_rates)
    return *split(named, rates), rates


def discriminator_optimizer(config: ConfigDict, rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Of the discriminator, which starts at step `config.pixel_steps`, with all its updates of `config.updates` at each step."""
    return make_optimizer(config, rates, config.pixel_steps, config.updates.count("discriminator"))


def place(state: TrainState, mesh: Mesh) -> TrainState:
    """The state, replicated over the mesh; unplaced, it would cost a second compilation."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def minimise(
    terms: Callable[[TrainState, Batch, Batch], tuple[dict[str, jax.Array], dict[str, jax.Array]]],
    config: ConfigDict,
    mesh: Mesh,
) -> Step:
    """The compiled step that minimises the sum of `terms`, weighted by `config.loss`.

    With `config.accumulate` above 1, a device takes its images in so many pieces, one after another, with the memory of one.

    Args:
      terms: function of the state, the piece of the batch and the whole batch of this device. It gives the terms, of which the
        mean over pieces and devices is that of the whole batch, and new running statistics, flat by their paths among the
        generator's parameters. Terms that `config.loss` does not name are metrics.
      config: of the run.
      mesh: of its devices.

    Returns:
      The step. Its metrics: the terms; `loss`, their weighted sum; `grad_norm` over trained parameters; `largest_gradient`
      and `finite`, see there and `compile_step`.
    """
    weights = config.loss.to_dict()

    def step(state, batch):
        rates = parameter_rates(state.generator, config.learning_rates)
        trained, fixed = split(state.generator, rates)

        def loss(trained, piece):
            values, statistics = terms(state.replace(generator=merge(trained, fixed)), piece, batch)
            total = sum(weights[name] * value for name, value in values.items() if name in weights)
            return total, (values | {"loss": total}, statistics)

        result = gradient_in_pieces(loss, trained, batch, config.accumulate)
        gradient, (metrics, statistics) = jax.lax.pmean(result, DATA_AXIS)
        trained, opt_state, ema = update(gradient, trained, state, config, rates)
        metrics |= {"grad_norm": optax.tree.norm(gradient), "largest_gradient": largest_gradient(gradient, state)}
        moved = {
            "generator": merge(trained, fixed | statistics),
            "opt_state": {**state.opt_state, "generator": opt_state},
            "ema": ema,
        }
        return state.replace(step=state.step + 1, **moved), metrics

    return compile_step(step, mesh)


def in_pieces(arrays: Any, pieces: int) -> Any:
    """Each array (N, ...) as (pieces, N / pieces, ...)."""
    return jax.tree.map(lambda a: a.reshape(pieces, -1, *a.shape[1:]), arrays)


def gradient_in_pieces(
    loss: Callable[[Any, Batch], tuple[Any, Any]], params: Any, batch: Batch, pieces: int
) -> tuple[Any, Any]:
    """Gradient of `loss` (of parameters and images, with other results) and these: means over equal pieces of the batch."""
    gradient = jax.grad(loss, has_aux=True)
    if pieces == 1:
        return gradient(params, batch)

    def add(total, piece):
        more, metrics = gradient(params, piece)
        return jax.tree.map(jnp.add, total, more), metrics

    total, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), in_pieces(batch, pieces))
    return jax.tree.map(lambda a: a / pieces, total), jax.tree.map(lambda a: a.mean(0), metrics)


def vjp_in_pieces(
    function: Callable[[Any, Batch], tuple[Any, Any]], params: Any, batch: Batch, pieces: int
) -> tuple[Any, Callable[[Any], Any], Any]:
    """`jax.vjp` of `function` with respect to `params`, for losses that look at a whole batch, such as a batch normalisation.

    Of several pieces nothing is kept but the result; the way back computes each of them again.

    Args:
      function: gives a result with a row for each image, and anything else without a gradient; nothing else for several pieces.
      params, batch, pieces: as in `gradient_in_pieces`.

    Returns:
      What `function` makes of all pieces, joined, the function from its cotangent to the gradient, and the rest.
    """
    if pieces == 1:
        result, pull_back, rest = jax.vjp(lambda params: function(params, batch), params, has_aux=True)
        return result, lambda cotangent: pull_back(cotangent)[0], rest

    def pull_back_all(cotangent):
        def add(total, piece):
            images, cotangent = piece
            _, pull_back = jax.vjp(lambda params: function(params, images)[0], params)
            return jax.tree.map(jnp.add, total, pull_back(cotangent)[0]), None

        parts = in_pieces(batch, pieces), in_pieces(cotangent, pieces)
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)[0]

    result, rest = jax.lax.map(lambda images: function(params, images), in_pieces(batch, pieces))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), result), pull_back_all, rest


def update(
    gradient: Mapping[str, jax.Array],
    trained: Mapping[str, jax.Array],
    state: TrainState,
    config: ConfigDict,
    rates: Mapping[str, float],
) -> tuple[Any, optax.OptState, Mapping[str, Any]]:
    """New trained parameters of the generator, state of its optimiser, and moving average."""
    updates, opt_state = make_optimizer(config, rates).update(gradient, state.opt_state["generator"], trained)
    trained = optax.apply_updates(trained, updates)
    ema = state.ema
    if config.ema_decay:
        ema = optax.incremental_update(trained, ema, 1 - config.ema_decay)
    return trained, opt_state, ema


def largest_gradient(gradient: Mapping[str, jax.Array], state: TrainState) -> jax.Array:
    """Place in `parameter_names(state)` of the gradient with the largest norm; NaN counts as larger than any number."""
    names, all_names = sorted(gradient), parameter_names(state)
    squares = jnp.stack([jnp.sum(jnp.square(gradient[name])) for name in names])
    return jnp.array([all_names.index(name) for name in names])[jnp.argmax(squares)]


def compile_step(step: Step, mesh: Mesh) -> Step:
    """`step` over a mesh in one compiled function; the state is donated, 8-bit images become floats in [0, 1].

    Each device works on its share of the batch alone (`shard_map`), and `step` averages gradients and metrics over `DATA_AXIS`:
    with a global view, the partitioner would gather all features for the sampling, whose indices it cannot see through.

    The metrics get one more, `finite`: whether all others are. It is the only one that has to be fetched at every step.

    Two entries of a batch are no images, and may be missing. They become metrics:

      `skipped`: (N,) int32, how many damaged records came before each image; summed.
      `notice`: (devices,) int32, what the processes tell each other, on each device of a process the same; the largest. With
        `NO_BATCH` the step leaves the state as it is, and no metric counts. So processes agree without any other exchange.
    """

    def local(state, batch):
        images = {name: to_float(array) for name, array in batch.items() if name not in ("skipped", "notice")}
        moved, metrics = step(state, images)
        finite = jnp.isfinite(jnp.stack([jnp.float32(v) for v in metrics.values()])).all()
        if "skipped" in batch:
            metrics |= {"skipped": jax.lax.psum(batch["skipped"].sum(), DATA_AXIS)}
        if "notice" in batch:
            notice = jax.lax.pmax(batch["notice"].max(), DATA_AXIS)
            nothing = notice == NO_BATCH
            moved = jax.tree.map(lambda old, new: new if new is old else jnp.where(nothing, old, new), state, moved)
            metrics, finite = metrics | {"notice": notice}, finite | nothing
        return moved, metrics | {"finite": finite}

    specs = (PartitionSpec(), PartitionSpec(DATA_AXIS))
    shared = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    replicated, sharded = (NamedSharding(mesh, spec) for spec in specs)
    return jax.jit(shared, in_shardings=(replicated, sharded), out_shardings=(replicated, replicated), donate_argnums=0)


def to_float(images: jax.Array) -> jax.Array:
    """8-bit images to float32 in [0, 1]; float images as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
