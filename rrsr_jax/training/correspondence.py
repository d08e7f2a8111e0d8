"""Training the correspondence net (C2-Matching, Jiang et al. 2021): a teacher, both of whose branches see sharp images, and a
student, whose first branch sees the upsampled low-resolution one. An image corresponds to its own perspective warp.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR, models
from rrsr_jax.console import log
from rrsr_jax.data import pipeline
from rrsr_jax.data.images import downscale, perspective_warp, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate
from rrsr_jax.evaluation.protocols import SEED, TestSet
from rrsr_jax.evaluation.results import Results
from rrsr_jax.models.correspondence import CorrespondenceNet, untrained
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.training import losses
from rrsr_jax.training.initial import fitted, initialise, initialise_model, load_part, read_source
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.step import DATA_AXIS, Step, create_state, minimise
from rrsr_jax.workdir.state import TrainState

MARGIN = 10  # pixels at the edge of the second image where nothing is looked for
SMALLEST_PATCH = 80  # pixels a side that leave enough correspondences inside, when warped
METRIC = "within_one_cell"
RIGHT = 1.0  # cells that a found position may be off, in y and in x


def correspondences(homography: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Where the cells of an image lie in its warp.

    Args:
      homography: (N, 3, 3), takes (x, y, 1) in pixels of the image to those of the warp.
      height, width: of the images, in pixels.

    Returns:
      (N, h, w, 2) positions (y, x) in cells of the warp, not rounded, at 1x; and (N, h, w), which are inside by `MARGIN`.
    """
    y, x = jnp.meshgrid(*(jnp.arange(0, n, SCALE_FACTOR, dtype=jnp.float32) for n in (height, width)), indexing="ij")
    pixels = jnp.stack([x, y, jnp.ones_like(x)], -1)
    warped = jnp.einsum("nij,hwj->nhwi", homography, pixels, precision="highest")
    warped = warped[..., 1::-1] / warped[..., 2:]
    inside = ((warped > MARGIN) & (warped < jnp.array([height, width]) - MARGIN)).all(-1)
    return warped / SCALE_FACTOR, inside


