"""Evaluates a super-resolution model on all of its test sets. `correspondence` does the same for a correspondence net."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rrsr_jax import processes
from rrsr_jax.console import log
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import page, report
from rrsr_jax.evaluation.evaluate import Upscaler, evaluate_set
from rrsr_jax.evaluation.metrics import BASIC, Metrics
from rrsr_jax.evaluation.protocols import TestSet
from rrsr_jax.evaluation.results import Results
from rrsr_jax.workdir.files import inside


def evaluate_sets(
    upscaler: Upscaler | None,
    test_sets: Sequence[TestSet],
    *,
    workdir: pathlib.Path,
    identity: Mapping[str, Any],
    border: int,
    shown: int,
    sheets: int,
    padded: bool = True,
    stop: Callable[[], bool] = bool,
    metrics: Metrics = BASIC,
) -> Results:
    """Evaluates a model on test sets, and writes `WORKDIR/eval/SET/`: images, `images.csv`, `index.html` and sheets.

    Args:
      upscaler: the model; may be None if `bicubic` is the only reference.
      test_sets: what to evaluate.
      workdir: the run's folder.
      identity: what was evaluated, see `results.identity`. Images in the folder that are of the same one are not computed again.
      border: pixels left out at each edge.
      shown: number of images on the page.
      sheets: number of images drawn as a picture each.
      padded: see `evaluate_set`.
      stop: asked before every image.
      metrics: what is measured.

    Raises:
      InputError: the results cannot be written.
      Stopped: `stop` returned True; the same call continues from there.
    """
    results = {}
    for test_set in test_sets:
        out = inside(workdir, "eval", test_set.name.replace("/", "-"))
        try:
            evaluation = evaluate_set(upscaler, test_set, border, out, identity, stop, padded, metrics)
            if processes.is_first():
                page.write_page(out / "index.html", test_set, evaluation, shown)
                report.write_sheets(out, test_set, evaluation, sheets)
        except OSError as error:
            raise InputError(f"cannot write the results to {out}: {error}") from error
        results[test_set.name] = evaluation.result
    log(f"images, page and CSV in {workdir}/eval")
    return results
