"""Folders of weights that can be handed on: written from a run, and loaded to super-resolve images.

A folder holds `model.safetensors` (float16 arrays by Flax path, with dots), `config.json` (`{"model": ...}`, the fields of the
model as in a config), `README.md` (the card: what it was trained on, and how good it is) and `LICENSE`. Folders that come with
the program are in `rrsr_jax/weights/released/`, and their names stand for them.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from ml_collections import ConfigDict

from rrsr_jax import config_checks
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.models import MODELS, build
from rrsr_jax.weights.download import sha256
from rrsr_jax.weights.readers import read_safetensors
from rrsr_jax.workdir.files import scratch
from rrsr_jax.workdir.integrity import description, has_checkpoint, newest_intact
from rrsr_jax.workdir.lock import beside, only_writer
from rrsr_jax.workdir.state import eval_params

SHIPPED = pathlib.Path(__file__).with_suffix("")  # the folder beside this file
_WEIGHTS, _CONFIG, _CARD, _LICENSE = FILES = ("model.safetensors", "config.json", "README.md", "LICENSE")
_STAGES = ("rec", "gan")  # whose runs train a super-resolution model
_COMPUTATION = ("deform_conv", "match_tile", "remat")  # fields that say where and when it is computed: not handed on


@dataclasses.dataclass(frozen=True)
class Released:
    """A model that is ready to use.

    Attributes:
      model: a Flax module, called as `model.apply({"params": params}, lr, ref)`, see `models/contract.py`.
      params: float32 NumPy arrays, nested as Flax has them.
      name: of the shipped weights, or of the folder.
    """

    model: nn.Module
    params: Mapping[str, Any]
    name: str


def names() -> list[str]:
    """Names of the folders that come with the program."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{_WEIGHTS}"))


def locate(weights: str | os.PathLike[str]) -> pathlib.Path:
    """The folder that `weights` means: the NAME of one that comes with the program, or a FOLDER of weights or of a RUN.

    A name goes before a folder of the same name; `./NAME` is always a folder. Only looks which files there are.

    Raises:
      InputError: there is none.
    """
    if str(weights) in names():
        return SHIPPED / str(weights)
    path = pathlib.Path(weights)
    if (path / _WEIGHTS).is_file() or has_checkpoint(path):
        return path
    there = (
        f"the folder {path} has no {_WEIGHTS} and no checkpoints"
        if path.is_dir()
        else f"there is no folder {path}"
        if not path.exists()
        else f"{path} is not a folder"
    )
    raise InputError(
        f"weights {str(weights)!r}: {there}; a folder of weights, the workdir of a run, or one of these names expected: "
        + (", ".join(names()) or "(this copy of the program has no weights of its own)")
    )


def fingerprint(weights: str | os.PathLike[str]) -> str:
    """SHA-256 that changes with the weights: of a folder's files, or of the files of a run's newest intact checkpoint.

    Raises:
      InputError: no such weights.
    """
    folder = locate(weights)
    if (folder / _WEIGHTS).is_file():
        parts = [folder / _WEIGHTS, folder / _CONFIG]
    else:
        step, _ = newest_intact(folder)
        parts = sorted(path for path in (folder / "checkpoints" / str(step)).rglob("*") if path.is_file())
    hashes = hashlib.sha256()
    for part in parts:
        hashes.update(f"{part.relative_to(folder)}\n{sha256(part) if part.is_file() else ''}\n".encode())
    return hashes.hexdigest()


def load(weights: str | os.PathLike[str]) -> Released:
    """The model and its parameters: of the NAME or FOLDER of weights, or of the newest checkpoint of a RUN.

    A run gives the parameters that it evaluates: the moving average where there is one.

    Raises:
      InputError: no such weights; a config of no model; or parameters that do not fit the model or are not finite.
    """
    folder = locate(weights)
    if not (folder / _WEIGHTS).is_file():
        fields, params, _ = _read_run(folder)
        return Released(_checked_model(folder, fields, params), params, folder.absolute().name)
    fields = _read_config(folder / _CONFIG)
    flat = read_safetensors(folder / _WEIGHTS)[1]
    params = traverse_util.unflatten_dict({k: v.astype(np.float32) for k, v in flat.items()}, sep=".")
    # Finding out the shapes takes a second or two; those of shipped weights are known to fit, from the tests.
    check = folder.parent != SHIPPED
    return Released(_checked_model(folder, fields, params, check), params, folder.absolute().name)


