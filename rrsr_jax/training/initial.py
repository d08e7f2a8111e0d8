"""Where parameters come from before the first step: random numbers, files of weights, an earlier stage's run."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from rrsr_jax import weights
from rrsr_jax.console import log
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.workdir.checkpoints import Checkpoints, stage_of
from rrsr_jax.workdir.integrity import has_checkpoint

# Weights kind of each part that a config's `weights` can name: a module, or under the model's own name everything else.
MODULE_KINDS = {kind.module: kind.layout for kind in weights.KINDS if kind.module}
_WEIGHT_KINDS = {kind.setting: kind.layout for kind in weights.KINDS if kind.name not in ("discriminator", "vgg16")}
# What the GAN stage has besides the model: the discriminator, its running statistics, and VGG-19 for the perceptual loss.
GAN_PARTS = ("discriminator", "discriminator_stats", "perceptual")
# From which stages' runs a stage can start.
SOURCES = {
    "teacher": ("teacher",),
    "student": ("teacher", "student"),
    "rec": ("student", "rec", "gan"),
    "gan": ("student", "rec", "gan"),
}


def random_params(model: nn.Module, config: ConfigDict, key: jax.Array) -> dict:
    """All parameters of the stage at random: their names and shapes, when traced only."""
    params = dict(_init(model, key))
    if config.stage == "student":
        params["teacher"] = jax.tree.map(jnp.copy, params)
    if config.stage == "gan" and config.loss.adversarial:
        params |= _discriminator(config, key)
    if config.stage == "gan" and config.loss.perceptual:
        params["perceptual"] = VGG("relu5_1").init(key, jnp.zeros((1, 16, 16, 3)))["params"]
    return params


def initial_params(model: nn.Module, config: ConfigDict) -> dict:
    """All parameters of the stage to start from.

    Raises:
      InputError: files or a run that are not there or do not fit, or that the stage cannot do without.
    """
    if config.stage in ("teacher", "student"):
        return matcher_params(model, config)
    params = model_params(model, config)
    return params | gan_params(config) if config.stage == "gan" else params


def draw(init: Callable[[jax.Array], dict], seed: int) -> dict:
    """`init(key)`, compiled."""
    # Selecting inside drops the forward pass, and with it most of the compilation; on a CPU, where compiling takes longest, what
    # runs only once is not optimised either.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, compiler_options=options)(jax.random.key(seed))


def draw_model(model: nn.Module, seed: int) -> dict:
    """Random parameters of a super-resolution model or of the correspondence net."""
    return draw(functools.partial(_init, model), seed)


def _init(model: nn.Module, key: jax.Array) -> dict:
    image = jnp.zeros((1, 12, 12, 3))
    return model.init(key, image, image)["params"]


def model_params(model: nn.Module, config: ConfigDict) -> dict:
    """Parameters of a super-resolution model to start from.

    Random ones, with the parts that `config.weights` names replaced, and then those that `config.init_from` has: all of them, or
    of a correspondence net's run that one part.
    """
    source, stage = read_source(config)
    params = scale_kernels(draw_model(model, config.seed), config.init_gain)
    if stage in ("rec", "gan"):
        return _fitted(config, params, {k: v for k, v in source.items() if k not in GAN_PARTS})
    if "correspondence" in params and not config.weights.correspondence:
        params["correspondence"] = untrained(params["correspondence"])
    for part, path in config.weights.items():
        if path and part in _WEIGHT_KINDS:
            _load_part(params, part, path)
        elif part in params and not config.learning_rates[part] and not (part == "correspondence" and source):
            log(f"note: no config.weights.{part}: the frozen {part} network is untrained")
    if source:
        if "correspondence" not in params:
            raise InputError(f"config.init_from={config.init_from}: {config.model.name} has no correspondence net")
        matcher = {branch: source[branch] for branch in ("branch_lr", "branch_ref")}
        params["correspondence"] = _fitted(config, params["correspondence"], matcher)
    return params


def matcher_params(net: nn.Module, config: ConfigDict) -> dict:
    """Parameters of the correspondence net to start from; of a student, the teacher's are in them under `teacher`.

    They come from `config.init_from`, or from `config.weights.correspondence`; else a teacher's branches both start as the VGG
    of `config.weights.vgg`, or untrained. A student starts as its teacher, and needs one.
    """
    source, stage = read_source(config)
    if config.stage == "student" and not source and not config.weights.correspondence:
        raise InputError(
            "config.init_from is empty; the workdir of a run of stage teacher expected, see configs/, or "
            "config.weights.correspondence, a teacher from elsewhere"
        )
    params = untrained(draw_model(net, config.seed))
    if stage:
        params = _fitted(config, params, {branch: source[branch] for branch in ("branch_lr", "branch_ref")})
    elif path := config.weights.correspondence:
        wrapped = {"correspondence": params}
        _load_part(wrapped, "correspondence", path)
        params = wrapped["correspondence"]
    elif path := config.weights.vgg:
        for branch in params:
            _load_part(params, "vgg", path, branch)
    if config.stage == "student":
        params["teacher"] = source["teacher"] if stage == "student" else jax.tree.map(jnp.copy, params)
    return params


def gan_params(config: ConfigDict) -> dict:
    """Parameters of `GAN_PARTS`, of those that the loss needs: the discriminator's from `config.init_from` if that is a GAN
    run, or `config.weights.discriminator`, or random; VGG-19 from `config.weights.vgg`.

    Raises:
      InputError: a perceptual loss without VGG-19.
    """
    source, _ = read_source(config)
    params = {}
    if config.loss.adversarial:
        params = draw(functools.partial(_discriminator, config), config.seed)
        if path := config.weights.discriminator:
            loaded = weights.load("c2_discriminator", path)
            loaded = {"discriminator": loaded["params"], "discriminator_stats": loaded["batch_stats"]}
            what = f"{path} (config.weights.discriminator) and config.discriminator"
            check_shapes(what, flat_shapes(params), flat_shapes(loaded))
            params = loaded
        elif "discriminator" in source:
            params = _fitted(config, params, {part: source[part] for part in params})
    if config.loss.perceptual:
        if not config.weights.vgg:
            raise InputError(
                "config.weights.vgg is empty: the perceptual loss needs VGG-19's weights (python -m rrsr_jax.weights fetch "
                "vgg19); or leave it out with --config.loss.perceptual=0"
            )
        params["perceptual"] = weights.load("vgg19", config.weights.vgg)
    return params


def _discriminator(config: ConfigDict, key: jax.Array) -> dict:
    variables = Discriminator(**config.discriminator.to_dict()).init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    return {"discriminator": variables["params"], "discriminator_stats": variables["batch_stats"]}


def read_source(config: ConfigDict) -> tuple[Mapping, str]:
    """Parameters and stage of the run that `config.init_from` names; empty ones if it names none.

    Raises:
      InputError: no such run, or one of a stage that this one cannot start from.
    """
    if not config.init_from:
        return {}, ""
    workdir = pathlib.Path(config.init_from)
    if not has_checkpoint(workdir):
        raise InputError(
            f"config.init_from={workdir}: no checkpoint in {workdir}; the folder of a run expected (or in a list, see "
            "rrsr_jax.experiments.table, the name of another config of that list)"
        )
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        stage = stage_of(workdir)
        if stage not in SOURCES[config.stage]:
            raise InputError(
                f"config.init_from={workdir}: a run of stage {' or '.join(SOURCES[config.stage])} expected to start stage "
                f"{config.stage} from, got one of stage {stage}"
            )
        return checkpoints.params(), stage


def _fitted(config: ConfigDict, params: Mapping, source: Mapping) -> Mapping:
    what = f"the parameters of config.init_from={config.init_from} and this config's model"
    check_shapes(what, flat_shapes(params), flat_shapes(source))
    return source


def _load_part(params: dict, part: str, path: str, into: str = "") -> None:
    """Replaces module `part` (or `into`) of `params`, or where `part` is a whole model all that its file has, by a file's."""
    into = into or part
    if part in MODULE_KINDS and into not in params:
        raise InputError(f"config.weights.{part}: this model has no part {part}")
    loaded = weights.load(_WEIGHT_KINDS[part], path)
    target = params[into] if part in MODULE_KINDS else params
    if part == "vgg":  # the file goes further than the model
        loaded = {layer: value for layer, value in loaded.items() if layer in target}
    # Checkpoints of some models hold the encoders as well.
    wanted = {module: value for module, value in target.items() if module not in MODULE_KINDS or module in loaded}
    check_shapes(f"{path} (config.weights.{part}) and this config's model", flat_shapes(wanted), flat_shapes(loaded))
    target.update(loaded)


def scale_kernels(params: Mapping, gain: float) -> dict:
    """Kernels of everything but the encoders, times `gain`."""

    def scale(path, value):
        return value * gain if path[0] not in MODULE_KINDS and path[-1] != "bias" and value.ndim > 1 else value

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: scale(path, value) for path, value in flat.items()})


def flat_shapes(tree: Mapping) -> dict[str, tuple]:
    """Shapes by path."""
    return {k: v.shape for k, v in traverse_util.flatten_dict(tree, sep="/").items()}
