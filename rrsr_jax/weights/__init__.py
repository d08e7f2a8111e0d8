"""Weights from and to files. Nothing that a file contains is ever executed.

python -m rrsr_jax.weights fetch vgg19 [--out=PATH] [--url=URL] [--sha256=HEX]
python -m rrsr_jax.weights import --kind=KIND --source=FILE --out=DIR
python -m rrsr_jax.weights export --kind=KIND --source=DIR --out=FILE.safetensors [--overwrite]

`fetch` downloads what torchvision publishes. `import` checks a PyTorch-layout FILE (.safetensors, .npz, or .pth and .pt, which
need PyTorch) and makes a folder of it that config.weights can name. `export` makes a PyTorch-layout file of such a folder, or of
the newest checkpoint in the workdir of a run.

KIND: vgg19, correspondence, rrsr, c2_matching, discriminator, ttsr, masa.
"""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping

import flax
import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

import rrsr_jax
from rrsr_jax.console import log
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.weights.download import sha256
from rrsr_jax.weights.layouts import KINDS, from_torch, shapes, to_torch
from rrsr_jax.weights.readers import read, read_safetensors
from rrsr_jax.workdir.checkpoints import Checkpoints

# Layouts by the names that users know.
PARTS = {
    "vgg19": "vgg19",
    "correspondence": "c2_extractor",
    "rrsr": "rrsr_restoration",
    "c2_matching": "c2_restoration",
    "discriminator": "c2_discriminator",
    "ttsr": "ttsr",
    "masa": "masa",
}
_MODULES = {"vgg19": "vgg", "correspondence": "correspondence"}  # parts that are modules of a model
# What a run's parameters hold and a model's checkpoint need not.
_NOT_THE_MODELS = (*_MODULES.values(), "discriminator", "discriminator_stats", "perceptual")
_FILE = "weights.safetensors"  # in an imported folder
_ABOUT = "rrsr_jax"  # its metadata: one entry, as JSON, for safetensors writes several in any order


def load(kind: str, path: str) -> dict:
    """Flax variables of a folder that `import` made, or of a PyTorch-layout file.

    Args:
      kind: one of `PARTS`, or of `torch_layout.KINDS`.
      path: the folder, or a .safetensors, .npz, .pth or .pt file.

    Raises:
      InputError: no such file, one that cannot be read without executing what it contains, or weights that do not fit.
    """
    part = {layout: part for part, layout in PARTS.items()}.get(kind, kind)
    layout = PARTS.get(kind, kind)
    if layout not in KINDS:
        raise InputError(f"unknown kind of weights {kind!r}; there are: {', '.join(PARTS)}")
    path = pathlib.Path(path)
    if os.path.isdir(path):
        return _load_imported(part, path)
    state = read(path)
    try:
        return from_torch(layout, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def import_weights(kind: str, source: str, out: str) -> None:
    """Makes the folder `out` of a file; replaces an earlier import of this kind.

    Raises:
      InputError: as `load`, or a folder with other things in it; nothing is changed then.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    _check_replaceable(kind, out)
    try:
        digest = sha256(source)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error})") from error
    print(f"{source}: SHA-256 {digest}", flush=True)
    flat = traverse_util.flatten_dict(load(kind, source), sep="/")
    versions = (
        f"rrsr_jax {rrsr_jax.__version__}, jax {jax.__version__}, flax {flax.__version__}, numpy {np.__version__}"
    )
    about = {"kind": kind, "source": source.name, "sha256": digest, "versions": versions}
    _write(out, safetensors.numpy.save(flat, {_ABOUT: json.dumps(about)}), folder=True)
    print(f"{out}: {kind}, {_count(flat)}")


def export_weights(kind: str, source: str, out: str, overwrite: bool = False) -> None:
    """Makes the PyTorch-layout file `out` of an imported folder, or of a run's newest checkpoint (the parameters it evaluates).

    Raises:
      InputError: no such folder, one without weights of this kind, or an existing file.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"--out={out}: the name of a .safetensors file expected")
    if os.path.exists(out) and not overwrite:
        raise InputError(f"{out} exists; --overwrite replaces it")
    variables = _load_imported(kind, source) if os.path.isfile(source / _FILE) else _part_of_run(kind, source)
    try:
        state = to_torch(PARTS[kind], variables)
    except InputError as error:
        raise InputError(f"{source} does not hold {kind}: {error}") from error
    try:
        from_torch(PARTS[kind], state)
    except InputError as error:
        log(f"note: not of the published size, so `import` does not take it: {str(error).splitlines()[0].rstrip(':')}")
    _write(out, safetensors.numpy.save(state, {"format": "pt"}), folder=False)
    print(f"{out}: {kind}, {_count(state)}, SHA-256 {sha256(out)}")


