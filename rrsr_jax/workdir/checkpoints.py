"""A run's folder: which config it belongs to, and its checkpoints (Orbax).

A checkpoint is a folder with the items `state` and `description`, and their checksums. It is written under a temporary name, and
renamed to its step when it is complete. The step is also the position in the training data, however many processes share it.
"""

import contextlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

import rrsr_jax
from rrsr_jax import processes
from rrsr_jax.console import log
from rrsr_jax.errors import FULL_DISK, InputError, check_shapes
from rrsr_jax.workdir import saved_config
from rrsr_jax.workdir.files import inside, write_atomically
from rrsr_jax.workdir.integrity import description, has_checkpoint, newest_intact, write_checksums
from rrsr_jax.workdir.state import TrainState

# What may differ between a run and its continuation: nothing that changes an update already made.
_FREE_RUN = ("steps", "accumulate", "log_every", "image_every", "checkpoint_every", "keep_checkpoints", "profile_steps")
_FREE = (*_FREE_RUN, "weights", "init_from", "eval")
_FREE_DATA = ("dir", "threads", "prefetch", "skip_damaged")
SAME_RESULT = ("deform_conv", "match_tile", "remat")  # fields of a model: where and when it computes, not what
_FREE_MODEL = (
    *SAME_RESULT,
    "dtype",
    "match_coarse",
    "match_dtype",
    "match_subpixel",
    "pre_offsets",
)  # how exactly; parameters are the same

_UNFINISHED = ".orbax-checkpoint-tmp*"  # after the step, in the name of a folder that is being written


def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config to the run's folder, which it makes if necessary; process 0 does it.

    Raises:
      InputError: the folder is not writable, or holds a run of another config; names every difference.
    """
    path = workdir / "config.json"
    check_same_run(path, config)
    if not processes.is_first():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(json.loads(config.to_json()), indent=2))
    except OSError as error:
        raise InputError(f"--workdir={workdir}: a writable folder expected ({error})") from error


def check_same_run(path: pathlib.Path, config: ConfigDict) -> None:
    """Raises InputError if the run that wrote the config at `path` cannot continue with `config`; no file is no run.

    Of several processes, the first one looks: on a shared disk another one may not see yet what it has written.
    """
    if not processes.is_first():
        return
    try:
        there = _flat(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable config ({error}); choose another --workdir") from error
    here = _flat(json.loads(config.to_json()))
    free = {*_FREE, *(f"data.{name}" for name in _FREE_DATA), *(f"model.{name}" for name in _FREE_MODEL)}
    names = [n for n in sorted({*there, *here}) if not any(n == f or n.startswith(f + ".") for f in free)]
    nothing = "no such field"  # as with another model
    values = [(name, there.get(name, nothing), here.get(name, nothing)) for name in names]
    differences = [f"{name}: {old} there, {new} here" for name, old, new in values if old != new]
    if differences:
        raise InputError(
            f"--workdir={path.parent} holds another config's run; choose another folder or its config:\n  "
            + "\n  ".join(differences)
        )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The values of a config by their full names, with those that an earlier version did not have."""
    tuples_as_lists = json.loads(json.dumps(saved_config.completed(config)))
    return traverse_util.flatten_dict(tuples_as_lists, sep=".")


