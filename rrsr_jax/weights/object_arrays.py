"""Reads the lists of arrays that TensorLayer's programs save (`save_npz`), without NumPy's unpickling.

Such a file is an .npz archive with one array of Python objects, `params`, which is a pickle. A pickle can name any function and
have it called. Here it gets at four stand-ins and nothing else, which collect shapes, types and bytes.
"""

import io
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

ENTRY = "params"
_TYPES = ("f2", "f4", "f8")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


def is_list_of_arrays(file: pathlib.Path) -> bool:
    """Whether an .npz file looks like one of these: its only array is `params`."""
    with zipfile.ZipFile(file) as archive:
        return archive.namelist() == [f"{ENTRY}.npy"]


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by their number, `params.0`, `params.1`, ...

    Raises:
      pickle.UnpicklingError: anything but floating-point arrays.
    """
    with zipfile.ZipFile(file) as archive:
        content = io.BytesIO(archive.read(f"{ENTRY}.npy"))
    version = np.lib.format.read_magic(content)
    (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(content)
    outer = _load(content)
    if not isinstance(outer, list) or not all(isinstance(array, np.ndarray) for array in outer):
        raise pickle.UnpicklingError("a list of arrays expected")
    return {f"{ENTRY}.{number}": array for number, array in enumerate(outer)}


def _load(content: io.BytesIO) -> Any:
    """The array of objects in a pickle, as a list. The stand-ins are made anew each time, so that no file can change them."""

    class Type:
        def __init__(self, name, *_):
            self.name, self.order = str(name), "<"

        def __setstate__(self, state):
            self.order = str(state[1])

    class Array:
        def __init__(self, *_):
            self.value = None

        def __setstate__(self, state):
            _, shape, dtype, by_columns, content = state
            if isinstance(content, list) and dtype.name.startswith("O"):
                self.value = [item.value if isinstance(item, Array) else item for item in content]
            elif dtype.name in _TYPES and dtype.order in "<>":
                raw = content.encode("latin1") if isinstance(content, str) else bytes(content)  # str: of Python 2
                order = "F" if by_columns else "C"
                self.value = np.frombuffer(raw, dtype.order + dtype.name).reshape(shape, order=order)
            else:
                raise pickle.UnpicklingError(f"arrays of type {dtype.name}")

    class Name:
        """NumPy's array class, which is only named."""

    def encode(text, _="latin1"):
        return str(text).encode("latin1")

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name, global_name):
            known = {("numpy", "ndarray"): Name, ("numpy", "dtype"): Type, ("_codecs", "encode"): encode}
            known |= {(module, "_reconstruct"): Array for module in _NUMPY}
            if (module_name, global_name) not in known:
                raise pickle.UnpicklingError(f"{module_name}.{global_name}")
            return known[module_name, global_name]

    found = Unpickler(content, encoding="latin1").load()
    return found.value if isinstance(found, Array) else found
