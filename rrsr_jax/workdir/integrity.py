"""Whether a checkpoint is intact, and which config wrote it.

Orbax notices arrays that are cut off or missing, but not every changed value. So a checkpoint holds a CRC32 of each of its
files. This module reads plain files only: it is used before flags are parsed, and so before JAX may start.
"""

import functools
import json
import pathlib
import zlib
from typing import Any

from rrsr_jax.errors import InputError
from rrsr_jax.workdir.files import inside

_CHECKSUMS = "checksums.json"


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether the folder holds a finished checkpoint."""
    return bool(_steps(workdir))


def newest_intact(workdir: pathlib.Path) -> tuple[int, dict[int, str]]:
    """Step of the newest intact checkpoint, and what is wrong with each newer one.

    Raises:
      InputError: no checkpoint, or all are damaged; lists what is wrong with them.
    """
    damaged = {}
    for step in _steps(workdir):
        why = _damage(workdir / "checkpoints" / str(step))
        if not why:
            return step, damaged
        damaged[step] = why
    if not damaged:
        raise InputError(f"no checkpoint in {workdir}/checkpoints; the folder of a run expected that has saved one")
    raise InputError(
        f"all checkpoints in {workdir}/checkpoints are damaged; put a copy of one there, or choose another folder:\n  "
        + "\n  ".join(f"{step}: {why}" for step, why in damaged.items())
    )


def description(workdir: pathlib.Path, step: int | None = None) -> dict[str, Any]:
    """The description in a checkpoint: that of `step`, which is known to be intact, or the newest intact one.

    Returns:
      `config` (as in JSON, with lists for tuples), `stage`, `step`, the `versions` of the packages that wrote it, by name, and
      `data`, the identity of the training data, see `pipeline.TrainingData`; older checkpoints do not have the last.

    Raises:
      InputError: no intact checkpoint.
    """
    if step is None:
        step, _ = newest_intact(workdir)
    path = workdir / "checkpoints" / str(step) / "description" / "metadata"
    try:
        about = json.loads(path.read_text())
        kinds = {"config": dict, "stage": str, "step": int} | ({"data": dict | None} if "data" in about else {})
        good = all(isinstance(about[name], kind) for name, kind in kinds.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: the description of a checkpoint expected ({type(error).__name__}: {error})"
        ) from error
    if not good:
        raise InputError(f"{path}: the description of a checkpoint expected, with config, stage and step")
    return about


def write_checksums(folder: pathlib.Path) -> None:
    """Adds the checksums of all files in subfolders, which are a checkpoint's items."""
    checksums = {str(path.relative_to(folder)): _crc32(path) for path in folder.glob("*/**/*") if path.is_file()}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums))


def _steps(workdir: pathlib.Path) -> list[int]:
    """Newest first."""
    return sorted((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), reverse=True)


def _damage(folder: pathlib.Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    path = folder / _CHECKSUMS
    try:
        for name, value in json.loads(path.read_text()).items():
            file = inside(folder, name)
            if file.exists() and not file.is_file():  # a device would be read forever
                return f"{file}: no file"
            if _crc32(file) != value:
                return f"{file}: not as it was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, AttributeError) as error:
        return f"{path}: {error}"
    return ""


def _crc32(path: pathlib.Path) -> int:
    with path.open("rb") as file:
        return functools.reduce(lambda crc, block: zlib.crc32(block, crc), iter(lambda: file.read(1 << 20), b""), 0)
