"""Super-resolves the images of one test set, and measures the results: in training runs and with `--mode=eval` alike."""

import contextlib
import csv
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import numpy as np
import tqdm

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.console import log
from rrsr_jax.data import records
from rrsr_jax.data.images import downscale, to_uint8, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.metrics import BASIC, SSIM_WINDOW, Metrics, mean
from rrsr_jax.evaluation.protocols import TestSet, bucket_inputs, bucket_plan, crop_to_multiple, paper_inputs
from rrsr_jax.evaluation.results import SetResult, asides, move_aside
from rrsr_jax.models.contract import read_contract
from rrsr_jax.workdir.files import inside, write_atomically

# (lr, ref, valid) -> sr: `lr` (H, W, 3), `ref` (., ., 3) and `sr` (4 H, 4 W, 3) are uint8, and `valid` is height and width of the
# part of `lr` that is not padding.
Upscaler = Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]

SIZE_MULTIPLE = 32  # padding is cut to multiples of this many pixels of `lr`, so that few sizes are compiled


class Stopped(Exception):
    """The evaluation was asked to stop."""


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
    """Evaluates one test set. Images that `out` already has of the same identity are not computed again; see `make_room`.

    An image that cannot be read, or that the device has no memory for, is reported and left out of the means.

    Args:
      upscaler: the model; may be None if `bicubic` is the only reference.
      test_set: what to evaluate.
      border: pixels left out at each edge.
      out: folder for `images.csv`, one row per image and reference, and the results, `REFERENCE/NAME.png`.
      identity: what the results depend on besides `border` and the test set; JSON values, see `results.identity`.
      stop: asked before every image.
      padded: whether the images are padded, as published or to few common sizes; False for a model that `pads_itself`.
      metrics: what is measured.

    Raises:
      Stopped: `stop` returned True; the same call continues from there.
    """
    log(f"evaluating {test_set.name}: {len(test_set)} images, {', '.join(test_set.references)}")
    about = {**identity, "border": border, "metrics": metrics.identity, "padded": padded, **test_set.identity()}
    done = _Rows(out, about, metrics.names)
    failed, shapes, names = {}, set(), []
    plan = bucket_plan(test_set) if padded else {}
    total = len(test_set) * len(test_set.references)
    with done, tqdm.tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        for index in range(len(test_set)):
            names.append(f"record {index}")
            try:
                example = test_set[index]
                if example["name"] in names:
                    raise InputError(f"another record has its name, {example['name']}")
                names[-1] = example["name"]
                hr = _measurable(example["hr"], border)
            except InputError as error:
                failed |= {f"{names[-1]}, {reference}": str(error) for reference in test_set.references}
                continue
            for reference in test_set.references:
                if stop():
                    raise Stopped
                bar.update()
                path = inside(out, reference, f"{example['name']}.png")
                if (example["name"], reference) in done and path.exists():
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
                        shapes.add(tuple(image.shape for image in inputs))
                        valid = tuple(n // SCALE_FACTOR for n in hr.shape[:2])
                        sr = upscaler(*inputs, valid)[: hr.shape[0], : hr.shape[1]]
                # A device without room raises a RuntimeError.
                except (InputError, ValueError, RuntimeError, MemoryError) as error:
                    failed[f"{example['name']}, {reference}"] = (str(error) or type(error).__name__).splitlines()[0]
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, records.png(sr).getvalue())
                done.add(example["name"], reference, metrics(sr, hr, border))
    scores = {reference: done.of(reference, names) for reference in test_set.references}
    counted = sum(len(rows) for rows in scores.values())
    assert len(set(names)) == len(test_set), "every image once"
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


def make_room(out: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Makes `out` the folder of one evaluation, and keeps what another one has left there.

    The folder of another evaluation is moved aside, see `results.move_aside`. One that was moved aside before and has this
    identity comes back. Of an earlier step of the same run, only the scores are kept, as `images.step_N.csv`: pictures of every
    evaluation during training would fill the disk.

    Args:
      out: the folder.
      identity: JSON values.
    """
    there = _identity_in(out)
    if there == identity or not out.is_dir() or not any(out.iterdir()):
        return
    if there and _is_earlier_step(there, identity):
        log(
            f"note: pictures of step {identity['step']} replace those of step {there['step']} in {out}; its scores are kept"
        )
        (out / "images.csv").rename(out / f"images.step_{there['step']}.csv")
        for path in out.iterdir():
            if not path.match("images.step_*.csv"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    again = next((folder for folder in asides(out) if _identity_in(folder) == identity), None)
    move_aside(out)
    if again:
        again.rename(out)
        log(f"note: {again}, of the same evaluation as this one, is {out} again")


def _is_earlier_step(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether one identity is that of another at an earlier step of the run."""
    before, now = there.get("step"), here.get("step")
    moved = {name: here[name] for name in ("step", "parameters") if name in here}
    return isinstance(before, int) and isinstance(now, int) and before < now and {**there, **moved} == here


def _identity_in(folder: pathlib.Path) -> dict[str, Any] | None:
    """The identity of the evaluation whose folder it is; None for a folder that no evaluation can go on with."""
    with contextlib.suppress(OSError, ValueError), (folder / "images.csv").open():
        return json.loads((folder / "identity.json").read_text())
    return None


class _Rows:
    """The scores of one test set in `images.csv`, appended row by row, so that an interrupted evaluation can continue."""

    def __init__(self, out: pathlib.Path, identity: Mapping[str, Any], metrics: tuple[str, ...]):
        """Reads the rows of the same identity; what `out` has of another is kept elsewhere, see `make_room`."""
        self._path, mark, self._metrics = out / "images.csv", out / "identity.json", metrics
        self._rows: dict[tuple[str, str], dict[str, float]] = {}
        identity = json.loads(json.dumps(identity))  # tuples become lists
        make_room(out, identity)
        if _identity_in(out) == identity:
            complete, _, _ = self._path.read_text().rpartition("\n")  # the last row may be cut off
            for row in csv.DictReader(io.StringIO(complete, newline="")):
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a damaged row is computed again
                    self._rows[row["name"], row["reference"]] = {metric: float(row[metric]) for metric in metrics}
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, self._text())
        write_atomically(mark, json.dumps(identity))

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("name", "reference", *self._metrics))
        writer.writerows((*key, *map(repr, values.values())) for key, values in self._rows.items())
        return text.getvalue()

    def __enter__(self) -> Self:
        self._file = self._path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        write_atomically(self._path, self._text())

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._rows

    def add(self, name: str, reference: str, values: Mapping[str, float]) -> None:
        row = self._rows[name, reference] = {metric: values[metric] for metric in self._metrics}
        csv.writer(self._file, lineterminator="\n").writerow((name, reference, *map(repr, row.values())))
        self._file.flush()

    def of(self, reference: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
        return {name: self._rows[name, reference] for name in names if (name, reference) in self._rows}
