"""The stages of training, each started by a config of its own: what the one loop in `train` needs to know of them.

teacher    the correspondence net, both branches on sharp images
student    the correspondence net as super-resolution uses it: the first branch on the upsampled low-resolution image
rec        a super-resolution model by its reconstruction, reciprocal or not
gan        a super-resolution model with discriminator and perceptual loss
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax import models
from rrsr_jax.data.images import upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import correspondence as matching
from rrsr_jax.evaluation import evaluate, protocols, report, results, super_resolution
from rrsr_jax.evaluation.protocols import TestSet
from rrsr_jax.evaluation.results import Results
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.training import correspondence as matcher
from rrsr_jax.training import gan, initial
from rrsr_jax.training.step import create_state, make_train_step
from rrsr_jax.workdir.state import TrainState

Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


class Stage(NamedTuple):
    """One stage, as functions.

    Attributes:
      initial_state: a state before the first step.
      abstract_state: shapes and places of a state, without computing one; InputError if the config describes no network.
      step: (state, batch) -> (state, metrics), compiled at its first call; the state is donated.
      test_sets: what it is evaluated on.
      evaluate: (params, step, workdir, stop) -> results by set; raises `evaluate.Stopped`. `params` is None if there is no model.
      table: results as text.
      whole: the parts of `config.weights` that can stand for a checkpoint.
      needs_model: whether nothing can be evaluated without one.
      pictures: (params, batch) -> 8-bit images by name, to look at while training.
    """

    initial_state: Callable[[], TrainState]
    abstract_state: Callable[[], TrainState]
    step: Step
    test_sets: Sequence[TestSet]
    evaluate: Callable[[Mapping | None, int | str, pathlib.Path, Callable[[], bool]], Results]
    table: Callable[[Results], str]
    whole: tuple[str, ...]
    needs_model: bool
    pictures: Callable[[Mapping, Mapping[str, jax.Array]], dict[str, np.ndarray]]


def build(config: ConfigDict, mesh: Mesh) -> Stage:
    """The stage that `config.stage` names; InputError for another name, model or test set than there are."""
    if config.stage not in initial.SOURCES:
        raise InputError(f"config.stage: one of {', '.join(initial.SOURCES)} expected, got {config.stage!r}")
    return (_matching if config.stage in ("teacher", "student") else _super_resolution)(config, mesh)


def _super_resolution(config: ConfigDict, mesh: Mesh) -> Stage:
    model = models.build(config.model)
    test_sets = protocols.test_sets(config.eval)
    create, make_step = create_state, make_train_step
    if config.stage == "gan":
        create, make_step = gan.create_gan_state, gan.make_gan_step
    upscaler = evaluate.make_upscaler(model)

    def evaluate_at(params, step, workdir, stop):
        return super_resolution.evaluate_sets(
            None if params is None else functools.partial(upscaler, params),
            test_sets,
            workdir=workdir,
            identity=results.identity(params, step, config),
            border=config.eval.border,
            shown=config.eval.shown,
            sheets=config.eval.sheets,
            stop=stop,
        )

    return Stage(
        *_states(model, create, config, mesh),
        make_step(model, config, mesh),
        test_sets,
        evaluate_at,
        report.as_text,
        tuple(models.MODELS),
        False,
        functools.partial(_strip, upscaler),
    )


def _matching(config: ConfigDict, mesh: Mesh) -> Stage:
    net = models.build(config.model, {"correspondence": CorrespondenceNet})
    if config.data.patch < matcher.SMALLEST:
        raise InputError(
            f"config.data.patch: at least {matcher.SMALLEST} expected, or a pair has too few correspondences to learn from, "
            f"got {config.data.patch}"
        )
    test_sets, accuracy = protocols.test_sets(config.eval), matching.make_accuracy(net)

    def evaluate_at(params, step, workdir, stop):
        return matching.evaluate_sets(
            accuracy,
            params,
            test_sets,
            random_params=initial.draw_model(net, config.seed),
            patch=config.eval.patch,
            warp_range=config.data.warp_range,
            stop=stop,
        )

    return Stage(
        *_states(net, create_state, config, mesh),
        matcher.make_matcher_step(net, config, mesh),
        test_sets,
        evaluate_at,
        matching.as_text,
        ("correspondence",),
        True,
        lambda params, batch: {},
    )


def _states(
    model: nn.Module, create: Callable[[Mapping, ConfigDict], TrainState], config: ConfigDict, mesh: Mesh
) -> tuple[Callable[[], TrainState], Callable[[], TrainState]]:
    """`initial_state` and `abstract_state`."""

    def initial_state():
        return create(initial.initial_params(model, config), config)

    def abstract_state():
        try:
            key = jax.random.key(config.seed)
            state = jax.eval_shape(lambda: create(initial.random_params(model, config, key), config))
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            raise InputError(f"config.model does not describe a network: {error}") from error
        sharding = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)

    return initial_state, abstract_state


def _strip(upscaler, params: Mapping, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The first image of a batch, side by side: bicubic, reference, result, ground truth."""
    lr, ref, hr = (np.asarray(batch[name].addressable_data(0)[0]) for name in ("lr", "ref", "hr"))
    sr = upscaler(params, lr, ref, lr.shape[:2])
    return {"train/bicubic_ref_sr_hr": np.concatenate([upscale(lr), ref, sr, hr], axis=1)}
