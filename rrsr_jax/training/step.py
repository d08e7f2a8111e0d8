"""State, mesh, and the training step: both reciprocal passes, losses, gradients and update in one compiled function."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.training import losses
from rrsr_jax.workdir.state import TrainState

DATA_AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data` over all devices of the run, or over `devices`."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def parameter_rates(params: Mapping, learning_rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rate of every parameter by its path: that of the module in `learning_rates` it lies in, else `default`."""

    def rate(path):
        named = [learning_rates[module] for module in path if module in learning_rates]
        return named[-1] if named else learning_rates["default"]

    return {"/".join(path): rate(path) for path in traverse_util.flatten_dict(params)}


def split(params: Mapping, rates: Mapping[str, float]) -> tuple[dict, dict]:
    """Trained and frozen (rate 0) parameters, both flat by path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {k: v for k, v in flat.items() if rates[k]}, {k: v for k, v in flat.items() if not rates[k]}


def merge(trained: Mapping, frozen: Mapping) -> dict:
    """The inverse of `split`."""
    return traverse_util.unflatten_dict({**frozen, **trained}, sep="/")


def make_decay(config: ConfigDict) -> optax.Schedule:
    """What multiplies all learning rates, by step.

    `config.schedule` is `steps`, a factor of `decay_factor` at each of `decay_steps`; or `cosine`, half a wave down to 0 at the
    one step of `decay_steps`.

    Raises:
      InputError: another schedule, or steps that do not suit it.
    """
    steps = [int(step) for step in config.decay_steps]
    if config.schedule == "steps":
        return optax.piecewise_constant_schedule(1.0, dict.fromkeys(steps, config.decay_factor))
    if config.schedule != "cosine":
        raise InputError(f"config.schedule: steps or cosine expected, got {config.schedule!r}")
    if len(steps) != 1 or steps[0] < 1:
        raise InputError(f"config.decay_steps: one step, where the cosine reaches 0, expected, got {tuple(steps)}")
    return optax.cosine_decay_schedule(1.0, steps[0])


def make_optimizer(config: ConfigDict, rates: Mapping[str, float], first_step: int = 0) -> optax.GradientTransformation:
    """Adam with a rate per parameter, all decayed together by `make_decay`; its first update is at step `first_step`."""
    decay = make_decay(config)
    scale = optax.stateless(lambda updates, _: {k: -rates[k] * v for k, v in updates.items()})
    schedule = optax.scale_by_schedule(lambda count: decay(count + first_step))
    return optax.chain(optax.scale_by_adam(*config.adam_betas), schedule, scale)


def create_state(params: Mapping, config: ConfigDict) -> TrainState:
    """A state before the first step, from initial or imported parameters."""
    rates = parameter_rates(params, config.learning_rates)
    trained, _ = split(params, rates)
    ema = jax.tree.map(jnp.copy, trained) if config.ema_decay else {}
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config, rates).init(trained), ema)


def place(state: TrainState, mesh: Mesh) -> TrainState:
    """The state, replicated over the mesh; unplaced, it would cost a second compilation."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def passes(
    refsr: Callable[[jax.Array, jax.Array], jax.Array], batch: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> dict[str, jax.Array]:
    """The two passes of one model: `sr` from `lr` and `ref` (eq. 1), and if `weights` has `rtrr`, `sr_p`: the warped reference
    from its low-resolution version with `sr` as the reference (eq. 3), with a gradient with respect to `sr`.

    Args:
      refsr: any model, (lr, ref) -> sr.
      batch: `lr`, `ref`, and for the second pass `ref_lr_p`.
      weights: of the terms of the loss.
    """
    sr = refsr(batch["lr"], batch["ref"])
    return {"sr": sr, "sr_p": refsr(batch["ref_lr_p"], sr)} if weights["rtrr"] else {"sr": sr}


