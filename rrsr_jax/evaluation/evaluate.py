"""Super-resolves the images of one test set, and measures the results: in training runs and with `--mode=eval` alike.

All devices of all processes take part, see `sharing`. Every process writes the pictures that it has made; the first one keeps the
scores of all, and decides what there is to do: another one may not see yet what was written.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import tqdm

from rrsr_jax import SCALE_FACTOR, processes
from rrsr_jax.console import log
from rrsr_jax.data import records
from rrsr_jax.data.images import downscale, to_uint8, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.metrics import BASIC, SSIM_WINDOW, Metrics, mean
from rrsr_jax.evaluation.protocols import TestSet, bucket_inputs, bucket_plan, crop_to_multiple, paper_inputs
from rrsr_jax.evaluation.results import SetResult
from rrsr_jax.evaluation.rows import Rows
from rrsr_jax.evaluation.sharing import Stopped, on_this_device, over_images
from rrsr_jax.models.contract import read_contract
from rrsr_jax.workdir.files import inside, write_atomically

# (lr, ref, valid) -> sr: `lr` (H, W, 3), `ref` (., ., 3) and `sr` (4 H, 4 W, 3) are uint8, and `valid` is height and width of the
# part of `lr` that is not padding.
Upscaler = Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]

SIZE_MULTIPLE = 32  # padding is cut to multiples of this many pixels of `lr`, so that few sizes are compiled


class Evaluation(NamedTuple):
    """The outcome for one test set.

    Attributes:
      result: the set's entry in `Results`: means of each metric, and, where `lr_itself` is among the references,
        `worse_than_lr_itself`: on how many images PSNR is lower than without a reference.
      names: of all images, in order.
      scores: {reference: {name: {metric: value}}}, without images that failed.
    """

    result: SetResult
    names: list[str]
    scores: dict[str, dict[str, dict[str, float]]]


def make_upscaler(model: nn.Module) -> Callable[[Mapping, np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]:
    """The model as a function of parameters and an `Upscaler`'s arguments; compiled once per pair of sizes.

    It raises an InputError if the result is not finite.

    Padding of `lr` further away than the model's `reach` cannot change what is not padding, and is left out: in the published
    five-reference protocol about 60 % of the work on the input. See `Contract` for what a model says about padding.
    """
    contract = read_contract(model)

    @jax.jit
    def apply(params, lr, ref, valid):
        return model.apply({"params": params}, lr, ref, **({"valid": valid} if contract.takes_valid else {}))

    def run(params, lr, ref, valid):
        params = on_this_device(params)
        if contract.reach is not None:
            height, width = (-(-(size + contract.reach) // SIZE_MULTIPLE) * SIZE_MULTIPLE for size in valid)
            lr = lr[:height, :width]
        lr, ref = (image[None].astype(np.float32) / 255 for image in (lr, ref))
        sr = np.asarray(apply(params, lr, ref, np.array([valid], np.int32)))[0]
        if not np.isfinite(sr).all():
            raise InputError("the model's result is not finite; evaluate another checkpoint or other weights")
        return to_uint8(sr)

    return run


def evaluate_set(
    upscaler: Upscaler | None,
    test_set: TestSet,
    border: int,
    out: pathlib.Path,
    identity: Mapping[str, Any],
    stop: Callable[[], bool] = bool,
    padded: bool = True,
    metrics: Metrics = BASIC,
) -> Evaluation:
    """Evaluates one test set. Images that `out` already has of the same identity are not computed again; see `rows.make_room`.

    An image that cannot be read, or that the device has no memory for, is reported and left out of the means.

    Args:
      upscaler: the model; may be None if `bicubic` is the only reference.
      test_set: what to evaluate.
      border: pixels left out at each edge.
      out: folder for `images.csv`, one row per image and reference, and the results, `REFERENCE/NAME.png`. Each process
        but the first has its rows in `images.process_N.csv` until the end.
      identity: what the results depend on besides `border` and the test set; JSON values, see `results.identity`.
      stop: asked before every image.
      padded: whether the images are padded, as published or to few common sizes; False for a model that `pads_itself`.
      metrics: what is measured.

    Raises:
      Stopped: `stop` returned True; the same call continues from there.
    """
    log(f"evaluating {test_set.name}: {len(test_set)} images, {', '.join(test_set.references)}")
    about = {**identity, "border": border, "metrics": metrics.identity, "padded": padded, **test_set.identity()}
    done = Rows(out, about, metrics.names)
    plan = bucket_plan(test_set) if padded else {}
    total = len(test_set) * len(test_set.references)
    names, unnamed = _names(test_set, stop)

    def one(index: int) -> dict[str, Any]:
        """An image with all references: what has failed and why, scores, and sizes that were used."""
        failed, rows, shapes = {}, {}, []
        try:
            if index in unnamed:
                raise InputError(unnamed[index])
            example = test_set[index]
            hr = _measurable(example["hr"], border)
        except InputError as error:
            return dict(failed={reference: str(error) for reference in test_set.references}, rows={}, shapes=[])
        for reference in test_set.references:
            if stop():
                raise Stopped
            bar.update()
            if (example["name"], reference) in done:
                continue
            try:
                if reference == "bicubic":
                    sr = upscale(downscale(hr))
                else:
                    assert upscaler, "a reference other than bicubic needs a model"
                    ref = test_set.reference_image(reference, index, example)
                    if not padded:
                        inputs = downscale(hr), ref
                    elif test_set.pads_as_published(reference):
                        inputs = paper_inputs(hr, ref)
                    else:
                        inputs = bucket_inputs(hr, ref, plan[index, reference])
                    shapes.append([list(image.shape) for image in inputs])
                    valid = tuple(n // SCALE_FACTOR for n in hr.shape[:2])
                    sr = upscaler(*inputs, valid)[: hr.shape[0], : hr.shape[1]]
            # A device without room raises a RuntimeError.
            except (InputError, ValueError, RuntimeError, MemoryError) as error:
                failed[reference] = (str(error) or type(error).__name__).splitlines()[0]
                continue
            path = inside(out, reference, f"{example['name']}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, records.png(sr).getvalue())
            rows[reference] = done.add(example["name"], reference, metrics(sr, hr, border))
        return dict(failed=failed, rows=rows, shapes=shapes)

    quiet = not sys.stderr.isatty() or not processes.is_first()
    with done, tqdm.tqdm(total=total, unit="image", disable=quiet, dynamic_ncols=True) as bar:
        found = over_images(len(test_set), one, stop)
        done.complete(names, test_set.references, [image["rows"] for image in found])
    failed = {f"{names[i]}, {r}": reason for i, image in enumerate(found) for r, reason in image["failed"].items()}
    shapes = {json.dumps(pair) for image in found for pair in image["shapes"]}
    scores = {reference: done.of(reference, names) for reference in test_set.references}
    counted = sum(len(rows) for rows in scores.values())
    assert counted + len(failed) == total, f"{counted} + {len(failed)} != {total}"
    for image, reason in failed.items():
        log(f"failed: {test_set.name}: {image}: {reason}")
    if shapes:
        log(f"{test_set.name}: {len(shapes)} pair(s) of sizes compiled for {len(test_set)} images")
    result = SetResult(
        images=len(test_set),
        border=border,
        references=_means(scores, metrics.names),
        failed=failed,
        published_padding=test_set.published_padding,
    )
    return Evaluation(result, names, scores)


def _names(test_set: TestSet, stop: Callable[[], bool]) -> tuple[list[str], dict[int, str]]:
    """The name of every image, and by index why some cannot be evaluated under their own."""

    def read(index: int) -> tuple[str, str]:
        try:
            return test_set[index]["name"], ""
        except InputError as error:
            return f"record {index}", str(error)

    names, unnamed = [], {}
    for index, (name, problem) in enumerate(over_images(len(test_set), read, stop)):
        if name in names:
            problem = f"another record has its name, {name}"
        names.append(f"record {index}" if problem else name)
        if problem:
            unnamed[index] = problem
    assert len(set(names)) == len(test_set), "every image once"
    return names, unnamed


def _measurable(hr: np.ndarray, border: int) -> np.ndarray:
    """`hr` cropped to multiples of the scale factor; InputError if it is too small for SSIM's window."""
    hr = crop_to_multiple(hr)
    if min(hr.shape[:2]) - 2 * border < SSIM_WINDOW:
        raise InputError(
            f"at least {SSIM_WINDOW} pixels within borders of {border} expected, got {hr.shape[0]}x{hr.shape[1]}"
        )
    return hr


def _means(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], metrics: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Means by reference, with `worse_than_lr_itself` where `lr_itself` was evaluated."""
    means, base = {}, scores.get("lr_itself", {})
    for reference, rows in scores.items():
        if rows:
            means[reference] = mean(rows, metrics)
        if rows and base and reference != "lr_itself":
            worse = [name for name in rows if name in base and rows[name]["psnr_y"] < base[name]["psnr_y"]]
            means[reference]["worse_than_lr_itself"] = len(worse)
    return means
