"""The state of a run: everything that a training step reads and writes, and a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
from flax import traverse_util


class TrainState(flax.struct.PyTreeNode):
    """All arrays of a run.

    Attributes:
      step: number of updates so far, int32.
      generator: parameters of the network that the stage trains, as its `apply` takes them: the super-resolution model with
        its frozen modules, or the correspondence net.
      discriminator: parameters of the discriminator; empty without an adversarial loss.
      statistics: running statistics of the discriminator (its Flax collection `batch_stats`); empty likewise.
      frozen: parameters of networks that only a loss looks at, by name: `teacher` of a student, `perceptual` (VGG-19).
      opt_state: the optimiser's state for each trained network: `generator`, `discriminator`.
      ema: moving average of the generator's trained parameters by path; empty if `config.ema_decay` is 0.
    """

    step: jax.Array
    generator: Mapping[str, Any]
    discriminator: Mapping[str, Any]
    statistics: Mapping[str, Any]
    frozen: Mapping[str, Any]
    opt_state: Mapping[str, Any]
    ema: Mapping[str, Any]


def eval_params(state: TrainState) -> Mapping[str, Any]:
    """The generator's parameters to evaluate: the moving average where there is one."""
    if not state.ema:
        return state.generator
    flat = traverse_util.flatten_dict(state.generator, sep="/")
    return traverse_util.unflatten_dict({**flat, **state.ema}, sep="/")


def parameter_names(state: TrainState) -> list[str]:
    """Sorted paths of the generator's and the discriminator's parameters, the latter with `discriminator/` in front."""
    networks = {**state.generator} | ({"discriminator": state.discriminator} if state.discriminator else {})
    return sorted(traverse_util.flatten_dict(networks, sep="/"))
