"""Prepares a dataset from a folder of images.

python -m rrsr_jax.data.prepare --dataset=NAME --source=DIR [--data_dir=data] [--count=N] [--skip_bad]
    [--smallest=N] [--tile=N]

NAME is one of cufed, cufed5, sun80, urban100, manga109, wr_sr, ref_pairs, photos. Where you have several of a kind, add a
name of your own after a slash (ref_pairs/holiday). Every image is checked. The result is the complete dataset, or nothing.
"""

import argparse
import collections
import contextlib
import fcntl
import io
import os
import pathlib
import shutil
import types
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import tensorflow_datasets as tfds
import tqdm
from absl import logging

from rrsr_jax.console import exit_on_error
from rrsr_jax.data import datasets
from rrsr_jax.errors import InputError


class Preparation(NamedTuple):
    """What a preparation did.

    Attributes:
      folder: where the dataset is.
      examples, images: how many are in it.
      changes: number of conversions of each kind.
      refused: what was left out, and why.
      new: False if the dataset was prepared before.
    """

    folder: pathlib.Path
    examples: int
    images: int = 0
    changes: Mapping[str, int] = types.MappingProxyType({})
    refused: tuple[str, ...] = ()
    new: bool = True


def prepare(
    name: str,
    source: str,
    data_dir: str,
    *,
    count: int | None = None,
    skip_bad: bool = False,
    smallest: int = datasets.SMALLEST,
    tile: int = 0,
) -> Preparation:
    """Makes the dataset `name` in `data_dir` from the images in `source`; does nothing if it exists.

    Args:
      name: see `datasets.builder_class`.
      source: a folder with the dataset's `LAYOUT`.
      data_dir: folder of all prepared datasets.
      count: examples expected, instead of the published number.
      skip_bad: leave out what is damaged or unpaired; an error otherwise.
      smallest, tile: see `ImageFolders.encode`.

    Raises:
      InputError: names every file that cannot be used, and why; or the disk is full. Nothing is left behind then.
    """
    cls, variant = datasets.builder_class(name)
    if (count is not None and count < 1) or smallest < datasets.SMALLEST or (tile and tile < smallest):
        raise InputError(
            f"count of at least 1, smallest of at least {datasets.SMALLEST}, tile of at least smallest expected, got "
            f"{count}, {smallest} and {tile}"
        )
    if tile and cls.REFERENCES != 0:
        raise InputError(f"tile: only for images without references, which {name} has")
    folder = pathlib.Path(data_dir, name, str(cls.VERSION))
    with _staging(pathlib.Path(data_dir), name) as staging:
        if folder.is_dir():
            try:
                return Preparation(folder, len(datasets.Prepared(name, data_dir)), new=False)
            except InputError as error:
                raise InputError(f"{folder} is there but cannot be read; remove it and try again") from error
        files, problems = _list(cls, pathlib.Path(source), count)
        changes, images, names = collections.Counter(), 0, set()

        def examples() -> Iterator[dict]:
            nonlocal images
            for item in tqdm.tqdm(files, desc=f"preparing {name}", unit="example", dynamic_ncols=True):
                try:
                    pieces, notes = cls.encode(item, smallest, tile)
                    if taken := names.intersection(piece["name"] for piece in pieces):
                        raise InputError(f"{item.hr}: another image has the name {taken.pop()} already; rename it")
                except InputError as error:
                    problems.append(str(error))
                    continue
                names.update(piece["name"] for piece in pieces)
                changes.update(notes)
                images += 1 + len(item.refs)
                yield from pieces
            if problems and not skip_bad:
                raise InputError(
                    f"{len(problems)} problem(s) in {source}; mend them, or leave them out with --skip_bad:\n{_lines(problems)}"
                )
            if not images:
                raise InputError(f"no usable example in {source}; expected: {cls.LAYOUT}\n{_lines(problems)}")

        try:
            tfds.disable_progress_bar()  # there is one above
            builder = cls(str(staging), variant, examples())
            with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
                builder.download_and_prepare(download_dir=str(staging / "downloads"))
            number = _read_back(name, staging)
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.rename(staging / folder.relative_to(data_dir), folder)
        except (OSError, RuntimeError) as error:  # the record writer's errors are RuntimeErrors
            raise InputError(f"cannot write to {data_dir}: {error}") from error
    return Preparation(folder, number, images, dict(changes), tuple(problems))


def _read_back(name: str, data_dir: pathlib.Path) -> int:
    """Reads every example, and returns their number. A full disk may only show here."""
    try:
        return sum(1 for _ in datasets.Prepared(name, str(data_dir)))
    except InputError as error:
        raise InputError(f"what was written cannot be read back (is the disk full?): {error}") from error


def report(name: str, outcome: Preparation) -> str:
    """What a preparation did, as text."""
    if not outcome.new:
        return (
            f"{name} is prepared already: {outcome.examples:,} examples in {outcome.folder} (remove it to start anew)"
        )
    lines = [f"{name}: {outcome.examples:,} examples with {outcome.images:,} images, all checked, in {outcome.folder}"]
    lines += [f"  {number:,} x {change}" for change, number in outcome.changes.items()]
    if outcome.refused:
        lines += [f"left out ({len(outcome.refused)}):", _lines(outcome.refused)]
    return "\n".join(lines)


def _list(cls, source: pathlib.Path, count: int | None) -> tuple[list[datasets.Files], list[str]]:
    """The examples in `source`; InputError unless there are as many as expected."""
    expected = count or cls.COUNT
    wanted = f"expected in --source={source}: {cls.LAYOUT}"
    try:
        files, problems = cls.list_files(source)
    except InputError as error:
        raise InputError(f"{error}; {wanted}. Nothing is downloaded: point --source to your copy") from error
    if expected and len(files) != expected:
        found = (
            f"{len(files):,} complete examples found, {expected:,} expected (--count={len(files)} takes what is there)"
        )
        raise InputError("\n".join([f"{found}; {wanted}", *([_lines(problems)] if problems else [])]))
    return files, problems


@contextlib.contextmanager
def _staging(data_dir: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """A folder to work in, on the disk of `data_dir`. It is removed at the end, or by the next call if this process is killed."""
    folder = data_dir / ".preparing" / name.replace("/", "-")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--data_dir={data_dir}: a writable folder expected ({error})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{name} is being prepared in {data_dir} by another process; wait for it") from error
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lines(problems) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def main(arguments: list[str] | None = None) -> None:
    """Prepares a dataset and says what was done; bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--source", required=True, metavar="DIR", help="folder with the images")
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of prepared datasets (default: data)")
    parser.add_argument("--count", type=int, metavar="N", help="examples expected, instead of the published number")
    parser.add_argument("--skip_bad", action="store_true", help="leave out what is damaged or unpaired, and say what")
    parser.add_argument(
        "--smallest", type=int, default=datasets.SMALLEST, metavar="N", help="height and width that images must have"
    )
    parser.add_argument("--tile", type=int, default=0, metavar="N", help="cut photographs into pieces of N x N pixels")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    with exit_on_error(interrupted="nothing is prepared"):
        outcome = prepare(
            options.dataset,
            options.source,
            options.data_dir,
            count=options.count,
            skip_bad=options.skip_bad,
            smallest=options.smallest,
            tile=options.tile,
        )
    print(report(options.dataset, outcome).encode(errors="backslashreplace").decode())


if __name__ == "__main__":
    main()
