"""Results of an evaluation: their type, and how they are written."""

import contextlib
import functools
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.workdir.checkpoints import SAME_RESULT
from rrsr_jax.workdir.files import write_atomically


class SetResult(TypedDict):
    """The result of one test set; JSON values.

    Attributes:
      images: number of images in the set.
      references: {reference: {metric: mean over the images}}, see `protocols`; of a correspondence net, see `correspondence`.
      failed: {"image" or "image, reference": reason}; what failed is in no mean.
      border: pixels left out at each edge; super-resolution only.
      published_padding: whether references of a published protocol were padded as published; super-resolution only.
    """

    images: int
    references: dict[str, dict[str, float]]
    failed: dict[str, str]
    border: NotRequired[int]
    published_padding: NotRequired[bool]


Results = dict[str, SetResult]  # by test set


def identity(params: Mapping | None, step: int | str, config: ConfigDict) -> dict[str, Any]:
    """Identifies what was evaluated: the step, a checksum of the parameters, and the model's fields. JSON values."""
    checksum = functools.reduce(lambda crc, a: zlib.crc32(np.asarray(a).tobytes(), crc), jax.tree.leaves(params), 0)
    model = {k: v for k, v in config.model.to_dict().items() if k not in SAME_RESULT}
    return {"step": step, "parameters": checksum, "model": model}


def write(path: pathlib.Path, identity: Mapping[str, Any], results: Results) -> None:
    """Writes results as JSON: the identity's fields, and the results under `sets`.

    Sets that the file already has are kept if they are of the same identity.
    """
    identity = json.loads(json.dumps(identity))  # tuples become lists
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        before = json.loads(path.read_text())
        if before | identity == before:
            results = before["sets"] | results
    write_atomically(path, json.dumps({**identity, "sets": results}, indent=2))


def flat(results: Results) -> dict[str, float]:
    """All means as {"val/SET/REFERENCE/METRIC": value}."""
    return {
        f"val/{name}/{reference}/{metric}": value
        for name, result in results.items()
        for reference, means in result["references"].items()
        for metric, value in means.items()
        if isinstance(value, float)
    }


def check_complete(results: Results | None, workdir: pathlib.Path) -> Results | None:
    """Returns the results; raises InputError if an image failed."""
    if failed := sum(len(result["failed"]) for result in (results or {}).values()):
        raise InputError(f"{failed} image(s) failed, see above; {workdir}/results.json has the results of the others")
    return results
