"""Reads PyTorch state dicts from files. Nothing that a file contains is ever executed."""

import collections
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from rrsr_jax.console import log
from rrsr_jax.errors import InputError
from rrsr_jax.weights import object_arrays

SAFE_TORCH = 2, 10  # the oldest version whose restricted loading has no known hole; as in setup.cfg

# Names under which checkpoints keep their weights. `params_ema`, the moving average, comes before `params`: authors evaluate it.
_WRAPPERS = ("state_dict", "model", "params_ema", "params")


def read(file: pathlib.Path) -> dict[str, Any]:
    """The state dict in a .safetensors, .npz, .pth or .pt file; its values are arrays unless the file holds something else.

    Unwraps `{"state_dict": ...}` and the like, and removes the prefix `module.` that DataParallel gives all names.

    Raises:
      InputError: no such file, a damaged one, or one that cannot be read without executing it; or PyTorch is missing.
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
    """Metadata and arrays of a .safetensors file.

    Raises:
      InputError: no such file, or a damaged one.
    """

    def open_and_load(file: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        with safetensors.safe_open(file, framework="np") as opened:
            return opened.metadata() or {}, safetensors.numpy.load_file(file)

    return _guarded(open_and_load, file)


def _guarded(reader: Callable[[pathlib.Path], Any], file: pathlib.Path) -> Any:
    """`reader(file)`, with an InputError for everything that can go wrong."""
    if file.exists() and not file.is_file():  # a pipe or a device may never end
        raise InputError(
            f"{file} cannot be read: a file expected, got {'a folder' if file.is_dir() else 'something else'}"
        )
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
            f"{file} cannot be read as {file.suffix}; it may be incomplete or damaged ({type(error).__name__}: {error})"
        ) from error


def _read_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle
        raise InputError(f"{file} cannot be read as .npz; it may be incomplete or damaged")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except ValueError as error:  # NumPy's message suggests allow_pickle=True
        if "allow_pickle" not in str(error):
            raise
        refusal = f"{file}: refused, because it contains pickled objects, which may be code; nothing was executed"
        if not object_arrays.is_list_of_arrays(file):
            raise InputError(refusal) from error
    try:
        return object_arrays.read(file)
    except Exception as error:  # whatever a damaged or hostile pickle makes its reader raise
        raise InputError(f"{refusal} ({error})") from error


def _read_pth(file: pathlib.Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"reading {file} needs PyTorch: pip install 'rrsr_jax[torch]'") from error
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_TORCH:
        raise InputError(
            f"{file} is not opened: PyTorch {'.'.join(map(str, SAFE_TORCH))} or newer expected, got {torch.__version__}, which "
            "can be made to execute code from such a file or to corrupt memory (CVE-2025-32434, CVE-2026-24747); "
            "pip install -U 'rrsr_jax[torch]', or convert it to .safetensors elsewhere"
        )

    def to_numpy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): to_numpy(v) for k, v in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach()
        if value.dtype == torch.bfloat16:  # NumPy has no such type
            return value.view(torch.int16).numpy().view(jnp.bfloat16)
        return value.numpy()

    try:
        return to_numpy(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # PyTorch's message suggests weights_only=False
        if "weights_only" not in str(error):
            raise
        found = re.search(r"GLOBAL [\w.]+", str(error))
        raise InputError(
            f"{file}: refused, because it is damaged or contains code{f' ({found[0]})' if found else ''}; nothing was "
            "executed. A dictionary of tensors expected, as from torch.save(model.state_dict(), FILE)"
        ) from error


def _unwrap(file: pathlib.Path, state: Any) -> dict[str, Any]:
    """The state dict among the other contents of a checkpoint."""
    if not isinstance(state, Mapping):
        raise InputError(f"{file}: a dictionary of tensors expected, got {type(state).__name__}")
    while wrapper := next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None):
        others = ", ".join(name for name in state if name != wrapper)
        log(f"note: {file}: using {wrapper!r}{f', ignoring {others}' if others else ''}")
        state = state[wrapper]
    if state and all(name.startswith("module.") for name in state):
        log(f"note: {file}: removing the prefix `module.` from all names")
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)
