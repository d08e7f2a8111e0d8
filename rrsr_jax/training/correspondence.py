"""Training the correspondence net (C2-Matching, Jiang et al. 2021): a teacher, both of whose branches see sharp images, and a
student, whose first branch sees the upsampled low-resolution one. An image corresponds to its own perspective warp.
"""

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

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.console import log
from rrsr_jax.data.images import downscale, perspective_warp, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate
from rrsr_jax.evaluation.protocols import SEED, TestSet
from rrsr_jax.evaluation.results import Results
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.training import losses
from rrsr_jax.training.initial import draw_model
from rrsr_jax.training.step import minimise
from rrsr_jax.workdir.state import TrainState

MARGIN = 10  # pixels at the edge of the second image where nothing is looked for
SMALLEST = 80  # pixels a side that leave enough correspondences inside, when warped
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


def describe(net: nn.Module, params: Mapping, *images: jax.Array) -> list[jax.Array]:
    """Descriptors of unit length of two images (N, H, W, 3): (N, H // 4, W // 4, C) each, the first by the first branch."""
    branches = {branch: params[branch] for branch in ("branch_lr", "branch_ref")}
    features = net.apply({"params": branches}, *images)
    return [f * jax.lax.rsqrt(jnp.maximum((f**2).sum(-1, keepdims=True), 1e-12)) for f in features]


def contrastive_terms(
    net: nn.Module, params: Mapping, batch: Mapping[str, jax.Array], weights: Mapping[str, float], blurred: bool
) -> dict[str, jax.Array]:
    """The terms of weight above zero of `triplet` and, with the parameters under `teacher`, `distillation`.

    Args:
      net: the correspondence net.
      params: its parameters.
      batch: `lr`, `hr`, `warped` and `homography`, see `pipeline.WarpedPair`.
      weights: by term.
      blurred: whether the first branch sees the upsampled `lr` (the student) instead of `hr`.
    """
    hr, warped = batch["hr"], batch["warped"]
    position, used = correspondences(batch["homography"], *hr.shape[1:3])
    target = jnp.where(used[..., None], jnp.round(position), 0).astype(jnp.int32)
    pair = describe(net, params, bicubic_upsample(batch["lr"]) if blurred else hr, warped)
    terms = {}
    if weights["triplet"]:
        terms["triplet"] = losses.triplet(*pair, target, used)
    if weights["distillation"]:
        teacher = jax.lax.stop_gradient(describe(net, params["teacher"], hr, warped))
        terms["distillation"] = losses.distillation(tuple(pair), tuple(teacher), target, used)
    return terms


def make_matcher_step(
    net: nn.Module, config: ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step of the stages teacher and student, (state, batch) -> (state, metrics); see `step.minimise`."""
    weights, blurred = config.loss.to_dict(), config.stage == "student"
    return minimise(lambda params, batch: contrastive_terms(net, params, batch, weights, blurred), config, mesh)


def make_accuracy(net: nn.Module) -> Callable[[Mapping, np.ndarray, np.ndarray, np.ndarray], float]:
    """How well images are matched, as a compiled function of parameters, `first`, `second` (H, W, 3) uint8 and the homography
    (3, 3) between them: the share of cells (1x) whose best 3x3 patch lies within one cell of the truth.

    Cells count whose true position lies inside by `MARGIN` pixels, but for those at the edge, which have no patch.
    """

    @jax.jit
    def accuracy(params, first, second, homography):
        first, second = (image[None].astype(jnp.float32) / 255 for image in (first, second))
        index, _ = match_patches(*describe(net, params, first, second))
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
        branch = draw_model(net, config.seed)["branch_ref"]
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