def _count(arrays: Mapping[str, np.ndarray]) -> str:
    return f"{len(arrays)} arrays, {sum(a.size for a in arrays.values()):,} parameters"


def _load_imported(part: str, folder: pathlib.Path) -> dict:
    kind, flat = _open_imported(folder)
    if kind != part:
        raise InputError(f"{folder} holds weights of kind {kind}; {part} expected")
    check_shapes(f"{folder} and {part}", shapes(PARTS[part]), {path: array.shape for path, array in flat.items()})
    return traverse_util.unflatten_dict(flat, sep="/")


def _open_imported(folder: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """Kind and arrays by path."""
    try:
        metadata, flat = read_safetensors(folder / _FILE)
        return json.loads(metadata[_ABOUT])["kind"], flat
    except InputError as error:
        raise InputError(f"{folder}: imported weights expected; {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _FILE} was not made by `python -m rrsr_jax.weights import`") from error


def _check_replaceable(kind: str, out: pathlib.Path) -> None:
    """Raises InputError unless `out` is free, an empty folder or an import of this kind."""
    if not os.path.lexists(out):
        return
    try:
        if not os.listdir(out):
            return
        found, _ = _open_imported(out)
    except (OSError, InputError) as error:
        raise InputError(f"--out={out}: a new folder or an earlier import expected; {error}") from error
    if found != kind:
        raise InputError(f"--out={out} holds weights of kind {found}; choose another folder")


def _part_of_run(kind: str, workdir: pathlib.Path) -> Mapping:
    try:
        checkpoints = Checkpoints(workdir)
    except (OSError, InputError) as error:
        raise InputError(
            f"--source={workdir}: a folder of imported weights, or that of a run, expected; {error}"
        ) from error
    with contextlib.closing(checkpoints):
        log(f"reading checkpoint {checkpoints.latest()}")
        params = checkpoints.params(averaged=True)
    try:
        if kind == "discriminator":
            return {"params": params["discriminator"], "batch_stats": params["discriminator_stats"]}
        if kind == "correspondence" and "branch_lr" in params:  # a run that trains this net, and may hold its teacher
            return {branch: params[branch] for branch in ("branch_lr", "branch_ref")}
        if kind in _MODULES:
            return params[_MODULES[kind]]
    except KeyError as error:
        raise InputError(f"{workdir} does not hold {kind}: its run has no part {error}") from error
    wanted = {path.split("/")[0] for path in shapes(PARTS[kind])}
    return {name: value for name, value in params.items() if name in wanted or name not in _NOT_THE_MODELS}


def _write(target: pathlib.Path, content: bytes, folder: bool) -> None:
    """Makes the file `target`, or the folder `target` around the one file, in one stroke."""
    missing = [parent for parent in target.parents if not os.path.exists(parent)]  # innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            new = pathlib.Path(temporary, "new")
            new.mkdir()  # with the usual permissions, other than `temporary`
            with (new / _FILE).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if folder and not target.is_dir():
                os.rename(new, target)
            else:
                os.replace(new / _FILE, target / _FILE if folder else target)
    except OSError as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise InputError(f"cannot write {target}: {error}") from error
