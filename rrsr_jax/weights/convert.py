"""Weights between files: load one, import one into a folder, export a folder or a run to one.

An imported folder holds `weights.safetensors`: float32 arrays by Flax path, and in its metadata the kind, the name and the
SHA-256 of the file that they came from, and the versions of the libraries.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

import rrsr_jax
from rrsr_jax.console import log
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.weights.download import sha256
from rrsr_jax.weights.kinds import KINDS, Kind, find
from rrsr_jax.weights.layouts import from_torch, shapes, to_torch
from rrsr_jax.weights.readers import read, read_safetensors
from rrsr_jax.workdir.files import scratch
from rrsr_jax.workdir.integrity import description
from rrsr_jax.workdir.lock import beside, only_writer
from rrsr_jax.workdir.state import TrainState, eval_params

_FILE = "weights.safetensors"  # in an imported folder
_ABOUT = "rrsr_jax"  # its only metadata entry, JSON: safetensors does not keep the order of several


def load(kind: str, *paths: str | os.PathLike[str]) -> dict[str, Any]:
    """Flax variables from an imported folder or a PyTorch-layout file.

    Of vgg19 and vgg16 these are `{layer: {"kernel": ..., "bias": ...}}`, from `conv1_1` on.

    Args:
      kind: name or layout of an entry in `kinds.KINDS`.
      paths: the folder; or a .safetensors, .npz, .pth or .pt file, or several where a network was published in parts.

    Raises:
      InputError: an unknown kind, no such file, one that cannot be read without executing what it contains, or weights that
        do not fit.
    """
    found, files = find(kind), [pathlib.Path(path) for path in paths]
    if len(files) == 1 and os.path.isdir(files[0]):
        return _load_imported(found, files[0])
    parts = [read(file) for file in files]
    try:
        return from_torch(found.name, {key: value for part in parts for key, value in found.renamed(part).items()})
    except InputError as error:
        raise InputError(f"{', '.join(map(str, files))}: {error}") from error


def import_weights(
    kind: str, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> None:
    """Writes the weights of the file `source` to the folder `out`; replaces an earlier import of the same kind.

    `source` may be several files, of a network that was published in parts.

    Raises:
      InputError: as `load`; or `out` holds anything else, or another process writes it. Nothing is changed then.
    """
    found, out = find(kind), pathlib.Path(out)
    sources = [pathlib.Path(file) for file in ([source] if isinstance(source, str | os.PathLike) else source)]
    with only_writer(beside(out), f"--out={out}"):
        _import(found, sources, out)


def _import(found: Kind, sources: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    _check_replaceable(found, out)
    digests = []
    for file in sources:
        try:
            if file.exists() and not file.is_file():  # a pipe or a device may never end
                raise InputError(f"{file} cannot be read: a file expected")
            digests.append(sha256(file))
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error})") from error
        print(f"{file}: SHA-256 {digests[-1]}", flush=True)
    flat: dict[str, Any] = traverse_util.flatten_dict(load(found.name, *sources), sep="/")
    versions = (
        f"rrsr_jax {rrsr_jax.__version__}, jax {jax.__version__}, flax {flax.__version__}, numpy {np.__version__}"
    )
    names = ", ".join(file.name for file in sources)
    about = {"kind": found.name, "source": names, "sha256": ", ".join(digests), "versions": versions}
    _write(out, safetensors.numpy.save(flat, {_ABOUT: json.dumps(about)}), folder=True)
    print(f"{out}: {found.name}, {_count(flat)}")


def export_weights(
    kind: str, source: str | os.PathLike[str], out: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes weights to the PyTorch-layout file `out`.

    They come from an imported folder `source`, or from the newest checkpoint of a run: the parameters that it evaluates.

    Raises:
      InputError: no such folder, one without weights of this kind, or `out` exists and `overwrite` is not set.
    """
    found, source, out = find(kind), pathlib.Path(source), pathlib.Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"--out={out}: the name of a .safetensors file expected")
    with only_writer(beside(out), f"--out={out}"):
        _export(found, source, out, overwrite)


