"""Results of an evaluation: their type, and how they are written."""

import contextlib
import functools
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.console import log
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

    Sets that the file already has are kept if they are of the same identity. If anything that the file has would be lost, it is
    moved aside first.
    """
    new = {**json.loads(json.dumps(identity)), "sets": json.loads(json.dumps(results))}  # tuples become lists
    if path.exists():
        before = _read(path)
        if before and before | identity_of(new) == before:
            new["sets"] = before["sets"] | new["sets"]
        if not _holds(new, before):
            move_aside(path)
    write_atomically(path, json.dumps(new, indent=2))


def identity_of(written: Mapping[str, Any]) -> dict[str, Any]:
    """What `write` was given as the identity."""
    return {name: value for name, value in written.items() if name != "sets"}


def _read(path: pathlib.Path) -> Any:
    """What `write` has written; None for anything else."""
    with contextlib.suppress(OSError, ValueError):
        written = json.loads(path.read_text())
        if isinstance(written, dict) and isinstance(written.get("sets"), dict):
            return written
    return None


def _holds(new: Any, old: Any) -> bool:
    """Whether JSON values have all that others have."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(name in new and _holds(new[name], value) for name, value in old.items())
    return new == old


def asides(path: pathlib.Path) -> list[pathlib.Path]:
    """What `move_aside` has made of `path` so far, oldest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    found = {int(match[1]): other for other in path.parent.glob("*") if (match := pattern.fullmatch(other.name))}
    return [found[number] for number in sorted(found)]


def move_aside(path: pathlib.Path) -> None:
    """Renames results, a file or a folder, to make room for others, and says so: NAME.json becomes NAME.1.json, then .2 ..."""
    numbers = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    aside = next(other for other in numbers if not other.exists())
    path.rename(aside)
    log(f"note: {path} has other results; they are kept as {aside}")


def write_file(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file of results. What is there and differs is moved aside first."""
    content = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == content:
        return
    if path.exists():
        move_aside(path)
    write_atomically(path, content)


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
