"""Config files: their rows, and how to read one as the command line of `rrsr_jax.main` does.

A config file defines `get_config()`. One that describes several runs defines `ROWS`, a mapping whose keys are the names of the
rows, and `get_config(row)`. On a command line a row follows its file after a colon: `configs/table2.py:masa_rtrr`.
"""

import contextlib
import difflib
import glob
import inspect
import pathlib
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rrsr_jax.errors import InputError


def load(config: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config `FILE` or `FILE:ROW` with `field=value` overrides, locked.

    Raises:
      InputError: no such file or row, or an override that does not fit.
    """
    check(config)
    argv = ["", f"--config={config}", *(f"--config.{override}" for override in overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        with importable_neighbours(config):
            values(argv)
    except flags.Error as error:
        raise InputError(f"{config}: {error}") from error
    return holder.value


def check(config: str) -> None:
    """Raises InputError for a file that does not exist or is not Python, or a row that it does not have, and lists the rows."""
    path, colon, row = config.partition(":")
    content = _run(path)
    if "get_config" not in content:
        raise InputError(f"--config={config}: {path} has no function get_config")
    if "ROWS" in content and row not in content["ROWS"]:
        got = f"got {row!r}" if colon else f"got none; write --config={path}:ROW"
        raise InputError(f"--config={config}: one of the rows {', '.join(content['ROWS'])} expected, {got}")
    if colon and not inspect.signature(content["get_config"]).parameters:
        raise InputError(f"--config={config}: {path} has no rows; write --config={path}")


def expand(pattern: str) -> list[str]:
    """Each config that `FILE` or `FILE:ROW` names: FILE may have wildcards; without ROW, all rows of a file that has rows.

    Raises:
      InputError: no such file or row.
    """
    pattern, colon, row = pattern.partition(":")
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise InputError(f"--configs: no file {pattern}")
    configs = []
    for path in paths:
        rows = [row] if colon else list(_run(path).get("ROWS", ()))
        configs += [f"{path}:{row}" for row in rows] or [path]
    return configs


def name(config: str) -> str:
    """The row, or the file's name without folder and ending where it has no rows."""
    path, _, row = config.partition(":")
    return row or pathlib.Path(path).stem


def fields(config: ConfigDict, prefix: str = "") -> set[str]:
    """Names of all fields, with dots."""
    names = set()
    for key, value in config.items():
        names |= {prefix + key} | (fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else set())
    return names


def check_overrides(overrides: Sequence[str], known: Mapping[str, set[str]]) -> None:
    """Raises InputError for a field that no config has, and prints a note about one that only some have.

    Args:
      overrides: `field=value`.
      known: the fields of each config.
    """
    everywhere = set().union(*known.values())
    for override in overrides:
        field, given, _ = override.partition("=")
        if not given:
            raise InputError(f"--set: field=value expected, got {override!r}")
        if field not in everywhere:
            near = difflib.get_close_matches(field, everywhere, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--set {override}: none of the configs has a field {field}{hint}")
        if without := [name(config) for config in known if field not in known[config]]:
            print(f"note: --set {override} has no effect on {', '.join(without)}", file=sys.stderr)


@contextlib.contextmanager
def importable_neighbours(config: str) -> Iterator[None]:
    """While active, a file in a folder `configs` can import its neighbours, `from configs import cufed5`, wherever that folder
    is; other files see the usual import path.
    """
    folder = pathlib.Path(config.partition(":")[0]).resolve().parent
    before = list(sys.path)
    if folder.name == "configs":
        sys.path.insert(0, str(folder.parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _run(path: str) -> dict[str, Any]:
    """What the file defines."""
    if not pathlib.Path(path).is_file():
        raise InputError(f"--config: no file {path}")
    try:
        with importable_neighbours(path):
            return runpy.run_path(path)
    except SyntaxError as error:
        raise InputError(f"{path}: {error}") from error
