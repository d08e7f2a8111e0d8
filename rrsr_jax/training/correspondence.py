"""Training the correspondence net (C2-Matching, Jiang et al. 2021): a teacher, both of whose branches see sharp images, and a
student, whose first branch sees the upsampled low-resolution one. An image corresponds to its own perspective warp.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax import models
from rrsr_jax.data import transforms
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import correspondence as matching
from rrsr_jax.evaluation.results import Results
from rrsr_jax.models.correspondence import CELL_MIDDLE, CorrespondenceNet, correspondences, descriptors, untrained
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.training import losses
from rrsr_jax.training.initial import fitted, initialise, initialise_model, load_part, read_source
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.step import DATA_AXIS, Step, create_state, minimise
from rrsr_jax.workdir.state import TrainState


def contrastive_terms(
    net: nn.Module,
    params: Mapping[str, Any],
    teacher: Mapping[str, Any] | None,
    batch: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    whole: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """The terms of weight above zero of `triplet`, `info_nce` and, with a teacher, `distillation`.

    Args:
      net: the correspondence net.
      params: its parameters.
      teacher: parameters of its teacher; None for a teacher. A student's first branch sees the upsampled `lr`, a teacher's `hr`.
      batch: `lr`, `hr`, `warped` and `homography`, see `transforms.WarpedPair`.
      weights: by term.
      whole: the batch of this device, if `batch` is a share of it and devices share the step (`DATA_AXIS`).
    """

    def number(**place):
        """How many images of a share count, in the mean."""
        if whole is None:
            return None
        _, inside = correspondences(whole["homography"], *hr.shape[1:3], **place)
        return jax.lax.pmean(losses.sufficient(inside).mean(), DATA_AXIS) * len(hr)

    hr, warped = batch["hr"], batch["warped"]
    position, inside = correspondences(batch["homography"], *hr.shape[1:3])
    target = jnp.where(inside[..., None], jnp.round(position), 0).astype(jnp.int32)
    pair = descriptors(net, params, hr if teacher is None else bicubic_upsample(batch["lr"]), warped)
    terms = {}
    if weights["triplet"]:
        terms["triplet"] = losses.triplet(*pair, target, inside, number=number())
    if weights["info_nce"]:
        middle, inside_middle = correspondences(batch["homography"], *hr.shape[1:3], place=CELL_MIDDLE)
        terms["info_nce"] = losses.info_nce(*pair, middle, inside_middle, number=number(place=CELL_MIDDLE))
    if teacher is not None and weights["distillation"]:
        shown = jax.lax.stop_gradient(descriptors(net, teacher, hr, warped))
        terms["distillation"] = losses.distillation(pair, shown, target, inside, number=number())
    return terms


def make_matcher_step(net: nn.Module, config: ConfigDict, mesh: Mesh) -> Step:
    """The compiled step of the stages teacher and student; see `step.minimise`."""
    weights = config.loss.to_dict()

    def terms(state, batch, whole):
        return contrastive_terms(net, state.generator, state.frozen.get("teacher"), batch, weights, whole), {}

    return minimise(terms, config, mesh)


class Teacher(Stage):
    """The correspondence net, both branches on sharp images (stage `teacher`)."""

    SOURCES = ("teacher",)
    COMPLETE_WEIGHTS = ("correspondence",)
    NEEDS_MODEL = True
    transforms = staticmethod(transforms.warped_pairs)

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`."""
        super().__init__(config, mesh)
        self._step = make_matcher_step(self.model, config, mesh)
        self._accuracy = matching.make_accuracy(self.model)

    def build_model(self) -> nn.Module:
        """See `Stage`."""
        return models.build(self.config.model, {"correspondence": CorrespondenceNet})

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        return create_state(self.config, initialise_model(self.model, key))

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; the parameters come from `config.init_from`, or are those of `fresh_params`."""
        source = read_source(self.config, self.SOURCES)
        if complete and not source and not self.config.weights.correspondence:
            raise InputError(
                "config.init_from, a run of stage teacher, or config.weights.correspondence expected; got neither"
            )
        params = fresh_params(self.model, self.config)
        return create_state(self.config, fitted(self.config, params, source.generator) if source else params)

    def step(self, number: int) -> Step:
        """See `Stage`."""
        return self._step

    def evaluate(
        self, params: Mapping[str, Any] | None, step: int | str, workdir: pathlib.Path, stop: Callable[[], bool]
    ) -> Results:
        """See `Stage`: shares of correct matches."""
        assert params is not None, "NEEDS_MODEL"
        return matching.evaluate_sets(
            self._accuracy,
            params,
            self.test_sets,
            random_params=initialise(functools.partial(initialise_model, self.model), self.config.seed),
            patch=self.config.eval.patch,
            warp_range=self.config.data.warp_range,
            stop=stop,
        )

    def report(self, results: Results) -> str:
        """See `Stage`."""
        return matching.as_text(results)


class Student(Teacher):
    """The correspondence net as super-resolution uses it: the first branch sees the upsampled image (stage `student`)."""

    SOURCES = ("teacher", "student")

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        params = initialise_model(self.model, key)
        return create_state(self.config, params, frozen={"teacher": jax.tree.map(jnp.copy, params)})

    def check_sources(self, planned: Mapping[str, str]) -> None:
        """See `Stage`; a student needs a teacher."""
        if not self.config.init_from and not self.config.weights.correspondence:
            raise InputError(
                "config.init_from is empty; the workdir of a run of stage teacher expected, see configs/, or "
                "config.weights.correspondence, a teacher from elsewhere"
            )
        super().check_sources(planned)

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; a student starts as its teacher.

        The teacher is the run `config.init_from`, or comes from `config.weights.correspondence`. From a student's run, student
        and teacher go on as they are.
        """
        self.check_sources({})
        source = read_source(self.config, self.SOURCES)
        params = fresh_params(self.model, self.config)
        teacher = None
        if source:
            params = fitted(self.config, params, source.generator)
            teacher = source.frozen.get("teacher")
        return create_state(self.config, params, frozen={"teacher": teacher or jax.tree.map(jnp.copy, params)})


def fresh_params(net: nn.Module, config: ConfigDict) -> dict[str, Any]:
    """Parameters of the correspondence net without an earlier run.

    They come from `config.weights.correspondence`; else both branches start as the VGG-16 of `config.weights.vgg16`, as in
    C2-Matching, or the VGG-19 of `config.weights.vgg`; else they are those of `untrained`.

    Raises:
      InputError: a file that cannot be read or does not fit.
    """
    params = untrained(initialise(functools.partial(initialise_model, net), config.seed))
    if path := config.weights.correspondence:
        named = {"correspondence": params}
        load_part(named, "correspondence", path)
        return named["correspondence"]
    for part in ("vgg16", "vgg"):
        if path := config.weights[part]:
            for branch in params:
                load_part(params, part, path, branch)
            break
    return params
