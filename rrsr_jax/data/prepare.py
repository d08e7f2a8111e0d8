"""Prepares a dataset from a folder of images.

python -m rrsr_jax.data.prepare --dataset=NAME --source=DIR [--data_dir=data] [--count=N] [--skip_bad]
    [--smallest=N] [--tile=N]

NAME is one of cufed, cufed5, sun80, urban100, manga109, wr_sr, ref_pairs, photos. Where you have several of a kind, add a
name of your own after a slash (ref_pairs/holiday). Every image is checked. The result is the complete dataset, or nothing.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import shutil
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow_datasets as tfds
import tqdm
from absl import logging

from rrsr_jax.console import exit_on_error
from rrsr_jax.data import datasets, records
from rrsr_jax.data.folders import Listing, listed
from rrsr_jax.errors import InputError
from rrsr_jax.workdir import lock
from rrsr_jax.workdir.files import inside, write_atomically


class Preparation(NamedTuple):
    """What a preparation did.

    Attributes:
      folder: where the dataset is.
      examples, images: how many are in it.
      changes: number of conversions of each kind.
      refused: what could not be used, and why.
      left_out: what was left out on purpose, by reason.
      new: False if the dataset was prepared before.
    """

    folder: pathlib.Path
    examples: int
    images: int = 0
    changes: Mapping[str, int] = types.MappingProxyType({})
    refused: tuple[str, ...] = ()
    left_out: Mapping[str, Sequence[str]] = types.MappingProxyType({})
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
    """Makes the dataset `name` in `data_dir` from the images in `source`; does nothing if it exists, made of the same images.

    Beside the records it writes `preparation.json`: the source and its files (size, time, checksum), the options, what was left
    out, and the smaller side of each image.

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
    if count is not None and count < 1:
        raise InputError(f"--count: at least 1 expected, got {count}; leave it out to take the published number")
    if smallest < datasets.SMALLEST:
        raise InputError(f"--smallest: at least {datasets.SMALLEST} expected, got {smallest}")
    if tile and tile < smallest:
        raise InputError(f"--tile: at least {smallest}, what --smallest is, expected, got {tile}")
    if tile and cls.REFERENCES != 0:
        raise InputError(f"--tile: only for images without references, which {name} has")
    folder = inside(pathlib.Path(data_dir), name, str(cls.VERSION))
    with _staging(pathlib.Path(data_dir), name) as staging:
        options = {"smallest": smallest, "tile": tile}
        if folder.is_dir():
            try:
                prepared = datasets.Prepared(name, data_dir)
            except InputError as error:
                raise InputError(
                    f"{folder} is there but cannot be read; move it away and give the same command again"
                ) from error
            _check_same(prepared, cls, pathlib.Path(source), options)
            return Preparation(folder, len(prepared), new=False)
        listing = _list(cls, pathlib.Path(source), count)
        files, problems = listing.files, listing.problems
        changes, images, names, used = collections.Counter(), 0, set(), {}

        def examples() -> Iterator[dict]:
            nonlocal images
            for item in tqdm.tqdm(files, desc=f"preparing {name}", unit="example", dynamic_ncols=True):
                try:
                    used.update((str(path.relative_to(source)), _fingerprint(path)) for path in (item.hr, *item.refs))
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
            sides = _read_back(name, staging)
            notes = {"source": os.path.abspath(source), "options": options, "files": used, "sides": sides}
            notes |= {"refused": problems, "left_out": listing.left_out}
            write_atomically(staging / folder.relative_to(data_dir) / records.PREPARATION, json.dumps(notes))
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.rename(staging / folder.relative_to(data_dir), folder)
        except (OSError, RuntimeError) as error:  # the record writer's errors are RuntimeErrors
            raise InputError(f"cannot write to {data_dir}: {error}") from error
    return Preparation(folder, len(sides), images, dict(changes), tuple(problems), dict(listing.left_out))


def _fingerprint(path: pathlib.Path) -> list[int]:
    """Size, time of the last change, and checksum of a file."""
    try:
        state = path.stat()
        if not path.is_file():
            raise InputError(f"{path}: an image file expected, got a pipe or a device; move it away")
        return [state.st_size, state.st_mtime_ns, zlib.crc32(path.read_bytes())]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); mend it or move it away") from error


