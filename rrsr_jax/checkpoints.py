"""A run's folder: which config it belongs to, and its checkpoints (Orbax), state and data iterator together."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.step import TrainState

# What may differ between a run and its continuation: nothing that changes an update already made.
_FREE = ("steps", "log_every", "image_every", "checkpoint_every", "keep_checkpoints", "weights", "init_from", "eval")
_FREE_DATA = ("dir", "threads", "prefetch", "skip_damaged")
SAME_RESULT = ("deform_conv", "match_tile", "remat")  # fields of a model: where and when it computes, not what
_FREE_MODEL = (*SAME_RESULT, "dtype", "match_coarse", "match_dtype")  # how exactly; parameters are the same


def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the folder this config's.

    Raises:
      InputError: not writable, or it holds another config's run; names every difference.
    """
    path = workdir / "config.json"
    check_same_run(path, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write_atomically(path, json.dumps(json.loads(config.to_json()), indent=2))
    except OSError as error:
        raise InputError(f"--workdir={workdir}: a writable folder expected ({error})") from error


def check_same_run(path: pathlib.Path, config: ConfigDict) -> None:
    """Raises InputError unless the run that wrote the config at `path`, if any, can go on under `config`."""
    try:
        there = _flatten(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a readable config ({error}); choose another --workdir") from error
    here = _flatten(json.loads(config.to_json()))
    free = {*_FREE, *(f"data.{name}" for name in _FREE_DATA), *(f"model.{name}" for name in _FREE_MODEL)}
    names = [n for n in sorted({*there, *here}) if not any(n == f or n.startswith(f + ".") for f in free)]
    differences = [f"{n}: {there.get(n)} there, {here.get(n)} here" for n in names if there.get(n) != here.get(n)]
    if differences:
        raise InputError(
            f"--workdir={path.parent} holds another config's run; choose another folder or its config:\n  "
            + "\n  ".join(differences)
        )


def stage_of(workdir: pathlib.Path) -> str:
    """The stage of the run in `workdir`: teacher, student, rec or gan."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text()).get("stage", "rec")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: the config of a run expected ({error})") from error


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether the folder holds a finished checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


class Checkpoints:
    """The checkpoints of one run; `keep` of them to write some, None to read only."""

    def __init__(self, workdir: pathlib.Path, keep: int | None = None):
        if keep is None and not has_checkpoint(workdir):
            raise InputError(f"no checkpoint in {workdir}/checkpoints; the folder of a run expected that has saved one")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, read_only=keep is None, create=keep is not None)
        handlers = dict(state=ocp.StandardCheckpointHandler(), data=grain.checkpoint.CheckpointHandler())
        self._manager = ocp.CheckpointManager(
            workdir.absolute() / "checkpoints", item_handlers=handlers, options=options
        )

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, batches: grain.DatasetIterator) -> None:
        """Saves in the background, unless this step is saved already."""
        step = int(state.step)
        if step != self.latest():
            parts = dict(state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(batches))
            self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: TrainState, batches: grain.DatasetIterator | None = None) -> TrainState:
        """The newest state, placed like `like`; sets `batches`, where given, to go on from there.

        Raises:
          InputError: a checkpoint of another model; lists every difference.
        """
        step = self.latest()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        saved = self._manager.item_metadata(step)["state"].tree
        what = f"the arrays of checkpoint {step} in {self._manager.directory}"
        check_shapes(what, _shapes(ocp.tree.serialize_tree(abstract)), _shapes(saved))
        parts = dict(state=ocp.args.StandardRestore(abstract))
        if batches is not None:
            parts["data"] = grain.checkpoint.CheckpointRestore(batches)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**parts))["state"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"checkpoint {self._manager.directory}/{step} cannot be read (was it written by as many processes?); "
                f"remove that folder to go on from the one before. {error}"
            ) from error

    def params(self) -> Mapping:
        """The newest checkpoint's parameters as NumPy arrays, of whatever model (for `init_from`)."""
        step = self.latest()
        saved = self._manager.item_metadata(step)["state"].tree
        abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), saved)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"][
            "params"
        ]

    def close(self) -> None:
        """Waits for saves in progress."""
        self._manager.close()


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _shapes(tree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