def descriptors(net: nn.Module, params: Mapping[str, Any], *images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Descriptors of unit length of two images (N, H, W, 3): (N, H // 4, W // 4, C) each, the first by the first branch."""
    branches = {branch: params[branch] for branch in ("branch_lr", "branch_ref")}
    features = net.apply({"params": branches}, *images)
    first, second = (f * jax.lax.rsqrt(jnp.maximum((f**2).sum(-1, keepdims=True), 1e-12)) for f in features)
    return first, second


def contrastive_terms(
    net: nn.Module,
    params: Mapping[str, Any],
    teacher: Mapping[str, Any] | None,
    batch: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """The terms of weight above zero of `triplet` and, with a teacher, `distillation`.

    Args:
      net: the correspondence net.
      params: its parameters.
      teacher: parameters of its teacher; None for a teacher. A student's first branch sees the upsampled `lr`, a teacher's `hr`.
      batch: `lr`, `hr`, `warped` and `homography`, see `pipeline.WarpedPair`.
      weights: by term.
      axis_name: of the devices that share the batch, if any.
    """
    hr, warped = batch["hr"], batch["warped"]
    position, used = correspondences(batch["homography"], *hr.shape[1:3])
    target = jnp.where(used[..., None], jnp.round(position), 0).astype(jnp.int32)
    pair = descriptors(net, params, hr if teacher is None else bicubic_upsample(batch["lr"]), warped)
    terms = {}
    if weights["triplet"]:
        terms["triplet"] = losses.triplet(*pair, target, used, axis_name=axis_name)
    if teacher is not None and weights["distillation"]:
        shown = jax.lax.stop_gradient(descriptors(net, teacher, hr, warped))
        terms["distillation"] = losses.distillation(pair, shown, target, used, axis_name=axis_name)
    return terms


def make_matcher_step(net: nn.Module, config: ConfigDict, mesh: Mesh) -> Step:
    """The compiled step of the stages teacher and student; see `step.minimise`."""
    weights = config.loss.to_dict()

    def terms(params, frozen, batch):
        return contrastive_terms(net, params, frozen.get("teacher"), batch, weights, axis_name=DATA_AXIS)

    return minimise(terms, config, mesh)


class Teacher(Stage):
    """The correspondence net, both branches on sharp images (stage `teacher`)."""

    SOURCES = ("teacher",)
    COMPLETE_WEIGHTS = ("correspondence",)
    NEEDS_MODEL = True
    TRANSFORMS = staticmethod(pipeline.warped_pairs)

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`; also InputError for patches with too few correspondences."""
        super().__init__(config, mesh)
        if config.data.patch < SMALLEST_PATCH:
            raise InputError(
                f"config.data.patch: at least {SMALLEST_PATCH} expected, or a pair has too few correspondences to learn from, "
                f"got {config.data.patch}"
            )
        self._step = make_matcher_step(self.model, config, mesh)

    def build_model(self) -> nn.Module:
        """See `Stage`."""
        return models.build(self.config.model, {"correspondence": CorrespondenceNet})

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        return create_state(self.config, initialise_model(self.model, key))

    def initial_state(self) -> TrainState:
        """See `Stage`; the parameters come from `config.init_from`, or are those of `fresh_params`."""
        source = read_source(self.config, self.SOURCES)
        params = fresh_params(self.model, self.config)
        return create_state(self.config, fitted(self.config, params, source.state.generator) if source else params)

    def step(self, number: int) -> Step:
        """See `Stage`."""
        return self._step

    def evaluate(
        self, params: Mapping[str, Any] | None, step: int | str, workdir: pathlib.Path, stop: Callable[[], bool]
    ) -> Results:
        """See `Stage`: shares of right matches."""
        return evaluation(self.model, self.test_sets, self.config)(params, step, workdir, stop)

    def report(self, results: Results) -> str:
        """See `Stage`."""
        return table(results)


class Student(Teacher):
    """The correspondence net as super-resolution uses it: the first branch sees the upsampled image (stage `student`)."""

    SOURCES = ("teacher", "student")

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        params = initialise_model(self.model, key)
        return create_state(self.config, params, frozen={"teacher": jax.tree.map(jnp.copy, params)})

    def initial_state(self) -> TrainState:
        """See `Stage`; a student starts as its teacher.

        The teacher is the run `config.init_from`, or comes from `config.weights.correspondence`. From a student's run, student
        and teacher go on as they are.
        """
        source = read_source(self.config, self.SOURCES)
        if not source and not self.config.weights.correspondence:
            raise InputError(
                "config.init_from is empty; the workdir of a run of stage teacher expected, see configs/, or "
                "config.weights.correspondence, a teacher from elsewhere"
            )
        params = fresh_params(self.model, self.config)
        if source:
            params = fitted(self.config, params, source.state.generator)
        goes_on = source is not None and source.stage == "student"
        teacher = source.state.frozen["teacher"] if goes_on else jax.tree.map(jnp.copy, params)
        return create_state(self.config, params, frozen={"teacher": teacher})


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


def make_accuracy(net: nn.Module) -> Callable[[Mapping, np.ndarray, np.ndarray, np.ndarray], float]:
    """How well images are matched, as a compiled function of parameters, `first`, `second` (H, W, 3) uint8 and the homography
    (3, 3) between them: the share of cells (1x) whose best 3x3 patch lies within one cell of the truth.

    Cells count whose true position lies inside by `MARGIN` pixels, but for those at the edge, which have no patch.
    """

    @jax.jit
    def accuracy(params, first, second, homography):
        first, second = (image[None].astype(jnp.float32) / 255 for image in (first, second))
        index, _ = match_patches(*descriptors(net, params, first, second))
        width = second.shape[2] // SCALE_FACTOR - 2
        found = jnp.stack([index // width, index % width], -1) + 1  # centres of patches
        truth, used = correspondences(homography[None], *first.shape[1:3])
        right = (jnp.abs(found - truth[:, 1:-1, 1:-1]) <= RIGHT).all(-1)
        return (right & used[:, 1:-1, 1:-1]).sum() / used[:, 1:-1, 1:-1].sum()

    return accuracy


def evaluation(
    net: nn.Module, test_sets: Sequence[TestSet], config: ConfigDict
) -> Callable[[Mapping, int | str, pathlib.Path, Callable[[], bool]], Results]:
    """How to evaluate a correspondence net: a function of parameters, their step, the workdir, and whether to stop.

    Every image of a set, cut to `config.eval.patch` around its middle, is matched with its warp. Columns: `hr_hr`, both images
    sharp, which is what a teacher sees; `lr_hr`, the first one downsampled and upsampled, as it is for a student and in
    super-resolution; and the latter for networks that have learnt nothing: `untrained_lr_hr`, see `correspondence.untrained`,
    and `random_lr_hr`, filters as they come, the same in both branches, or their descriptors would have nothing in common.
    """
    accuracy = make_accuracy(net)

    def run(params, step, workdir, stop):
        branch = initialise(functools.partial(initialise_model, net), config.seed)["branch_ref"]
        random = {"branch_lr": branch, "branch_ref": branch}
        networks = {"": params, "untrained_": untrained(random), "random_": random}
        return {test_set.name: _accuracies(accuracy, networks, test_set, config, stop) for test_set in test_sets}

    return run


def _accuracies(
    accuracy, networks: Mapping[str, Mapping], test_set: TestSet, config: ConfigDict, stop
) -> dict[str, Any]:
    log(f"matching {test_set.name}: {len(test_set)} images and their warps")
    columns = ("hr_hr", *(f"{name}lr_hr" for name in networks))
    scores, failed = {column: [] for column in columns}, {}
    for index in tqdm.trange(len(test_set), unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True):
        if stop():
            raise evaluate.Stopped
        try:
            example = test_set[index]
            hr = _middle(example["hr"], config.eval.patch, example["name"])
        except InputError as error:
            failed[f"record {index}"] = str(error)
            continue
        warped, homography = perspective_warp(hr, np.random.default_rng([SEED, index]), *config.data.warp_range)
        blurred = upscale(downscale(hr))
        scores["hr_hr"].append(accuracy(networks[""], hr, warped, homography))
        for name, params in networks.items():
            scores[f"{name}lr_hr"].append(accuracy(params, blurred, warped, homography))
    means = {column: {METRIC: float(np.mean(values))} for column, values in scores.items() if values}
    return {"images": len(test_set), "columns": means, "failed": failed}


def _middle(image: np.ndarray, size: int, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise InputError(f"{name}: {size}x{size} pixels (config.eval.patch) expected, got {height}x{width}")
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def table(results: Results) -> str:
    """The results of all sets as text."""
    lines = []
    for name, result in results.items():
        lines.append(f"{name}: {result['images']} images and their warps; correspondences within one cell")
        lines += [f"{column.replace('_', ' '):24}{row[METRIC]:7.1%}" for column, row in result["columns"].items()]
        lines += [f"FAILED, and in no mean: {what}: {reason}" for what, reason in result["failed"].items()]
        lines.append("")
    return "\n".join(lines).rstrip()
