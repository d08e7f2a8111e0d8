"""A super-resolution model in training: its two passes, the terms that compare pixels, and the step of the -rec stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax.models.contract import read_contract
from rrsr_jax.training import losses, losses_table1
from rrsr_jax.training.step import DATA_AXIS, Batch, Step, merge, minimise

# What `config.pixel_loss` can be, as functions (hr, sr).
PIXEL_LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "l1": losses.l1,
    "mse": losses_table1.mse,
    "charbonnier": losses_table1.charbonnier,
    "blurred_l1": losses_table1.blurred_l1,
}
_MAPS = ("transferred_1x", "transferred_2x", "transferred_4x")
# Intermediates of the model by the term of the loss that needs them.
INTERMEDIATES: dict[str, tuple[str, ...]] = {
    "upscale": ("upscale",),
    "transferal": _MAPS,
    "texture_transfer": (*_MAPS, "match_score"),
}


def passes(
    refsr: Callable[[jax.Array, jax.Array], Any], batch: Mapping[str, jax.Array], weights: Mapping[str, float]
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
    images: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    pixel_loss: str = "l1",
) -> dict[str, jax.Array]:
    """The unweighted terms that compare pixels and whose weight is not zero.

    `rec` compares `sr` with `hr` by `pixel_loss`, `rtrr` the result of the second pass with the warped reference (eq. 3), and
    `upscale` SRNTT's result without a reference with `hr`, both by L1.

    Args:
      images: the result of `passes`, for `upscale` with the intermediate of that name.
      batch: `hr`, and for `rtrr` the warped reference `ref_p`.
      weights: by term.
      pixel_loss: one of `PIXEL_LOSSES`.
    """
    known = {
        "rec": ("hr", "sr", PIXEL_LOSSES[pixel_loss]),
        "rtrr": ("ref_p", "sr_p", losses.l1),
        "upscale": ("hr", "upscale", losses.l1),
    }
    wanted = {name: known[name] for name in known if weights.get(name)}
    return {name: loss(batch[a], images[b]) for name, (a, b, loss) in wanted.items()}


def reciprocal_terms(
    refsr: Callable[[jax.Array, jax.Array], Any], batch: Mapping[str, jax.Array], weights: Mapping[str, float]
) -> dict[str, jax.Array]:
    """`pixel_terms` of `passes`, for any function (lr, ref) -> sr."""
    return pixel_terms(passes(refsr, batch, weights), batch, weights)


def over_devices(module: nn.Module) -> nn.Module:
    """The module with batch normalisation over all devices that share a batch, if it has any."""
    return module.clone(axis_name=DATA_AXIS) if hasattr(module, "axis_name") else module


class TrainingCall:
    """A model in training as a function (lr, ref) -> sr, which keeps what else its calls give.

    Attributes:
      statistics: running statistics after the calls so far, flat by their paths among the parameters; empty without any.
      intermediates: those that were asked for, of the first call.
    """

    def __init__(self, model: nn.Module, params: Mapping[str, Any], key: jax.Array, wanted: Sequence[str] = ()):
        """`key`: of the random numbers of all calls; `wanted`: names of intermediates."""
        self._model, self._contract = over_devices(model), read_contract(model)
        self._params, self._key, self._wanted, self._calls = params, key, wanted, 0
        self.statistics: dict[str, jax.Array] = {}
        self.intermediates: dict[str, jax.Array] = {}

    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """One pass, see `models.contract`. The second one adds to the statistics after the first."""
        params, options, mutable = self._params, {}, []
        if self._contract.takes_train:
            options["train"] = True
            mutable.append("batch_stats")
            params = merge(self.statistics, traverse_util.flatten_dict(params, sep="/"))
        if names := self._contract.generators:
            keys = jax.random.split(jax.random.fold_in(self._key, self._calls), len(names))
            options["rngs"] = dict(zip(names, keys, strict=True))
        if self._wanted and not self._calls:
            mutable.append("intermediates")
        self._calls += 1
        if not mutable:
            sr: Any = self._model.apply({"params": params}, lr, ref, **options)
            return sr
        result: Any = self._model.apply({"params": params}, lr, ref, mutable=mutable, **options)
        sr, more = result
        self.statistics |= traverse_util.flatten_dict(more.get("batch_stats", {}), sep="/")
        if "intermediates" in more:
            self.intermediates = {name: more["intermediates"][name][0] for name in self._wanted}
        return sr


def training_passes(
    model: nn.Module, params: Mapping[str, Any], batch: Batch, step: jax.Array, config: ConfigDict
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """`passes` of a model in training, with the intermediates of the first one that `config.loss` needs.

    Random numbers depend on `config.seed` and the number of the step alone; all images of a batch share them.

    Returns:
      Arrays with a row for each image by name, and `TrainingCall.statistics`.
    """
    weights = config.loss.to_dict()
    wanted = {name: None for term, names in INTERMEDIATES.items() if weights.get(term) for name in names}
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    call = TrainingCall(model, params, key, tuple(wanted))
    images = passes(call, batch, weights)
    return images | call.intermediates, call.statistics


def make_train_step(model: nn.Module, config: ConfigDict, mesh: Mesh) -> Step:
    """The compiled step of the -rec stage: `pixel_terms` of `training_passes`; see `step.minimise`."""
    weights = config.loss.to_dict()

    def terms(state, batch, whole):
        images, statistics = training_passes(model, state.generator, batch, state.step, config)
        return pixel_terms(images, batch, weights, config.pixel_loss), statistics

    return minimise(terms, config, mesh)
