"""Evaluation: one code path, for training runs and for `--mode=eval`. See `protocols` for sets and columns."""

import csv
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import tqdm
from PIL import Image

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.console import log
from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.metrics import SSIM_WINDOW, quality, to_uint8
from rrsr_jax.evaluation.protocols import TestSet, bucket_inputs, bucket_plan, crop_to_multiple, paper_inputs
from rrsr_jax.models.contract import read_contract
from rrsr_jax.workdir.files import write_atomically

# Makes `sr` of parameters, `lr`, `ref`, both (., ., 3) uint8, and height and width of the part of `lr` that is no padding.
Upscaler = Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]

STEP = 32  # sizes to cut to, in pixels of `lr`, so that few are compiled
METRICS = ("psnr_y", "ssim_y", "gmsd_y")


class Stopped(Exception):
    """An evaluation was asked to stop."""


class Evaluation(NamedTuple):
    """What came out for one set.

    Attributes:
      summary: {"images": number, "border": .., "columns": {column: {metric: mean of each of METRICS,
        "worse_than_lr_itself": number of images}}, "failed": {"name, column": reason}}; what failed is in no mean.
      names: of all images, in order.
      scores: {column: {name: {metric: value}}}.
    """

    summary: dict[str, Any]
    names: list[str]
    scores: dict[str, dict[str, dict[str, float]]]