def _export(found: Kind, source: pathlib.Path, out: pathlib.Path, overwrite: bool) -> None:
    if os.path.exists(out) and not overwrite:
        raise InputError(f"{out} exists; --overwrite replaces it")
    variables = _load_imported(found, source) if os.path.isfile(source / _FILE) else _load_run(found, source)
    try:
        state_dict = to_torch(found.name, variables)
    except InputError as error:
        raise InputError(f"{source} does not hold {found.name}: {error}") from error
    try:
        from_torch(found.name, state_dict)
    except InputError as error:
        first = str(error).splitlines()[0].rstrip(":")
        log(f"note: these weights do not have the published size, so `import` does not accept them: {first}")
    _write(out, safetensors.numpy.save(state_dict, {"format": "pt"}), folder=False)
    print(f"{out}: {found.name}, {_count(state_dict)}, SHA-256 {sha256(out)}")


def _count(arrays: Mapping[str, np.ndarray]) -> str:
    return f"{len(arrays)} arrays, {sum(a.size for a in arrays.values()):,} parameters"


def _load_imported(kind: Kind, folder: pathlib.Path) -> dict[str, Any]:
    name, flat = _open_imported(folder)
    if name != kind.name:
        raise InputError(f"{folder} holds weights of kind {name}; {kind.name} expected")
    check_shapes(f"{folder} and {kind.name}", shapes(kind.name), {path: array.shape for path, array in flat.items()})
    return traverse_util.unflatten_dict(flat, sep="/")


def _open_imported(folder: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """Name of the kind, and arrays by path."""
    try:
        metadata, flat = read_safetensors(folder / _FILE)
        return json.loads(metadata[_ABOUT])["kind"], flat
    except InputError as error:
        raise InputError(f"{folder}: imported weights expected; {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _FILE} was not made by `python -m rrsr_jax.weights import`") from error


def _check_replaceable(kind: Kind, out: pathlib.Path) -> None:
    """Raises InputError unless `out` does not exist, is an empty folder, or holds an import of this kind."""
    if not os.path.lexists(out):
        return
    try:
        if not os.listdir(out):
            return
        name, _ = _open_imported(out)
    except (OSError, InputError) as error:
        raise InputError(f"--out={out}: a new folder or an earlier import expected; {error}") from error
    if name != kind.name:
        raise InputError(f"--out={out} holds weights of kind {name}; choose another folder")


def _load_run(kind: Kind, workdir: pathlib.Path) -> Mapping[str, Any]:
    """The variables of this kind from a run's newest checkpoint."""
    from rrsr_jax.workdir.checkpoints import Checkpoints  # Orbax and Grain, which nothing else here needs

    try:
        checkpoints = Checkpoints(workdir)
    except (OSError, InputError) as error:
        raise InputError(
            f"--source={workdir}: a folder of imported weights or the workdir of a run expected; {error}"
        ) from error
    with contextlib.closing(checkpoints):
        log(f"reading checkpoint {checkpoints.latest()}")
        state = checkpoints.read_state()
    try:
        selected = _select(kind, state)
    except KeyError as error:
        raise InputError(f"{workdir} does not hold {kind.name}: it has no {error}") from error
    _check_trained(kind, workdir)
    return selected


def _check_trained(kind: Kind, workdir: pathlib.Path) -> None:
    """Raises InputError if the run has neither trained nor loaded the weights of this kind: they are random then."""
    about = description(workdir)
    config = about["config"]
    rates = config["learning_rates"]
    loaded = any(config["weights"].get(name) for name in (kind.setting, config["model"]["name"])) or config["init_from"]
    trained = rates.get(kind.setting, rates["default"]) > 0
    if kind.name == "discriminator":
        trained = about["step"] > config.get("pixel_steps", 0)
    if not loaded and not trained:
        raise InputError(
            f"{workdir} has a random {kind.name}: the run has neither trained nor loaded it; choose a run that has"
        )


def _select(kind: Kind, state: TrainState) -> Mapping[str, Any]:
    """The variables of this kind in a run's state; KeyError if there are none."""
    if kind.discriminator:
        if not state.discriminator:
            raise KeyError("discriminator")
        return {"params": state.discriminator, "batch_stats": state.statistics}
    params = eval_params(state)
    if kind.name == "correspondence" and "branch_lr" in params:  # a run that trains this net
        return params
    if kind.module:
        return params[kind.module]
    wanted = {path.split("/")[0] for path in shapes(kind.name)}
    modules = {other.module for other in KINDS}
    return {name: value for name, value in params.items() if name in wanted or name not in modules}


def _write(target: pathlib.Path, content: bytes, folder: bool) -> None:
    """Writes the file `target`, or the folder `target` with this one file in it, atomically."""
    missing = [parent for parent in target.parents if not os.path.exists(parent)]  # innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch(target) as new:
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
