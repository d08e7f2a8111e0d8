"""What an evaluation leaves in the workdir: `results.json`, and for super-resolution a folder per set with images and a page."""

import contextlib
import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.console import log
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, report
from rrsr_jax.evaluation.protocols import TestSet
from rrsr_jax.models.contract import read_contract
from rrsr_jax.workdir.checkpoints import SAME_RESULT
from rrsr_jax.workdir.files import write_atomically

# Results by set: {"columns": {column: {metric: value}}, "failed": {image: reason}, ...}.
Results = dict[str, dict[str, Any]]


def super_resolution(
    model: nn.Module, test_sets: Sequence[TestSet], config: ConfigDict
) -> Callable[[Mapping | None, int | str, pathlib.Path, Callable[[], bool]], Results]:
    """How to evaluate a model on its test sets: a function of parameters, their step, the workdir, and whether to stop.

    It raises InputError where results cannot be written, and `evaluate.Stopped`.
    """
    upscaler, padded = evaluate.make_upscaler(model), not read_contract(model).pads_itself

    def run(params, step, workdir, stop):
        upscale = upscaler if params is None else functools.partial(upscaler, params)
        identity = describe(params, step, config) | {name: config.eval[name] for name in ("crops", "patch")}
        results = {}
        for test_set in test_sets:
            out = workdir / "eval" / test_set.name.replace("/", "-")
            try:
                evaluation = evaluate.evaluate(upscale, test_set, config.eval.border, out, identity, stop, padded)
                report.write_page(out / "index.html", test_set, evaluation, config.eval.shown)
                report.write_sheets(out, test_set, evaluation, config.eval.sheets)
            except OSError as error:
                raise InputError(f"cannot write the results to {out}: {error}") from error
            results[test_set.name] = evaluation.summary
        log(f"images, page and CSV in {workdir}/eval")
        return results

    return run


def describe(params: Mapping | None, step: int | str, config: ConfigDict) -> dict[str, Any]:
    """What was evaluated: tells one run, step, set of parameters and model from another."""
    checksum = functools.reduce(lambda crc, a: zlib.crc32(np.asarray(a).tobytes(), crc), jax.tree.leaves(params), 0)
    model = {k: v for k, v in config.model.to_dict().items() if k not in SAME_RESULT}
    return {"step": step, "parameters": checksum, "model": model}


def write(path: pathlib.Path, described: Mapping[str, Any], results: Results) -> None:
    """Adds to what the file says of other sets, if that is of the same parameters and model."""
    described = json.loads(json.dumps(described))
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        before = json.loads(path.read_text())
        if before | described == before:
            results = before["sets"] | results
    write_atomically(path, json.dumps({**described, "sets": results}, indent=2))


def flat(results: Results) -> dict[str, float]:
    """All metrics by `val/SET/COLUMN/METRIC`."""
    rows = [(name, column, row) for name, result in results.items() for column, row in result["columns"].items()]
    return {f"val/{name}/{column}/{k}": v for name, column, row in rows for k, v in row.items() if isinstance(v, float)}


def check_complete(results: Results | None, workdir: pathlib.Path) -> Results | None:
    """The results; InputError if an image failed."""
    if failed := sum(len(result["failed"]) for result in (results or {}).values()):
        raise InputError(f"{failed} image(s) failed, see above; {workdir}/results.json has the results of the others")
    return results
