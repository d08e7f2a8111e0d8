"""Evaluates a correspondence net: every image is matched with its own perspective warp, where the truth is known."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from rrsr_jax import SCALE_FACTOR, processes
from rrsr_jax.console import log
from rrsr_jax.data.images import downscale, perspective_warp, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.protocols import SEED, TestSet
from rrsr_jax.evaluation.results import Results, SetResult
from rrsr_jax.evaluation.sharing import on_this_device, over_images
from rrsr_jax.models.correspondence import correspondences, descriptors, untrained
from rrsr_jax.models.matching import match_patches

METRIC = "within_one_cell"
TOLERANCE = 1.0  # cells (1x) that a match may be off, in y and in x

# (params, first, second, homography) -> share of correct matches, see `make_accuracy`.
Accuracy = Callable[[Mapping, np.ndarray, np.ndarray, np.ndarray], float]


def make_accuracy(net: nn.Module) -> Accuracy:
    """How well a net matches two images, as a compiled function.

    Its arguments are the net's parameters, `first` and `second`, (H, W, 3) uint8, and the homography (3, 3) between them. It
    returns the share of cells (1x) of `first` whose best 3x3 patch in `second` lies within `TOLERANCE` of the truth. Only cells
    with a correspondence count, see `correspondences`, and of those only cells that have a patch, not those at the edge.
    """

    @jax.jit
    def accuracy(params, first, second, homography):
        first, second = (image[None].astype(jnp.float32) / 255 for image in (first, second))
        index, _ = match_patches(*descriptors(net, params, first, second))
        width = second.shape[2] // SCALE_FACTOR - 2
        found = jnp.stack([index // width, index % width], -1) + 1  # centres of patches
        truth, inside = (a[:, 1:-1, 1:-1] for a in correspondences(homography[None], *first.shape[1:3]))
        correct = (jnp.abs(found - truth) <= TOLERANCE).all(-1)
        return (correct & inside).sum() / inside.sum()

    return accuracy


def evaluate_sets(
    accuracy: Accuracy,
    params: Mapping,
    test_sets: Sequence[TestSet],
    *,
    random_params: Mapping,
    patch: int,
    warp_range: tuple[float, float],
    stop: Callable[[], bool] = bool,
) -> Results:
    """Evaluates a net, and two nets that have learnt nothing, on test sets.

    Of every image, `patch` x `patch` pixels around its middle are matched with their warp. What is matched stands under
    `references` in the results:

    hr_hr            both images sharp, as a teacher sees them
    lr_hr            the first image downsampled and upsampled, as a student and super-resolution see it
    untrained_lr_hr  likewise, with random filters that match usefully without training, see `models.correspondence.untrained`
    random_lr_hr     likewise, with the random filters as they are

    Args:
      accuracy: of `make_accuracy`.
      params: of the net to evaluate.
      test_sets: their references are not used.
      random_params: random parameters of the net. Both branches get the filters of `branch_ref`: with different filters their
        descriptors would have nothing in common.
      patch: pixels a side.
      warp_range: by how many pixels the corners move, from and to; see `perspective_warp`.
      stop: asked before every image.

    Raises:
      Stopped: `stop` returned True.
    """
    random = {"branch_lr": random_params["branch_ref"], "branch_ref": random_params["branch_ref"]}
    baselines = {"untrained_lr_hr": untrained(random), "random_lr_hr": random}
    return {
        test_set.name: _evaluate_set(accuracy, params, baselines, test_set, patch, warp_range, stop)
        for test_set in test_sets
    }


def _evaluate_set(
    accuracy: Accuracy,
    params: Mapping,
    baselines: Mapping[str, Mapping],
    test_set: TestSet,
    patch: int,
    warp_range: tuple[float, float],
    stop: Callable[[], bool],
) -> SetResult:
    log(f"matching {test_set.name}: {len(test_set)} images with their warps")
    nets = {"hr_hr": params, "lr_hr": params, **baselines}

    def one(index: int) -> dict[str, Any]:
        """The shares of correct matches of one image by kind, or what has failed and why."""
        bar.update()
        try:
            example = test_set[index]
            hr = _middle(example["hr"], patch, example["name"])
        except InputError as error:
            return {"failed": [f"record {index}", str(error)]}
        warped, homography = perspective_warp(hr, np.random.default_rng([SEED, index]), *warp_range)
        blurred = upscale(downscale(hr))
        shares = {
            name: float(accuracy(on_this_device(net), hr if name == "hr_hr" else blurred, warped, homography))
            for name, net in nets.items()
        }
        if not np.isfinite(list(shares.values())).all():
            size = f"{hr.shape[0]}x{hr.shape[1]}"
            return {"failed": [example["name"], f"no correspondence within {size} pixels (config.eval.patch)"]}
        return {"shares": shares}

    quiet = not sys.stderr.isatty() or not processes.is_first()
    with tqdm.tqdm(total=len(test_set), unit="image", disable=quiet, dynamic_ncols=True) as bar:
        found = over_images(len(test_set), one, stop)
    failed = dict(image["failed"] for image in found if "failed" in image)
    scores = {name: [image["shares"][name] for image in found if "shares" in image] for name in nets}
    means = {name: {METRIC: float(np.mean(values))} for name, values in scores.items() if values}
    return SetResult(images=len(test_set), references=means, failed=failed)


def _middle(image: np.ndarray, size: int, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise InputError(
            f"{name}: at least {size}x{size} pixels (config.eval.patch) expected, got {height}x{width}; "
            "choose a smaller config.eval.patch"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def as_text(results: Results) -> str:
    """A table per test set, a row per kind of match."""
    return "\n\n".join("\n".join(_set_lines(name, result)) for name, result in results.items())


def _set_lines(name: str, result: SetResult) -> list[str]:
    lines = [f"{name}: {result['images']} images and their warps; matches within one cell of the truth"]
    lines += [f"{kind.replace('_', ' '):24}{row[METRIC]:7.1%}" for kind, row in result["references"].items()]
    return lines + [f"FAILED, and in no mean: {image}: {reason}" for image, reason in result["failed"].items()]
