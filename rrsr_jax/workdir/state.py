"""The state of a run: everything that a training step reads and writes, and a checkpoint holds."""

from collections.abc import Mapping

import flax.struct
import jax
import optax
from flax import traverse_util


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: number of updates so far, int32.
      params: all parameters of the model, frozen ones included, nested by module.
      opt_state: the optimiser's, over trained parameters only; in the GAN stage one for each network, by name.
      ema: moving average of the trained parameters by path, or an empty dict.
    """

    step: jax.Array
    params: Mapping
    opt_state: optax.OptState
    ema: Mapping


def eval_params(state: TrainState) -> Mapping:
    """The parameters to evaluate: the moving average where there is one."""
    if not state.ema:
        return state.params
    flat = traverse_util.flatten_dict(state.params, sep="/")
    return traverse_util.unflatten_dict({**flat, **state.ema}, sep="/")
