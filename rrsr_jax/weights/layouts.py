"""PyTorch state dicts to Flax variables and back: names of arrays, order of axes, checks.

What differs between kinds of weights stands in `kinds.py`; everything here is the same for all of them.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.weights.kinds import Kind, find

_LEAVES = {"kernel": "weight", "experts": "weight", "scale": "weight", "slope": "weight"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}
# Axes that bring a PyTorch array to Flax layout, by leaf name and rank; every other array is the same in both.
_AXES = {("kernel", 2): (1, 0), ("kernel", 4): (2, 3, 1, 0), ("experts", 5): (0, 3, 4, 2, 1)}
_AXES |= {("alpha", 4): (0, 2, 3, 1), ("beta", 4): (0, 2, 3, 1)}  # of DISTS, by channel
# PyTorch's batch normalisation counts training batches; with a fixed momentum nothing depends on the count.
_VARIANCE, _COUNTER = ".running_var", ".num_batches_tracked"


class _Entry(NamedTuple):
    """The PyTorch key of a Flax array, and the axes that bring the PyTorch array to Flax layout (None: as they are)."""

    key: str
    axes: tuple[int, ...] | None


@functools.cache
def shapes(kind: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a kind's Flax variables by their paths, `conv1_1/kernel`.

    Raises:
      InputError: an unknown kind.
    """
    template: dict[str, Any] = traverse_util.flatten_dict(find(kind).template(), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in template.items()}


def from_torch(kind: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Flax variables, float32, from a PyTorch state dict.

    Args:
      kind: name or layout of an entry in `kinds.KINDS`, `correspondence` or `c2_extractor`.
      state_dict: arrays of floating-point numbers by key, convolution weights as (O, I, kH, kW); or another layout in which
        this network is published.

    Raises:
      InputError: an unknown kind; values that are missing, unexpected, of a wrong shape or no arrays of floating-point
        numbers (the message lists all of them); or numbers beyond float32.
    """
    found = find(kind)
    template = shapes(found.name)
    entries = {path: _entry(found, path, len(shape)) for path, shape in template.items()}
    expected = {e.key: _torch_shape(template[path], e.axes) for path, e in entries.items()}
    left_out = {key.replace(_VARIANCE, _COUNTER) for key in expected if key.endswith(_VARIANCE)}
    arrays = found.renamed(state_dict)
    got = {k: v for k, v in arrays.items() if k not in left_out and not re.fullmatch(found.left_out, k)}
    _check(found.name, expected, got)
    flat = {}
    for path, (key, axes) in entries.items():
        array = np.asarray(got[key])
        flat[path] = _float32(key, array if axes is None else array.transpose(axes))
    return traverse_util.unflatten_dict(flat, sep="/")


def to_torch(kind: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`; also takes variables of another width or depth than published.

    Raises:
      InputError: an unknown kind, or a parameter that its layout has no name for.
    """
    found, state_dict = find(kind), {}
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
        value = np.asarray(value)
        key, axes = _entry(found, path, value.ndim)
        state_dict[key] = np.ascontiguousarray(value if axes is None else value.transpose(np.argsort(axes)))
        if key.endswith(_VARIANCE) and found.counters:
            state_dict[key.replace(_VARIANCE, _COUNTER)] = np.zeros((), np.int64)
    return state_dict | found.added(state_dict)


def _entry(kind: Kind, path: str, rank: int) -> _Entry:
    module, _, leaf = path.rpartition("/")
    for pattern, replacement in kind.rules.items():
        if match := re.fullmatch(pattern, module):
            name = replacement(match) if callable(replacement) else match.expand(replacement)
            key = _LEAVES.get(leaf, leaf)
            return _Entry(f"{name}.{key}" if name else key, _AXES.get((leaf, rank)))
    raise InputError(f"parameter {path} has no counterpart in the PyTorch layout of {kind.name}")


def _torch_shape(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    return shape if axes is None else tuple(shape[i] for i in np.argsort(axes))


def _check(name: str, expected: Mapping[str, tuple[int, ...]], got: Mapping[str, Any]) -> None:
    """Raises InputError that lists everything about `got` that is not as expected."""
    arrays = {k: v for k, v in got.items() if hasattr(v, "dtype")}
    wrong = [f"not an array: {k}: {type(v).__name__}" for k, v in got.items() if k not in arrays]
    wrong += [
        f"wrong type: {k}: floating-point numbers expected, got {v.dtype}"
        for k, v in arrays.items()
        if k in expected and not jnp.issubdtype(v.dtype, jnp.floating)
    ]
    check_shapes(f"{name} weights", expected, {k: v.shape for k, v in arrays.items()}, wrong)


def _float32(key: str, array: np.ndarray) -> np.ndarray:
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return np.ascontiguousarray(array, dtype=np.float32)
    except FloatingPointError as error:
        raise InputError(f"{key}: {array.dtype} with numbers beyond float32") from error