def make_upscaler(model: nn.Module) -> Callable[[Mapping, np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]:
    """The model as a function of parameters and an `Upscaler`'s arguments; compiled once per pair of sizes.

    Padding of `lr` further away than the model's `reach` cannot change what is not padding, and is left out: in the published
    five-reference protocol about 60 % of the work on the input. See `Contract` for what a model says about padding.
    """
    contract = read_contract(model)

    @jax.jit
    def apply(params, lr, ref, valid):
        return model.apply({"params": params}, lr, ref, **({"valid": valid} if contract.takes_valid else {}))

    def run(params, lr, ref, valid):
        if contract.reach is not None:
            height, width = (-(-(size + contract.reach) // STEP) * STEP for size in valid)
            lr = lr[:height, :width]
        images = (image[None].astype(np.float32) / 255 for image in (lr, ref))
        return to_uint8(apply(params, *images, np.array([valid], np.int32))[0])

    return run


def evaluate(
    upscaler: Upscaler | None,
    test_set: TestSet,
    border: int,
    out: pathlib.Path,
    run: Mapping[str, Any],
    stop: Callable[[], bool] = bool,
    padded: bool = True,
) -> Evaluation:
    """Evaluates one set; what is done already in `out` for the same `run` is not done again.

    Args:
      upscaler: may be None if the only column is bicubic.
      test_set: what to evaluate.
      border: pixels left out at each edge.
      out: gets `images.csv` with one row per image and column, and the results as `COLUMN/NAME.png`.
      run: what the results depend on (a checkpoint's step, say).
      stop: asked before every image.
      padded: whether the images are padded, as published or to few common sizes; False for a model that `pads_itself`.

    Raises:
      Stopped: `stop` said so; the same call goes on from there.
    """
    log(f"evaluating {test_set.name}: {len(test_set)} images, {', '.join(test_set.columns)}")
    done = _Rows(out, dict(run) | {"border": border, "metrics": METRICS, "padded": padded, **test_set.identity()})
    failed, shapes, names = {}, set(), []
    plan = bucket_plan(test_set) if padded else {}
    total = len(test_set) * len(test_set.columns)
    with done, tqdm.tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        for index in range(len(test_set)):
            names.append(f"record {index}")
            try:
                example = test_set[index]
                names[-1] = example["name"]
                hr = _measurable(example["hr"], border)
            except InputError as error:
                failed |= {f"{names[-1]}, {column}": str(error) for column in test_set.columns}
                continue
            for column in test_set.columns:
                if stop():
                    raise Stopped
                bar.update()
                path = out / column / f"{example['name']}.png"
                if (example["name"], column) in done and path.exists():
                    continue
                try:
                    if column == "bicubic":
                        sr = upscale(downscale(hr))
                    else:
                        ref = test_set.reference(column, index, example)
                        if not padded:
                            inputs = downscale(hr), ref
                        elif test_set.exact(column):
                            inputs = paper_inputs(hr, ref)
                        else:
                            inputs = bucket_inputs(hr, ref, plan[index, column])
                        shapes.add(tuple(image.shape for image in inputs))
                        valid = tuple(n // SCALE_FACTOR for n in hr.shape[:2])
                        sr = upscaler(*inputs, valid)[: hr.shape[0], : hr.shape[1]]
                # A device without room raises a RuntimeError.
                except (InputError, ValueError, RuntimeError, MemoryError) as error:
                    failed[f"{example['name']}, {column}"] = (str(error) or type(error).__name__).splitlines()[0]
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(sr).save(path)
                done.add(example["name"], column, quality(sr, hr, border))
    scores = {column: done.of(column, names) for column in test_set.columns}
    counted = sum(len(rows) for rows in scores.values())
    assert len(set(names)) == len(test_set), "every image once"
    assert counted + len(failed) == total, f"{counted} + {len(failed)} != {total}"
    for what, reason in failed.items():
        log(f"failed: {test_set.name}: {what}: {reason}")
    if shapes:
        log(f"{test_set.name}: {len(shapes)} pair(s) of sizes for {len(test_set)} images, each to compile")
    summary = {"images": len(test_set), "border": border, "columns": _means(scores), "failed": failed}
    return Evaluation(summary | {"exact": test_set.padded_as_published}, names, scores)


def _measurable(hr: np.ndarray, border: int) -> np.ndarray:
    hr = crop_to_multiple(hr)
    if min(hr.shape[:2]) - 2 * border < SSIM_WINDOW:
        raise InputError(
            f"at least {SSIM_WINDOW} pixels within borders of {border} expected, got {hr.shape[0]}x{hr.shape[1]}"
        )
    return hr


def _means(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Per column the means, and how many images come out worse than with no reference at all."""
    means, base = {}, scores.get("lr_itself", {})
    for column, rows in scores.items():
        if rows:
            means[column] = {metric: float(np.mean([row[metric] for row in rows.values()])) for metric in METRICS}
        if rows and base and column != "lr_itself":
            worse = [name for name in rows if name in base and rows[name]["psnr_y"] < base[name]["psnr_y"]]
            means[column]["worse_than_lr_itself"] = len(worse)
    return means


class _Rows:
    """The per-image results of one set: a CSV file that grows row by row, so that an interrupted evaluation goes on."""

    def __init__(self, out: pathlib.Path, run: Mapping[str, Any]):
        """Reads what is there of the same `run`; removes what is there of another."""
        self._path, mark = out / "images.csv", out / "run.json"
        self._rows: dict[tuple[str, str], dict[str, float]] = {}
        run = json.loads(json.dumps(run))
        if mark.exists() and self._path.exists() and json.loads(mark.read_text()) == run:
            whole_lines, _, _ = self._path.read_text().rpartition("\n")  # the last row may be cut off
            for row in csv.DictReader(io.StringIO(whole_lines, newline="")):
                self._rows[row["name"], row["column"]] = {metric: float(row[metric]) for metric in METRICS}
        else:
            shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, self._text())
        write_atomically(mark, json.dumps(run))

    def _text(self):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("name", "column", *METRICS))
        writer.writerows((*key, *map(repr, values.values())) for key, values in self._rows.items())
        return text.getvalue()

    def __enter__(self):
        self._file = self._path.open("a")
        return self

    def __exit__(self, *_):
        self._file.close()
        write_atomically(self._path, self._text())

    def __contains__(self, key):
        return key in self._rows

    def add(self, name: str, column: str, values: Mapping[str, float]) -> None:
        self._rows[name, column] = {metric: values[metric] for metric in METRICS}
        csv.writer(self._file, lineterminator="\n").writerow(
            (name, column, *map(repr, self._rows[name, column].values()))
        )
        self._file.flush()

    def of(self, column: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
        return {name: self._rows[name, column] for name in names if (name, column) in self._rows}
