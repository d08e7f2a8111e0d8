"""Which files a command reads and writes, and which of them are finished. Imports no JAX, so that bad paths are told at once."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.errors import InputError

if TYPE_CHECKING:
    from rrsr_jax.data.pictures import Picture

SUFFIX = f"_x{SCALE_FACTOR}"  # in the names of results


@dataclasses.dataclass(frozen=True)
class Job:
    """A photograph, where its result goes, and the page that compares the two (None: no page)."""

    source: pathlib.Path
    out: pathlib.Path
    page: pathlib.Path | None

    def outputs(self) -> list[pathlib.Path]:
        """The files that it writes."""
        return [self.out] if self.page is None else [self.out, self.page]


def jobs_of_folder(folder: pathlib.Path, out: pathlib.Path, compare: bool) -> list[Job]:
    """One for each photograph in the folder, by name; says what else there is."""
    entries = _entries(folder)
    sources = [entry for entry in entries if _is_photograph(entry)]
    rest = ", ".join(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if entry not in sources)
    if not sources:
        raise InputError(
            f"{folder}: photographs expected, found {rest or 'nothing'}; photographs in subfolders do not count"
        )
    if rest:
        print(f"note: {folder}: not photographs, and left out: {rest}", flush=True)

    def alike(name: str) -> str:  # names that some file systems take for one
        return unicodedata.normalize("NFC", name).casefold()

    stems = collections.Counter(alike(source.stem) for source in sources)
    names = {alike(source.name) for source in sources}
    jobs = []
    for source in sources:
        unique = stems[alike(source.stem)] == 1 and alike(source.stem) not in names
        result = out / f"{source.stem if unique else source.name}{SUFFIX}.png"
        jobs.append(Job(source, result, result.with_suffix(".html") if compare else None))
    return jobs


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """What is in a folder, by name."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: a folder that can be read expected ({error.strerror})") from error


def _is_photograph(path: pathlib.Path) -> bool:
    """Whether a file is one by its name (then it is told if it is none), or by its content."""
    from PIL import Image

    from rrsr_jax.data.decoding import READ_ENDINGS, formats

    if path.is_dir():
        return False
    if path.suffix.lower() in READ_ENDINGS and not path.name.startswith("."):
        return True
    if path.is_file():  # a pipe or a device may never end
        with contextlib.suppress(Exception), Image.open(path, formats=formats()):
            return True
    return False


def reference_files(refs: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The files that `--ref` names, and those in the folders that it names: the candidates."""
    files, candidates = [], []
    for ref in refs:
        if ref.is_dir():
            inside = [path for path in _entries(ref) if path.is_file() and not path.name.startswith(".")]
            if not inside:
                raise InputError(f"--ref {ref}: a folder of photographs expected, but there is no file in it")
            candidates += inside
        else:
            check_file(ref, "--ref ")
            files.append(ref)
    return files, candidates


def check_file(path: pathlib.Path, what: str = "") -> None:
    """Raises InputError unless it is a file that may be read."""
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{what}{path}: a photograph expected, but it is a link to {os.readlink(path)}, which does not exist"
        )
    if not path.exists():
        raise InputError(f"{what}{path}: a photograph expected, but there is no such file")
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"{what}{path}: a photograph expected, but it is no file that can be read")


def check_outputs(job: Job, picture: "Picture", inputs: Sequence[pathlib.Path], force: bool) -> None:
    """Raises InputError unless the files can be written; none of the `inputs` ever is."""
    from rrsr_jax.data.pictures import check_output

    for path in job.outputs():
        if path.exists() and any(path.samefile(other) for other in inputs if other.exists()):
            raise InputError(
                f"{path}: the result would replace a photograph that it is made from; choose another --out"
            )
    check_output(job.out, picture, scale=SCALE_FACTOR, force=force)
    if job.page and os.path.lexists(job.page) and (job.page.is_dir() or not force):
        raise InputError(f"{job.page}: exists; name another file{'' if job.page.is_dir() else ', or give --force'}")


def check_out_folder(source: pathlib.Path, out: pathlib.Path) -> None:
    """Raises InputError unless results of the photographs in the folder `source` can be written to the folder `out`."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out={out}: {source} is a folder, so a folder expected; this is a file")
    if out.exists() and out.samefile(source):
        raise InputError(f"--out={out}: another folder than INPUT expected, or results would be taken for photographs")
    place = out if out.exists() else out.parent
    if not place.is_dir():
        raise InputError(f"--out={out}: there is no folder {place}; make it, or choose another --out")
    if not os.access(place, os.W_OK):
        raise InputError(f"--out={out}: the folder {place} is not writable; choose another --out")


class Record:
    """Which results in a folder are made from what: a JSON line before each is written, and one after.

    The key of a job stands for what its result is made from.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._last = path, {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off
                entry = json.loads(line)
                done = "made_from" in entry
                self._last[entry["result"]] = entry["made_from" if done else "begun_from"], done

    def may_replace(self, job: Job, key: str) -> bool:
        """Whether what is there, finished or not, is this job's."""
        return self._last.get(job.out.name, ("",))[0] == key

    def has(self, job: Job, key: str) -> bool:
        """Whether the job is finished."""
        return self._last.get(job.out.name) == (key, True) and all(path.is_file() for path in job.outputs())

    def begin(self, job: Job, key: str) -> None:
        """Notes that the result is going to be written. If the process is killed then, it can be written again."""
        self._add(job, key, "begun_from")

    def finish(self, job: Job, key: str) -> None:
        """Notes that the result has been written."""
        self._add(job, key, "made_from")

    def _add(self, job: Job, key: str, what: str) -> None:
        self._last[job.out.name] = key, what == "made_from"
        entry = {"photograph": str(job.source), "result": job.out.name, what: key}
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._cut_off() + json.dumps(entry) + "\n")

    def _cut_off(self) -> bool:
        return self._path.is_file() and not self._path.read_bytes().endswith(b"\n") and self._path.stat().st_size > 0


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file; empty if it cannot be read, which is told where it is used."""
    if path.is_file():  # a pipe or a device may never end
        with contextlib.suppress(OSError), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
