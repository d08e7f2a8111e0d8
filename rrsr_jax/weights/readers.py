"""PyTorch-layout state dicts from files. Nothing that a file contains is ever executed."""

import collections
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from rrsr_jax.console import log
from rrsr_jax.errors import InputError

# What checkpoints keep their weights under; the moving average, which their authors evaluate, comes first.
_WRAPPERS = ("state_dict", "model", "params_ema", "params")


def read(file: pathlib.Path) -> dict[str, Any]:
    """What a .safetensors, .npz, .pth or .pt file holds, by name; arrays, if all is well.

    Unwraps `{"state_dict": ...}` and the like, and takes off the prefix that DataParallel gives all names.

    Raises:
      InputError: no such file, a damaged one, or one that would have to be executed; PyTorch is missing.
    """
    readers = {".safetensors": lambda file: read_safetensors(file)[1], ".npz": _read_npz, ".pth": _read_pth}
    readers[".pt"] = readers[".pth"]
    if file.suffix not in readers:
        raise InputError(f"{file}: a {', '.join(readers)} file expected, or a folder of imported weights")
    state = _unwrap(file, _guarded(readers[file.suffix], file))
    types = [v.dtype for v in state.values() if hasattr(v, "dtype") and jnp.issubdtype(v.dtype, jnp.floating)]
    for dtype, number in collections.Counter(map(str, types)).items():
        if dtype != "float32":
            log(f"note: {file}: {number} arrays of {dtype} become float32")
    return state


def read_safetensors(file: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays; InputError if there is no such file or a damaged one."""

    def open_and_load(file):
        with safetensors.safe_open(file, framework="np") as opened:
            return opened.metadata() or {}, safetensors.numpy.load_file(file)

    return _guarded(open_and_load, file)


def _guarded(reader, file: pathlib.Path) -> Any:
    try:
        file.open("rb").close()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return reader(file)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise InputError(
            f"{file} cannot be read as {file.suffix}; is it whole? ({type(error).__name__}: {error})"
        ) from error


def _read_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle
        raise InputError(f"{file} cannot be read as .npz; is it whole?")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:  # NumPy's message advises to allow it
        if "allow_pickle" not in str(error):
            raise
        raise InputError(
            f"{file}: refused, for it contains pickled objects, which may be code; nothing of it was executed"
        ) from error


def _read_pth(file: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"reading {file} needs PyTorch: pip install 'rrsr_jax[torch]'") from error

    def to_numpy(value):
        if isinstance(value, Mapping):
            return {str(k): to_numpy(v) for k, v in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach()
        if value.dtype == torch.bfloat16:  # which NumPy lacks
            return value.view(torch.int16).numpy().view(jnp.bfloat16)
        return value.numpy()

    try:
        return to_numpy(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # PyTorch's message advises to execute it
        if "weights_only" not in str(error):
            raise
        found = re.search(r"GLOBAL [\w.]+", str(error))
        raise InputError(
            f"{file}: refused, for it is damaged or contains code{f' ({found[0]})' if found else ''}; nothing of it was "
            "executed. A dictionary of tensors expected, as from torch.save(model.state_dict(), FILE)"
        ) from error


def _unwrap(file: pathlib.Path, state: Any) -> dict[str, Any]:
    """The weights among what else a checkpoint holds."""
    if not isinstance(state, Mapping):
        raise InputError(f"{file}: a dictionary of tensors expected, got {type(state).__name__}")
    while wrapper := next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None):
        others = ", ".join(name for name in state if name != wrapper)
        log(f"note: {file}: taking what is under {wrapper!r}{f', leaving out {others}' if others else ''}")
        state = state[wrapper]
    if state and all(name.startswith("module.") for name in state):
        log(f"note: {file}: taking `module.` off all names")
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)