def pack(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    card: str | os.PathLike[str],
    *,
    license: str | os.PathLike[str] = "",
    raw: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes the weights of a run's newest checkpoint to `folder`, complete or not at all.

    Args:
      run: workdir of a run that trains a super-resolution model.
      folder: to write.
      card: text file that says what the weights are.
      license: text file; empty for the licence of the program.
      raw: whether to take the parameters themselves, not their moving average.
      overwrite: whether to replace such a folder.

    Raises:
      InputError: no such run or file, weights that float16 cannot hold, or a folder that exists or cannot be written.
    """
    with only_writer(beside(pathlib.Path(folder)), f"--out={folder}"):
        _pack(pathlib.Path(run), pathlib.Path(folder), card, license, raw, overwrite)


def _pack(
    run: pathlib.Path,
    folder: pathlib.Path,
    card: str | os.PathLike[str],
    license: str | os.PathLike[str],
    raw: bool,
    overwrite: bool,
) -> None:
    _put_back(folder)
    _check_free(folder, overwrite)
    texts = {_CARD: _read_text(pathlib.Path(card)), _LICENSE: _read_text(pathlib.Path(license)) if license else ""}
    texts[_LICENSE] = texts[_LICENSE] or _license_of_the_program()
    fields, params, step = _read_run(run, raw)
    fields = {name: value for name, value in fields.items() if name not in _COMPUTATION}
    texts[_CONFIG] = json.dumps({"model": fields}, indent=2) + "\n"
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep=".")
    with np.errstate(over="ignore"):  # what overflows is found below
        halves = {path: np.asarray(value).astype(np.float16) for path, value in flat.items()}
    _checked_model(run, fields, traverse_util.unflatten_dict(halves, sep="."))
    averaged = "no" if raw else "where there is one"
    content = {_WEIGHTS: safetensors.numpy.save(halves, {"step": str(step), "moving average": averaged})}
    _write(folder, content | {name: text.encode() for name, text in texts.items()})
    count, size = sum(value.size for value in halves.values()), len(content[_WEIGHTS])
    print(f"{folder}: {fields['name']} of step {step}, {count:,} parameters as float16, {size / 1e6:.2f} MB")


def _read_run(run: pathlib.Path, raw: bool = False) -> tuple[dict[str, Any], Mapping[str, Any], int]:
    """Fields of the model, parameters and step of the newest intact checkpoint."""
    from rrsr_jax.workdir.checkpoints import Checkpoints  # Orbax and Grain, which nothing else here needs

    about = description(run)
    if about["stage"] not in _STAGES:
        raise InputError(
            f"{run}: a run of stage {' or '.join(_STAGES)} expected, got one of stage {about['stage']}, "
            "which trains no super-resolution model"
        )
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        state = checkpoints.read_state()
    params = jax.tree.map(np.asarray, state.generator if raw else eval_params(state))
    return about["config"]["model"], params, about["step"]


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """The fields of the model."""
    try:
        config = json.loads(_read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: JSON expected ({error}); get the folder again") from error
    if not isinstance(config, dict) or set(config) != {"model"} or not isinstance(config["model"], dict):
        raise InputError(f'{path}: {{"model": {{field: value, ...}}}} expected, and nothing else')
    return config["model"]


def _checked_model(
    source: pathlib.Path, fields: Mapping[str, Any], params: Mapping[str, Any], shapes: bool = True
) -> nn.Module:
    """The model with these fields, if the parameters are finite and, unless `shapes` is False, have the model's shapes."""
    where = f"{source}, model"
    if fields.get("name") not in MODELS:
        raise InputError(f"{where}.name: one of {', '.join(MODELS)} expected, got {fields.get('name')!r}")
    for name, value in fields.items():
        rule = config_checks.MODELS[fields["name"]].get(name)
        if rule is not None and not rule.holds(value):
            raise InputError(f"{where}.{name}: {rule.expected} expected, got {json.dumps(value)}")
    try:
        model = build(
            ConfigDict({name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    arrays = dict[str, Any](traverse_util.flatten_dict(params, sep="/"))
    broken = [path for path, value in arrays.items() if not np.isfinite(value).all()]
    if broken:
        largest = np.finfo(arrays[broken[0]].dtype).max
        raise InputError(
            f"{source}: finite parameters expected (at most {largest:.4g}), but these are not: {', '.join(broken)}; "
            "take another checkpoint, or get the folder again"
        )
    if shapes:
        expected = _shapes_of(model, where)
        check_shapes(f"the parameters of {source} and their model", expected, {k: v.shape for k, v in arrays.items()})
    return model


def _shapes_of(model: nn.Module, where: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by path; nothing is computed."""
    lr, ref = jax.ShapeDtypeStruct((1, 3, 3, 3), jnp.float32), jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
    try:
        params = jax.eval_shape(lambda lr, ref: model.init(jax.random.key(0), lr, ref)["params"], lr, ref)
    except Exception as error:  # whatever numbers that make no network lead to
        raise InputError(f"{where}: these fields make no model ({type(error).__name__}: {error})") from error
    leaves = dict[str, Any](traverse_util.flatten_dict(params, sep="/"))
    return {path: leaf.shape for path, leaf in leaves.items()}


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: a readable text file expected ({error})") from error


def _license_of_the_program() -> str:
    file = pathlib.Path(__file__).parents[2] / _LICENSE  # of a checkout
    if file.is_file():
        return file.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("rrsr_jax").read_text(f"licenses/{_LICENSE}")
    if text is None:
        raise InputError("the program's own licence is not installed with it; name a text file with --license=FILE")
    return text


def _check_free(folder: pathlib.Path, overwrite: bool) -> None:
    """Raises InputError unless `folder` can be made, or is an earlier one that may be replaced."""
    if not os.path.lexists(folder):
        return
    there = os.listdir(folder) if folder.is_dir() else None
    if there is None or set(there) - set(FILES):
        raise InputError(f"--out={folder}: a new folder or an earlier one of weights expected; it holds something else")
    if there and not overwrite:
        raise InputError(f"--out={folder} holds weights; --overwrite replaces them")


def _aside(folder: pathlib.Path) -> pathlib.Path:
    """Where the folder is while it is replaced."""
    return folder.with_name(f".{folder.name}.old")


def _put_back(folder: pathlib.Path) -> None:
    """Undoes the half of a replacement that failed, or whose process was killed."""
    with contextlib.suppress(OSError):
        if not os.path.lexists(folder):
            os.rename(_aside(folder), folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _write(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Writes the folder with exactly these files."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch(folder) as new:
            for name, content in files.items():
                with (new / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if folder.is_dir():
                os.rename(folder, _aside(folder))
            os.rename(new, folder)
            shutil.rmtree(_aside(folder), ignore_errors=True)
    except OSError as error:
        _put_back(folder)
        raise InputError(f"cannot write {folder}: {error}") from error