def pixel_terms(
    images: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> dict[str, jax.Array]:
    """The unweighted terms of eq. 6 that compare pixels and whose weight is not zero.

    Args:
      images: what `passes` gave.
      batch: `hr`, and for `rtrr` the warped reference `ref_p`.
      weights: by term.
    """
    pairs = {"rec": ("hr", "sr"), "rtrr": ("ref_p", "sr_p")}
    return {name: losses.l1(batch[a], images[b]) for name, (a, b) in pairs.items() if weights[name]}


def reciprocal_terms(
    refsr: Callable[[jax.Array, jax.Array], jax.Array], batch: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> dict[str, jax.Array]:
    """`pixel_terms` of `passes`."""
    return pixel_terms(passes(refsr, batch, weights), batch, weights)


def make_train_step(
    model: nn.Module, config: ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step of the -rec stage, (state, batch) -> (state, metrics); see `minimise`."""
    weights = config.loss.to_dict()

    def terms(params, batch):
        return reciprocal_terms(functools.partial(model.apply, {"params": params}), batch, weights)

    return minimise(terms, config, mesh)


def minimise(
    terms: Callable[[Mapping, Mapping[str, jax.Array]], dict[str, jax.Array]], config: ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step that minimises the sum of `terms` of parameters and batch, weighted by `config.loss`.

    Terms that `config.loss` does not name are metrics. Further metrics: `loss`, the weighted sum; `grad_norm` over trained
    parameters; `largest_gradient`, see there.
    """
    weights = config.loss.to_dict()

    def step(state, batch):
        rates = parameter_rates(state.params, config.learning_rates)
        trained, frozen = split(state.params, rates)

        def loss(trained):
            values = terms(merge(trained, frozen), batch)
            total = sum(weights[name] * value for name, value in values.items() if name in weights)
            return total, values | {"loss": total}

        gradient, metrics = jax.lax.pmean(jax.grad(loss, has_aux=True)(trained), DATA_AXIS)
        trained, opt_state, ema = update(gradient, trained, state.opt_state, state.ema, config, rates)
        metrics |= {
            "grad_norm": optax.tree.norm(gradient),
            "largest_gradient": largest_gradient(gradient, state.params),
        }
        return TrainState(state.step + 1, merge(trained, frozen), opt_state, ema), metrics

    return compile_step(step, mesh)


def update(
    gradient: Mapping,
    trained: Mapping,
    opt_state: optax.OptState,
    ema: Mapping,
    config: ConfigDict,
    rates: Mapping[str, float],
) -> tuple[dict, optax.OptState, Mapping]:
    """New trained parameters, state of the optimiser, and moving average."""
    updates, opt_state = make_optimizer(config, rates).update(gradient, opt_state)
    trained = optax.apply_updates(trained, updates)
    if config.ema_decay:
        ema = optax.incremental_update(trained, ema, 1 - config.ema_decay)
    return trained, opt_state, ema


def largest_gradient(gradient: Mapping[str, jax.Array], params: Mapping) -> jax.Array:
    """Place in `parameter_names(params)` of the gradient with the largest norm; one that is not a number is larger than all."""
    names, all_names = sorted(gradient), parameter_names(params)
    squares = jnp.stack([jnp.sum(jnp.square(gradient[name])) for name in names])
    return jnp.array([all_names.index(name) for name in names])[jnp.argmax(squares)]


def parameter_names(params: Mapping) -> list[str]:
    """Paths of all parameters, in order."""
    return sorted(traverse_util.flatten_dict(params, sep="/"))


def compile_step(
    step: Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]], mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """`step` over a mesh in one compiled function; the state is donated, 8-bit images become floats in [0, 1].

    Each device works on its share of the batch alone (`shard_map`), and `step` averages gradients and metrics over `DATA_AXIS`:
    with a global view, the partitioner would gather all features for the sampling, whose indices it cannot see through.
    """

    def local(state, batch):
        return step(state, {name: to_float(images) for name, images in batch.items()})

    specs = (PartitionSpec(), PartitionSpec(DATA_AXIS))
    shared = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    replicated, sharded = (NamedSharding(mesh, spec) for spec in specs)
    return jax.jit(shared, in_shardings=(replicated, sharded), out_shardings=(replicated, replicated), donate_argnums=0)


def to_float(images: jax.Array) -> jax.Array:
    """8-bit images to float32 in [0, 1]; float images as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
