"""The scores of one test set, image by image, on disk: what an interrupted evaluation goes on from."""

import contextlib
import csv
import io
import json
import pathlib
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax

from rrsr_jax import processes
from rrsr_jax.console import log
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.results import asides, move_aside
from rrsr_jax.workdir.files import inside, write_atomically


class Rows:
    """The scores of one test set in `images.csv`, appended row by row, so that an interrupted evaluation can continue."""

    def __init__(self, out: pathlib.Path, identity: Mapping[str, Any], metrics: tuple[str, ...]):
        """Reads the rows of the same identity; what `out` has of another is kept elsewhere, see `make_room`."""
        self._metrics = metrics
        self._out, self._rows, self._writing = out, {}, threading.Lock()
        if processes.is_first():
            self._path = out / "images.csv"
            self._rows = self._open(json.loads(json.dumps(identity)))  # tuples become lists
        rows = processes.of_first([[*key, row] for key, row in self._rows.items()])
        self._rows = {(name, reference): row for name, reference, row in rows}
        if not processes.is_first():
            out.mkdir(parents=True, exist_ok=True)  # a shared disk may not show it yet
            self._path = out / f"images.process_{jax.process_index()}.csv"
            write_atomically(self._path, _text({}, self._metrics))

    def _open(self, identity: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
        """Makes the folder that of this evaluation, and returns the rows whose pictures are there."""
        rows = {}
        make_room(self._out, identity)
        if _identity_in(self._out) == identity:
            for path in (self._path, *self._others()):
                rows |= _read_rows(path, self._metrics)
            rows = {key: row for key, row in rows.items() if _picture(self._out, *key)}
        self._out.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, _text(rows, self._metrics))
        write_atomically(self._out / "identity.json", json.dumps(identity))
        for path in self._others():
            path.unlink()
        return rows

    def _others(self) -> list[pathlib.Path]:
        return sorted(self._out.glob("images.process_*.csv"))

    def __enter__(self) -> Self:
        self._file = self._path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._rows

    def add(self, name: str, reference: str, values: Mapping[str, float]) -> dict[str, float]:
        """Appends a row, and returns it."""
        row = {metric: float(values[metric]) for metric in self._metrics}
        with self._writing:
            csv.writer(self._file, lineterminator="\n").writerow((name, reference, *map(repr, row.values())))
            self._file.flush()
        return row

    def complete(self, names: Sequence[str], references: Sequence[str], found: Sequence[Mapping[str, Any]]) -> None:
        """Takes the new rows of all processes, by image; the first process writes all rows in order to `images.csv`."""
        new = {(name, r): row for name, rows in zip(names, found, strict=True) for r, row in rows.items()}
        known = self._rows | new
        self._rows = {(name, r): known[name, r] for name in names for r in references if (name, r) in known}
        if processes.is_first():
            write_atomically(self._path, _text(self._rows, self._metrics))
            for path in self._others():
                path.unlink()

    def of(self, reference: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The scores with one reference, by name."""
        return {name: self._rows[name, reference] for name in names if (name, reference) in self._rows}


def make_room(out: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Makes `out` the folder of one evaluation, and keeps what another one has left there.

    The folder of another evaluation is moved aside, see `results.move_aside`. One that was moved aside before and has this
    identity comes back. Of an earlier step of the same run, only the scores are kept, as `images.step_N.csv`: pictures of every
    evaluation during training would fill the disk.

    Args:
      out: the folder.
      identity: JSON values.
    """
    there = _identity_in(out)
    if there == identity or not out.is_dir() or not any(out.iterdir()):
        return
    if there and _is_earlier_step(there, identity):
        log(
            f"note: pictures of step {identity['step']} replace those of step {there['step']} in {out}; its scores are kept"
        )
        (out / "images.csv").rename(out / f"images.step_{there['step']}.csv")
        for path in out.iterdir():
            if not path.match("images.step_*.csv"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    again = next((folder for folder in asides(out) if _identity_in(folder) == identity), None)
    move_aside(out)
    if again:
        again.rename(out)
        log(f"note: {again}, of the same evaluation as this one, is {out} again")


def _is_earlier_step(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether one identity is that of another at an earlier step of the run."""
    before, now = there.get("step"), here.get("step")
    moved = {name: here[name] for name in ("step", "parameters") if name in here}
    return isinstance(before, int) and isinstance(now, int) and before < now and {**there, **moved} == here


def _identity_in(folder: pathlib.Path) -> dict[str, Any] | None:
    """The identity of the evaluation whose folder it is; None for a folder that no evaluation can go on with."""
    with contextlib.suppress(OSError, ValueError), (folder / "images.csv").open():
        return json.loads((folder / "identity.json").read_text())
    return None


def _text(rows: Mapping[tuple[str, str], Mapping[str, float]], metrics: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "reference", *metrics))
    writer.writerows((*key, *map(repr, values.values())) for key, values in rows.items())
    return text.getvalue()


def _read_rows(path: pathlib.Path, metrics: tuple[str, ...]) -> dict[tuple[str, str], dict[str, float]]:
    rows = {}
    complete, _, _ = path.read_text().rpartition("\n")  # the last row may be cut off
    for row in csv.DictReader(io.StringIO(complete, newline="")):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a damaged row is computed again
            rows[row["name"], row["reference"]] = {metric: float(row[metric]) for metric in metrics}
    return rows


def _picture(out: pathlib.Path, name: str, reference: str) -> bool:
    """Whether the result is there whose scores a row has."""
    with contextlib.suppress(InputError):  # no name that an evaluation has written
        return inside(out, reference, f"{name}.png").exists()
    return False
