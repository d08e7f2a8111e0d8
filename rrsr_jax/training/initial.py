"""Where parameters come from before the first step: random numbers, files of weights, an earlier stage's run."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from rrsr_jax import weights
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import description, has_checkpoint
from rrsr_jax.workdir.state import TrainState, eval_params

# The modules of a model that have weights of their own.
MODULES = tuple(kind.module for kind in weights.KINDS if kind.module)
# Entries of `config.weights` that are no part of a model: networks that only losses look at.
LOSS_NETWORKS = ("discriminator", "ranksrgan_ranker")
_KINDS = {kind.setting: kind for kind in weights.KINDS}  # by the names that `config.weights` has


def initialise(init: Callable[[jax.Array], dict[str, Any]], seed: int) -> dict[str, Any]:
    """`init(key)`, compiled."""
    # Selecting inside drops the forward pass, and with it most of the compilation. On a CPU, where compiling takes longest,
    # what runs only once is not optimised either.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, compiler_options=options)(jax.random.key(seed))


def initialise_model(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Random parameters of a super-resolution model or of the correspondence net."""
    image = jnp.zeros((1, 12, 12, 3))
    return dict(model.init(key, image, image)["params"])


def read_source(config: ConfigDict, stages: Sequence[str]) -> TrainState | None:
    """The newest intact state of the run that `config.init_from` names, NumPy arrays; None if it names none.

    Args:
      config: of the run that starts.
      stages: from which it can start.

    Raises:
      InputError: no such run, or one of another stage.
    """
    if not config.init_from:
        return None
    check_sources(config, stages, {})
    with contextlib.closing(Checkpoints(pathlib.Path(config.init_from))) as checkpoints:
        return checkpoints.read_state()


def check_sources(config: ConfigDict, stages: Sequence[str], planned: Mapping[str, str]) -> None:
    """Raises InputError unless the files of `config.weights` are there, and the run that `config.init_from` names.

    Args:
      config: of the run that starts.
      stages: from which it can start.
      planned: stages of the runs that will be there by then, by their workdirs.
    """
    for part, path in config.weights.items():
        if path and path not in planned and not os.path.exists(path):
            raise InputError(f"config.weights.{part}: a file or folder of weights expected, there is no {path}")
    source = config.init_from
    if not source:
        return
    if source not in planned and not has_checkpoint(pathlib.Path(source)):
        raise InputError(
            f"config.init_from={source}: no checkpoint in {source}; the folder of a run expected (or in a list, see "
            "rrsr_jax.experiments.table, the name of another config of that list)"
        )
    stage = planned.get(source) or description(pathlib.Path(source))["stage"]
    if stage not in stages:
        raise InputError(
            f"config.init_from={source}: a run of stage {' or '.join(stages)} expected to start stage {config.stage} "
            f"from, got one of stage {stage}"
        )


def fitted(config: ConfigDict, params: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """`source`, parameters of the run that `config.init_from` names; InputError unless they have the shapes of `params`."""
    what = f"the parameters of config.init_from={config.init_from} and this config's model"
    check_shapes(what, flat_shapes(params), flat_shapes(source))
    return dict(source)


def load_part(params: dict[str, Any], part: str, path: str, module: str = "") -> set[str]:
    """Replaces what the file `path` has of `part`, an entry of `config.weights`, in `params`; returns the names of its modules.

    Args:
      params: of a model.
      part: a module, or the name of a model, which stands for all that its file has.
      path: of the weights.
      module: the module to replace, if it has another name than `part`.

    Raises:
      InputError: a file that cannot be read or does not fit.
    """
    module = module or _KINDS[part].module
    if module and module not in params:
        raise InputError(f"config.weights.{part}: this model has no part {module}")
    loaded = weights.load(_KINDS[part].name, path)
    target = params[module] if module else params
    if part in ("vgg", "vgg16"):  # the file goes further than the model
        loaded = {layer: value for layer, value in loaded.items() if layer in target}
    # Checkpoints of some models hold the encoders as well.
    wanted = {name: value for name, value in target.items() if name not in MODULES or name in loaded}
    check_shapes(f"{path} (config.weights.{part}) and this config's model", flat_shapes(wanted), flat_shapes(loaded))
    target.update(loaded)
    return {module} if module else set(loaded)


def load_ranker(path: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The Ranker's variables from a file of weights, or the workdir of a run of stage `ranker`.

    Args:
      path: of either; `config.weights.ranksrgan_ranker`.
      variables: with the shapes that are expected.

    Raises:
      InputError: a file that cannot be read, another run, or a Ranker of another size.
    """
    folder = pathlib.Path(path)
    if has_checkpoint(folder):
        if (stage := description(folder)["stage"]) != "ranker":
            raise InputError(
                f"config.weights.ranksrgan_ranker={path}: a run of stage ranker expected, got one of {stage}"
            )
        with contextlib.closing(Checkpoints(folder)) as checkpoints:
            state = checkpoints.read_state()
        loaded = {"params": eval_params(state), "batch_stats": state.statistics}
    else:
        loaded = weights.load("ranksrgan_ranker", path)
    what = f"{path} (config.weights.ranksrgan_ranker) and config.ranker"
    check_shapes(what, flat_shapes(variables), flat_shapes(loaded))
    return loaded


def scale_kernels(params: Mapping[str, Any], gain: float) -> dict[str, Any]:
    """Kernels of everything but the encoders, times `gain`."""

    def scale(path, value):
        return value * gain if path[0] not in MODULES and path[-1] != "bias" and value.ndim > 1 else value

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: scale(path, value) for path, value in flat.items()})


def flat_shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by path."""
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {path: value.shape for path, value in flat.items()}