def _check_same(prepared: datasets.Prepared, cls, source: pathlib.Path, options: Mapping[str, int]) -> None:
    """Raises InputError if a prepared dataset was made of other images than `source` has now, or with other options."""
    before = prepared.preparation
    if not before or not source.is_dir():
        return
    old = before["options"]
    try:
        now = {str(p.relative_to(source)): p for item in cls.list_files(source).files for p in (item.hr, *item.refs)}
    except InputError:  # another layout
        now = {}

    def changed(name: str) -> bool:
        size, time, checksum = before["files"][name]
        state = now[name].stat()
        return (state.st_size, state.st_mtime_ns) != (size, time) and _fingerprint(now[name])[::2] != [size, checksum]

    differences = {
        "new": sorted(now.keys() - before["files"].keys()),
        "gone": sorted(before["files"].keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before["files"].keys() if changed(name)),
    }
    told = [f"{len(some):,} {what} ({listed(some, 5)})" for what, some in differences.items() if some]
    told += [
        f"--{name}={value} instead of {old.get(name)}" for name, value in options.items() if value != old.get(name)
    ]
    if told:
        raise InputError(
            f"{prepared.name} is prepared already in {prepared.folder}, from {before['source']}, but not like this: "
            f"{', '.join(told)}; move that folder away to prepare it anew, or add a name of your own, "
            f"--dataset={prepared.name.partition('/')[0]}/NAME"
        )


def _read_back(name: str, data_dir: pathlib.Path) -> list[tuple[str, int]]:
    """Reads every example, and returns its name and smaller side. A full disk may only show here."""
    try:
        return [(example["name"], min(example["hr"].shape[:2])) for example in datasets.Prepared(name, str(data_dir))]
    except InputError as error:
        raise InputError(f"what was written cannot be read back (is the disk full?): {error}") from error


def report(name: str, outcome: Preparation) -> str:
    """What a preparation did, as text."""
    if not outcome.new:
        return f"{name} is prepared already: {outcome.examples:,} examples in {outcome.folder} (move it away to start anew)"
    lines = [f"{name}: {outcome.examples:,} examples with {outcome.images:,} images, all checked, in {outcome.folder}"]
    lines += [f"  {number:,} x {change}" for change, number in outcome.changes.items()]
    if outcome.refused:
        lines += [f"left out ({len(outcome.refused)}):", _lines(outcome.refused)]
    return "\n".join([*lines, *_left_out(outcome.left_out)])


def _left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"  {len(paths):,} left out, {reason}: {listed(paths)}" for reason, paths in left_out.items()]


def _list(cls, source: pathlib.Path, count: int | None) -> Listing:
    """The examples in `source`; InputError unless there are as many as expected."""
    expected = count or cls.COUNT
    wanted = f"expected in --source={source}: {cls.LAYOUT}"
    try:
        listing = cls.list_files(source)
    except InputError as error:
        raise InputError(f"{error}; {wanted}. Nothing is downloaded: point --source to your copy") from error
    number = len(listing.files)
    others = [*([_lines(listing.problems)] if listing.problems else []), *_left_out(listing.left_out)]
    if not number:
        raise InputError("\n".join([f"no usable example in {source}; {wanted}", *others]))
    if expected and number != expected:
        found = f"{number:,} complete examples found, {expected:,} expected (--count={number} takes what is there)"
        raise InputError("\n".join([f"{found}; {wanted}", *others]))
    return listing


@contextlib.contextmanager
def _staging(data_dir: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """A folder to work in, on the disk of `data_dir`. It is removed at the end, or by the next call if this process is killed."""
    folder = inside(data_dir, ".preparing", name.replace("/", "-"))
    try:
        with lock.only_writer(lock.beside(folder), f"--dataset={name} in --data_dir={data_dir}"):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir()
            except OSError as error:
                raise InputError(f"--data_dir={data_dir}: a writable folder expected ({error})") from error
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):  # it is not empty: other datasets are being prepared
            folder.parent.rmdir()


def _lines(problems) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


@exit_on_error(interrupted="no unfinished dataset is left")
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