class Checkpoints:
    """The checkpoints of one run. The newest intact one is used; newer ones that are damaged are reported.

    Args:
      workdir: the run's folder.
      config: of a run that continues and saves, keeping `keep_checkpoints`; damaged checkpoints are renamed to make room.
        None to read only, which changes nothing on disk.
      data: of such a run, the identity of its data set, see `pipeline.TrainingData`.

    Raises:
      InputError: nothing to read, nothing intact, or to read only: nothing trained, at step 0; a run on another data set, or a
        link that leads out of the workdir.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict | None = None, data: Mapping[str, Any] | None = None):
        self._config, self._data, self._folder = config, data, workdir.absolute() / "checkpoints"
        self._failed: list[BaseException] = []  # in saving
        if config is not None:
            inside(workdir, "checkpoints")
        self._latest, self._saving = _choose(workdir, config is not None, data), None
        if config is None and self._latest == 0:
            raise InputError(
                f"{workdir}: a trained network expected, this run was stopped before its first step; give its command again"
            )
        handlers = dict(state=_state_handler(self._failed), description=ocp.JsonCheckpointHandler())
        options = dict(read_only=True, create=False)
        if config is not None:
            if jax.process_index() == 0:
                for interrupted in self._folder.glob(f"*{_UNFINISHED}"):
                    shutil.rmtree(interrupted, ignore_errors=True)  # a file that stays there does no harm
            finish = ocp.AsyncOptions(post_finalization_callback=self._write_checksums)
            options = dict(max_to_keep=config.keep_checkpoints, async_options=finish)
        with _without_warnings():  # that a folder is only read
            self._manager = ocp.CheckpointManager(
                self._folder, item_handlers=handlers, options=ocp.CheckpointManagerOptions(**options)
            )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; one that is being saved does not count."""
        return self._latest

    def save(self, state: TrainState) -> None:
        """Saves in the background, unless this step is saved already.

        Raises:
          InputError: the disk is full or broken, now or during the save before.
        """
        self.wait()
        step = int(state.step)
        if step == self._latest:
            return
        parts = dict(
            state=ocp.args.StandardSave(state),
            description=ocp.args.JsonSave(_describe(self._config, step) | {"data": self._data}),
        )
        self._saving = step
        try:
            with self._disk_errors():
                self._manager.save(step, args=ocp.args.Composite(**parts))
        except BaseException as error:
            self._saving = None
            self._failed.append(error)
            raise

    def check(self) -> None:
        """Raises InputError if the save in the background has failed; takes no time."""
        if self._saving is not None and (self._failed or not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Waits for the save in the background; raises InputError if it failed."""
        if self._saving is not None:
            with self._disk_errors():
                # Of several processes, Orbax tells one that writing has failed only after all the others have written.
                while processes.count() > 1 and self._manager.is_saving_in_progress():
                    if self._failed:
                        raise self._failed[0]
                    time.sleep(0.01)
                self._manager.wait_until_finished()
            self._latest, self._saving = self._saving, None

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, placed like `like`, on however many devices and processes.

        Raises:
          InputError: a checkpoint of another model; lists every difference.
        """
        step = self._latest
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        what = f"the arrays of checkpoint {step} in {self._folder}"
        with self._unreadable():
            saved = _shapes(self._manager.item_metadata(step)["state"].tree)
        check_shapes(what, _shapes(ocp.tree.serialize_tree(abstract)), saved)
        with self._unreadable():
            parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return self._manager.restore(step, args=parts)["state"]

    def read_state(self) -> TrainState:
        """The newest state as NumPy arrays, of whatever model."""
        with self._unreadable():
            saved = self._manager.item_metadata(self._latest)["state"].tree
            abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), saved)
            parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return TrainState(**self._manager.restore(self._latest, args=parts)["state"])

    def close(self) -> None:
        """Waits for a save in progress; raises InputError if it failed."""
        try:
            self.wait()
        finally:
            if processes.count() == 1 or not self._failed:  # else the manager would wait for the others
                with contextlib.suppress(OSError, ValueError):  # the manager repeats what has been said
                    self._manager.close()

    def _write_checksums(self) -> None:
        """Orbax calls this when all items are written, before the folder gets its final name."""
        try:
            (folder,) = self._folder.glob(f"{self._saving}{_UNFINISHED}")
            write_checksums(folder)
        except BaseException as error:
            self._failed.append(error)
            raise

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turns what the operating system refuses while saving into an InputError."""
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore raises a ValueError with the number in its text.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            code = int(code[1]) if code else getattr(error, "errno", None)
            if code is None:
                raise
            step, self._saving = self._saving, None
            left = "there is none before it" if self._latest is None else f"the last good one is {self._latest}"
            remedy = "free space" if code in FULL_DISK else "mend that"
            raise InputError(
                f"cannot save checkpoint {step} to {self._folder}: {os.strerror(code)}; {left}; "
                f"{remedy} and give the same command again"
            ) from error

    @contextlib.contextmanager
    def _unreadable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises what it likes
            raise InputError(
                f"checkpoint {self._folder}/{self._latest} is as it was written, but cannot be read ({error}); its description "
                "tells the versions of the libraries that wrote it"
            ) from error


def _state_handler(failed: list[BaseException]) -> ocp.StandardCheckpointHandler:
    """Writes a state, and adds to `failed` why it could not be written in the background."""
    handler = ocp.StandardCheckpointHandler()  # Orbax knows its arguments by this very class
    start = handler.async_save

    async def async_save(*args: Any, **kwargs: Any) -> list[Any] | None:
        written = await start(*args, **kwargs)
        return written and [_Watched(future, failed) for future in written]

    handler.async_save = async_save
    return handler


class _Watched:
    """A future of Orbax that tells why it failed."""

    def __init__(self, future: Any, failed: list[BaseException]):
        self._future, self._failed = future, failed

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._future.result(timeout)
        except BaseException as error:
            self._failed.append(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """While active, Orbax prints errors only."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _choose(workdir: pathlib.Path, saves: bool, data: Mapping[str, Any] | None) -> int | None:
    """Step of the checkpoint to continue from, chosen by the first process; None if a run that saves has none yet.

    It reports damaged ones, and renames them if the run saves. It checks that the data is the same.
    """
    step = None
    if processes.is_first() and (has_checkpoint(workdir) or not saves):
        step, damaged = newest_intact(workdir)
        for other, why in damaged.items():
            folder = workdir / "checkpoints" / str(other)
            kept = folder.rename(_free_name(folder)) if saves else folder
            log(f"checkpoint {other} is damaged ({why}); it stays in {kept}, checkpoint {step} takes its place")
        if data is not None:
            _check_same_data(workdir, step, data)
    return processes.of_first(step)


def _check_same_data(workdir: pathlib.Path, step: int, here: Mapping[str, Any]) -> None:
    """Raises InputError if checkpoint `step` is of a run on another data set; one of an older version does not say which."""
    there = description(workdir, step).get("data")
    if there and there != here:
        number, fingerprint = (there.get(name) for name in ("examples", "fingerprint"))
        raise InputError(
            f"--workdir={workdir}: its run was trained on another data set named {here['name']}: {number} examples with "
            f"fingerprint {fingerprint} there, {here['examples']} with {here['fingerprint']} here. To go on, put that data set "
            "back, or name its folder: --config.data.dir. To train on this one, start in a new --workdir"
        )


def _free_name(folder: pathlib.Path) -> pathlib.Path:
    names = (folder.with_name(f"{folder.name}.damaged{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _describe(config: ConfigDict, step: int) -> dict[str, Any]:
    """See `integrity.description`."""
    versions = {"rrsr_jax": rrsr_jax.__version__, "python": platform.python_version()}
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions |= {package: importlib.metadata.version(package) for package in packages}
    return {"config": json.loads(config.to_json()), "stage": config.stage, "step": step, "versions": versions}


def _shapes(tree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
