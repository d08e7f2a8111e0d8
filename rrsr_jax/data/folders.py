"""The images in a folder: found, named and paired. What is not used is kept, with the reason."""

import collections
import dataclasses
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rrsr_jax.data.decoding import READ_ENDINGS
from rrsr_jax.errors import InputError

_SCALED = re.compile(r"(.+)_SRF_(\d+)_([^_]+)", re.IGNORECASE)  # as Urban100 is distributed: img_001_SRF_4_HR
_LR_FOLDER = re.compile(r"(.*?[_-]|)LR([_-].*|bic.*|x\d.*|)", re.IGNORECASE)  # beside HR: LR, LR_bicubic, LRbicx4
_HR_FOLDER = r"HR([_-].*|)"


class Files(NamedTuple):
    """The files of one example."""

    name: str
    hr: pathlib.Path
    refs: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass
class Listing:
    """What was found in a folder.

    Attributes:
      files: the examples, sorted by name.
      problems: what has to be mended, a message each.
      left_out: what is not used on purpose, by reason.
    """

    files: list[Files] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    def leave_out(self, reason: str, path: pathlib.Path) -> None:
        """Keeps a path that is not used, and the reason."""
        self.left_out[reason].append(str(path))


def images(folder: pathlib.Path, listing: Listing, deep: bool = True) -> list[pathlib.Path]:
    """Image files of a folder, sorted by path. Links are followed; each folder is searched once.

    Args:
      folder: to search.
      listing: gets what is not taken.
      deep: whether to search the folders in it.

    Raises:
      InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    seen = {os.path.realpath(folder)}

    def walk(here: pathlib.Path) -> Iterator[pathlib.Path]:
        try:
            paths = sorted(here.iterdir())
        except OSError as error:
            listing.problems.append(f"{here}: the folder cannot be read ({error.strerror}); mend it or move it away")
            return
        for path in paths:
            if path.name.startswith("."):
                listing.leave_out("hidden", path)
            elif not path.exists():
                where = os.readlink(path) if path.is_symlink() else "nothing"
                listing.problems.append(f"{path}: a link to {where}, which is not there; mend it or move it away")
            elif path.is_dir():
                if not deep:
                    listing.leave_out("folders in a folder that has none in this dataset", path)
                elif (real := os.path.realpath(path)) in seen:
                    listing.leave_out("links to a folder that is searched already", path)
                else:
                    seen.add(real)
                    yield from walk(path)
            elif path.suffix.lower() in READ_ENDINGS:
                yield path
            else:
                listing.leave_out("no images, by their ending", path)

    return sorted(walk(folder), key=pathlib.Path.as_posix)


def by_name(
    paths: Iterable[pathlib.Path], folder: pathlib.Path, listing: Listing, flat: bool = False
) -> dict[str, pathlib.Path]:
    """Images by their path in `folder`, without ending, with composed letters (Unicode NFC); `flat`: with - instead of /.

    Of images with one name, the first is taken; the others are problems.
    """
    found = {}
    for path in paths:
        name = _name(path, folder)
        name = name.replace("/", "-") if flat else name
        if (first := found.setdefault(name, path)) == path:
            continue
        if _raw_name(first, folder) == _raw_name(path, folder):
            why = f"has the name of {first}, but for its ending"
        elif _name(first, folder) == _name(path, folder):
            why = f"has the name of {first}, but for the way its letters are composed (Unicode)"
        else:
            why = f"would get the name {name} in the dataset, as {first} does"
        listing.problems.append(f"{path}: {why}; rename one or move one away")
    return found


def owner(name: str, inputs: Iterable[str]) -> str | None:
    """The input that a reference belongs to, by their names.

    Its own name, shortened from the end at each underscore, is compared first; then the folder it lies in, likewise.
    """
    while name:
        if name in inputs:
            return name
        folder, slash, last = name.rpartition("/")
        shorter = last.rpartition("_")[0]
        name = folder + slash + shorter if shorter else folder
    return None


def without_copies(paths: list[pathlib.Path], folder: pathlib.Path, listing: Listing) -> list[pathlib.Path]:
    """Leaves out the low-resolution copies, and the results of other methods, that benchmarks bring beside their images.

    These are `NAME_SRF_4_LR` beside `NAME_SRF_4_HR`, the HR of a smaller factor, `NAME_LR` beside `NAME_HR`, and folders like
    `LR` or `LR_bicubic` beside `HR`. An image that has no HR beside it stays.
    """
    largest, names = collections.defaultdict(int), {_name(path, folder).lower() for path in paths}
    for path in paths:
        if (scaled := _SCALED.fullmatch(path.stem)) and scaled[3].upper() == "HR":
            largest[scaled[1]] = max(largest[scaled[1]], int(scaled[2]))
    inside = {parent.relative_to(folder) for path in paths for parent in path.parents if folder in parent.parents}

    def copy(path: pathlib.Path) -> str:
        if (scaled := _SCALED.fullmatch(path.stem)) and scaled[1] in largest:
            if scaled[3].upper() != "HR":
                return "low-resolution copies and results, beside their HR image"
            return "HR images of a smaller factor" if int(scaled[2]) < largest[scaled[1]] else ""
        name = _name(path, folder).lower()
        if name.endswith(("_lr", "-lr")) and name[:-2] + "hr" in names:
            return "low-resolution copies, beside their HR image"
        for parent in inside.intersection(path.relative_to(folder).parents):
            low = _LR_FOLDER.fullmatch(parent.name)
            high = re.compile(re.escape(low[1]) + _HR_FOLDER, re.IGNORECASE) if low else None
            if high and any(p.parent == parent.parent and high.fullmatch(p.name) for p in inside):
                return "low-resolution copies, in a folder beside HR"
        return ""

    kept = []
    for path in paths:
        if reason := copy(path):
            listing.leave_out(reason, path)
        else:
            kept.append(path)
    return kept


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names, separated by commas; of many, the first ones and how many more."""
    more = f", and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _raw_name(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _name(path: pathlib.Path, folder: pathlib.Path) -> str:
    return unicodedata.normalize("NFC", _raw_name(path, folder))
