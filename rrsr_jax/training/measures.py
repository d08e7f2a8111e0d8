"""What the evaluations of a run measure, with the weights that this needs."""

import functools
import os
import zlib
from typing import Any

import jax
from ml_collections import ConfigDict

from rrsr_jax import models, weights
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.metrics import NETWORKS, Metrics, distance


def metrics(config: ConfigDict) -> Metrics:
    """What the `eval` part of a config asks for: `niqe`, and files of weights in `lpips` and `dists`.

    Raises:
      InputError: a file that is not there, or does not fit.
    """
    distances, checksums = {}, {}
    for name in NETWORKS:
        if config[name]:
            params = _load(name, config[name])
            distances[name] = distance(models.published(name), params)
            checksums[name] = functools.reduce(lambda crc, a: zlib.crc32(a.tobytes(), crc), jax.tree.leaves(params), 0)
    return Metrics(config.niqe, distances, checksums)


def _load(name: str, path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise InputError(f"config.eval.{name}: a file or folder of weights expected, there is no {path}")
    try:
        return weights.load(name, path)
    except InputError as error:
        raise InputError(
            f"config.eval.{name}: {error}\n  (published files lack VGG-16: `python -m rrsr_jax.weights import --kind={name}` "
            "makes one folder of both, see docs/weights.md)"
        ) from error
