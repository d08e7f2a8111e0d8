"""Writing files: whole or not at all, and nowhere but in the folder that was named."""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from rrsr_jax.errors import InputError

LONGEST = 240  # bytes of a part of a name that comes from data; file systems take 255, with the ending
_NEVER = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # in names; the last ones are what was no UTF-8


def check_name(name: str, longest: int = LONGEST) -> str:
    """Returns a name that comes from data and becomes a file name; InputError unless it is parts separated by /, none . or .."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or _NEVER.search(name):
        raise InputError(
            "a name: parts separated by /, none of them empty, . or .., without \\ and control characters, expected, "
            f"got {name!r}"
        )
    if max(len(part.encode()) for part in parts) > longest:
        raise InputError(f"a name: parts of at most {longest} bytes expected, got {name!r}; use shorter ones")
    return name


def inside(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """The path of `names`, each in the one before, in `folder`: the one place where paths are made of names that others chose.

    Raises:
      InputError: a name as `check_name` refuses it; or a link on the way that leads out of `folder`.
    """
    path = folder.joinpath(*(check_name(name, 255) for name in names))
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links
        raise InputError(f"{path}: a file or folder expected ({error})") from error
    if not real.is_relative_to(folder.resolve()):
        raise InputError(
            f"{path} leads out of {folder} to {real}, and is not written to; name the folder itself, without a link in it"
        )
    return path


@contextlib.contextmanager
def scratch(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `target` to make it in, for the holder of its lock; what a killed process left there goes."""
    folder = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: pathlib.Path, content: str | bytes | bytearray) -> None:
    """Writes the complete file or none: under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
