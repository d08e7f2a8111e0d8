"""Whether a checkpoint is as it was written, and what it says of itself: plain files, without JAX, which flags are parsed before.

Orbax notices arrays that are cut off or missing, but not all that have other values; so a checkpoint has a CRC32 of every file.
"""

import functools
import json
import pathlib
import zlib
from typing import Any

from rrsr_jax.errors import InputError

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


def description(workdir: pathlib.Path) -> dict[str, Any]:
    """What the newest intact checkpoint says of itself.

    Returns:
      `config` (as JSON has it, with lists for tuples), `stage`, `step`, and `versions` of what wrote it, by name.

    Raises:
      InputError: no intact checkpoint, or one that an older version wrote, without description.
    """
    step, _ = newest_intact(workdir)
    path = workdir / "checkpoints" / str(step) / "description" / "metadata"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"checkpoint {step} in {workdir} is of an older version and does not know its config"
        ) from error


def write_checksums(folder: pathlib.Path) -> None:
    """Adds the checksums of all files in subfolders, which are a checkpoint's items."""
    checksums = {str(path.relative_to(folder)): _crc32(path) for path in folder.glob("*/**/*") if path.is_file()}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums))


def _steps(workdir: pathlib.Path) -> list[int]:
    """Newest first."""
    return sorted((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), reverse=True)


def _damage(folder: pathlib.Path) -> str:
    """What is wrong with a checkpoint, or an empty string."""
    path = folder / _CHECKSUMS
    if not path.exists() and (folder / "state").exists() and not (folder / "description").exists():
        return ""  # of a version without checksums
    try:
        for name, value in json.loads(path.read_text()).items():
            if _crc32(folder / name) != value:
                return f"{folder / name}: not as it was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, AttributeError) as error:
        return f"{path}: {error}"
    return ""


def _crc32(path: pathlib.Path) -> int:
    with path.open("rb") as file:
        return functools.reduce(lambda crc, block: zlib.crc32(block, crc), iter(lambda: file.read(1 << 20), b""), 0)
