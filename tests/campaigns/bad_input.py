"""Gives commands bad input, made from good files by a seeded generator, and checks how each ends.

    python -m tests.campaigns.bad_input --count=10000 [--areas photographs records ...] [--seed=0] [--folder=DIR]
    python -m tests.campaigns.bad_input --only=photographs:0:123  # one case again; its files stay in the folder

A case must end by itself within its processor time, its memory and `SECONDS`, with success or with one message and status 2,
without a traceback; it must write nothing outside its folder and leave nothing unfinished there, and what it wrote must be whole.
Prints every fault with the name of its case; the exit status is 1 if there are any. Another seed gives other cases: so a campaign
goes on.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image

from tests.campaigns import cases, photographs, processes, words, works
from tests.campaigns.cases import Case

SECONDS = 900  # a process; a few seconds on a quiet machine
# Out of a hundred cases, how many go to each area.
SHARES = {"photographs": 55, "weights": 13, "records": 8, "checkpoints": 6, "overrides": 8, "commands": 10}
AREAS = {
    "photographs": photographs.Photographs,
    "weights": cases.WeightFiles,
    "records": cases.Records,
    "checkpoints": cases.CheckpointFiles,
    "overrides": words.Overrides,
    "commands": words.CommandLines,
}
_UNFINISHED = re.compile(r"\.(part|tmp|unfinished|old)$|^\.preparing$|orbax-checkpoint-tmp")


def _image(path: pathlib.Path) -> None:
    with Image.open(path) as image:
        image.load()


def _lines(path: pathlib.Path) -> None:
    for line in path.read_text().splitlines():
        json.loads(line)


# What reads a file that a command wrote, by its ending; raises an exception if it is not whole.
READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    **dict.fromkeys((".png", ".jpg", ".tif", ".webp", ".avif", ".jp2", ".bmp", ".ppm"), _image),
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": _lines,
    ".safetensors": lambda path: safetensors.numpy.load(path.read_bytes()),
    ".npz": lambda path: dict(np.load(path)),
}


class Running(NamedTuple):
    """A case on its way."""

    name: str
    case: Case
    folder: pathlib.Path
    before: dict[pathlib.Path, tuple]
    process: processes.Process


def start(name: str, area: cases.Area, base: pathlib.Path) -> Running:
    """Starts the case `AREA:SEED:NUMBER`."""
    # So deep that a path that climbs a few folders up is still noticed.
    folder = base / "cases" / name.replace(":", "_") / "a" / "b" / "c"
    shutil.rmtree(folder.parents[2], ignore_errors=True)
    for inner in ("input", "work", "home", "temporary"):
        (folder / inner).mkdir(parents=True)
    case = area.case(random.Random(name), folder)
    before = listing(folder.parents[2])
    variables = works.variables(base) | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    options = dict(seconds=SECONDS, cpu_seconds=case.seconds, memory=case.memory, variables=variables)
    return Running(name, case, folder, before, processes.Process(case.call, folder / "work", **options))


def listing(folder: pathlib.Path) -> dict[pathlib.Path, tuple]:
    """Kind, size and time of every file in a folder, by path."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        found[path] = (state.st_mode, state.st_size, 0 if path.is_dir() else state.st_mtime_ns)
    return found


def faults(running: Running) -> tuple[processes.Ended, list[str]]:
    """Waits for a case: how it ended, and what was wrong with that."""
    ended, work, found = running.process.wait(), running.folder / "work", []
    if ended.late:
        found.append("did not end")
    elif ended.status not in running.case.statuses:
        found.append(f"status {ended.status}")
    if "Traceback (most recent call last)" in ended.out + ended.err:
        found.append("traceback")
    messages = re.findall(r"^(?:.*: )?error: ", ended.err, re.MULTILINE)
    if ended.status == 2 and len(messages) != 1:
        found.append(f"{len(messages)} messages")
    after = listing(running.folder.parents[2])
    said = [work.with_name(f"{work.name}.{kind}") for kind in ("out", "err")]
    changed = [path for path in sorted({*after, *running.before}) if after.get(path) != running.before.get(path)]
    if outside := [path for path in changed if path not in said and not path.is_relative_to(work)]:
        found.append(f"changed outside: {', '.join(map(str, outside[:5]))}")
    for path in (path for path in changed if path.is_relative_to(work) and path in after):
        if _UNFINISHED.search(path.name):
            found.append(f"left unfinished: {path.relative_to(work)}")
        elif path.is_file() and (reader := READERS.get(path.suffix)):
            try:
                reader(path)
            except Exception as error:
                found.append(f"half-written: {path.relative_to(work)} ({error})")
    if found:
        found.append(f"{running.case.what[:1000]}\n{ended.out[-500:]}{ended.err[-2500:]}")
    return ended, found


class Campaign:
    """Cases one after another, a few at a time.

    Args:
      base: folder of the campaign.
      jobs: how many run at a time.
    """

    def __init__(self, base: pathlib.Path, jobs: int):
        self._base, self._jobs, self._areas = base, jobs, {}
        self.statuses: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        self.seconds: dict[str, list[tuple[float, str]]] = collections.defaultdict(list)
        self.faults: list[str] = []

    def area(self, name: str) -> cases.Area:
        """The area, with the files that its cases share."""
        if name not in self._areas:
            shared = self._base / "shared" / name
            if not shared.exists():
                self._make(name, shared)
            self._areas[name] = AREAS[name](shared, new=False)
        return self._areas[name]

    def _make(self, name: str, shared: pathlib.Path) -> None:
        """In a fork, because it may start JAX."""
        shared.mkdir(parents=True)
        ended = processes.run(lambda: AREAS[name](shared), shared, variables=works.variables(self._base), seconds=600)
        if ended.status:
            shutil.rmtree(shared)
            sys.exit(f"{name}: cannot be set up: {ended.err}")

    def run(self, names: list[str], keep: bool) -> None:
        """Runs the cases; `keep` leaves their files."""
        active: list[Running] = []
        waiting = collections.deque(names)
        since = time.monotonic()
        while waiting or active:
            while waiting and len(active) < self._jobs:
                name = waiting.popleft()
                active.append(start(name, self.area(name.partition(":")[0]), self._base))
            for running in [one for one in active if one.process.ended() or one.process.overdue()]:
                active.remove(running)
                self._finish(running, keep)
            time.sleep(processes.PAUSE)
        print(f"{len(names)} cases in {time.monotonic() - since:.0f} s", flush=True)

    def _finish(self, running: Running, keep: bool) -> None:
        ended, found = faults(running)
        area = running.name.partition(":")[0]
        self.statuses[area][ended.status] += 1
        self.seconds[area].append((ended.seconds, running.name))
        if not (done := sum(statuses.total() for statuses in self.statuses.values())) % 500:
            print(f"{done} cases, {len(self.faults)} faults", flush=True)
        if keep:
            print(running.case.what, f"status {ended.status}", ended.out, ended.err, sep="\n")
        if found:
            *kinds, text = found
            self.faults.append(f"{running.name}: {'; '.join(kinds)}")
            print(f"FAULT {self.faults[-1]}\n{text}\n", flush=True)
        if not keep:
            shutil.rmtree(running.folder.parents[2], ignore_errors=True)


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="cases in total")
    parser.add_argument("--areas", nargs="+", choices=SHARES, default=list(SHARES), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--only", nargs="+", default=[], metavar="AREA:SEED:NUMBER", help="these cases alone")
    parser.add_argument("--folder", type=pathlib.Path, help="for the files; a temporary one if left out")
    options = parser.parse_args()
    base = (options.folder or pathlib.Path(tempfile.mkdtemp())).absolute()
    base.mkdir(parents=True, exist_ok=True)
    works.share_cache(base)
    shares = sum(SHARES[area] for area in options.areas)
    counts = {area: max(1, round(options.count * SHARES[area] / shares)) for area in options.areas}
    names = options.only or [f"{area}:{options.seed}:{i}" for area, count in counts.items() for i in range(count)]
    campaign = Campaign(base, options.jobs)
    campaign.run(names, keep=bool(options.only))
    for area, statuses in campaign.statuses.items():
        print(f"{area}: {statuses.total()} cases, by exit status {dict(sorted(statuses.items()))}")
        seconds = sorted(campaign.seconds[area], reverse=True)
        slowest = ", ".join(f"{name} {used:.1f} s" for used, name in seconds[:3])
        print(f"  {sum(used for used, _ in seconds) / len(seconds):.2f} s of processor time a case; most: {slowest}")
    print(f"{len(names)} cases, {len(campaign.faults)} faults", *campaign.faults, sep="\n  ")
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
