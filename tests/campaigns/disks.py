"""Lets every call fail that writes a file, one after another, and looks whether the command says so.

    python -m tests.campaigns.disks --count=500 [--works teacher prepare ...] [--seed=0] [--folder=DIR]

A command is run once to count its calls that write in its folder. Then it is run again and again, and one of these calls, or that
one and all that follow, fail as on a full (ENOSPC), broken (EIO) or read-only (EROFS) disk; or the folder is moved away at that
moment. It must end with one message and status 2, or, where the call did not matter, with everything written. Nothing that is
half-written may look whole, and the same command without faults must then end as if nothing had been. Calls fail in a layer over
libc, `faults.c`, which is compiled with `cc`; the exit status is 77 without it, and 1 for faults.
"""

import argparse
import collections
import ctypes
import errno
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

from tests.campaigns import processes, works
from tests.campaigns.works import Work

SOURCE = pathlib.Path(__file__).with_name("faults.c")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
NO_COMPILER = 77
# Works whose command makes one thing; the others give a new one where something was.
WORKS = ("single_image", "gan", "evaluation", "prepare", "upscale", "weights import", "weights export", "weights pack")


def preloaded(base: pathlib.Path) -> None:
    """Starts this command again with the layer, if it is not there; ends it without a compiler."""
    library = base / "faults.so"
    if os.environ.get("LD_PRELOAD") == str(library):
        return
    if not shutil.which("cc"):
        print("no cc: the layer that lets calls fail cannot be compiled")
        sys.exit(NO_COMPILER)
    compile_layer(base)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "tests.campaigns.disks", *sys.argv[1:]],
        os.environ | {"LD_PRELOAD": str(library)},
    )


def compile_layer(base: pathlib.Path) -> pathlib.Path:
    """Compiles the layer to a library in a folder."""
    base.mkdir(parents=True, exist_ok=True)
    library = base / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Campaign:
    """The disk faults of one work.

    Args:
      name, work: what meets them.
      base: folder of the campaign.
      rng: of the calls and kinds.
    """

    def __init__(self, name: str, work: Work, base: pathlib.Path, rng: random.Random):
        self.name, self._work, self._base, self._rng = name, work, base, rng
        self.faults: list[str] = []
        self.kinds = collections.Counter()

    def whole(self) -> None:
        """Runs the work twice, the second time counting its calls."""
        for _ in range(2):
            folder = self._new("whole")
            ended = self._run(folder, counting=True)
            if ended.status:
                sys.exit(f"{self.name}, left alone, ended with status {ended.status}:\n{ended.err}")
        self._outcome, self._calls = self._work.outcome(folder), int(re.findall(r"calls: (\d+)", ended.out)[-1])

    def disturb(self, count: int) -> None:
        """Lets so many calls fail: all of them if there are fewer, each in another run."""
        numbers = list(range(1, self._calls + 1))
        numbers = self._rng.sample(numbers, min(count, len(numbers)))
        for call in (*numbers, *self._rng.choices(range(1, self._calls + 1), k=max(0, count - len(numbers)))):
            number, stay = self._rng.choice(ERRORS), self._rng.random() < 0.7
            moved = self._rng.random() < 0.15
            kind = "moved" if moved else f"{errno.errorcode[number]} {'from then on' if stay else 'once'}"
            self.kinds[kind] += 1
            self._one(call, number, stay, moved, f"{self.name}, call {call} of {self._calls}, {kind}")
            if len(self.faults) >= 20:
                break
        print(f"{self.name}: {self.kinds.total()} of {self._calls} calls, {len(self.faults)} faults", flush=True)

    def _new(self, kind: str) -> pathlib.Path:
        folder = self._base / kind / self.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._work.inputs(folder)
        return folder

    def _run(
        self, folder: pathlib.Path, arm: Callable[[ctypes.CDLL], None] | None = None, counting: bool = False
    ) -> processes.Ended:
        def call() -> None:
            layer = ctypes.CDLL(None)
            if counting:
                layer.arm_faults(os.fsencode(folder), ctypes.c_long(0), 0, 0, b"")
            if arm:
                arm(layer)
            try:
                self._work.call()
            finally:
                layer.counted_calls.restype = ctypes.c_long
                print("calls:", layer.counted_calls(), flush=True)

        return processes.run(call, folder, variables=works.variables(self._base))

    def _one(self, call: int, number: int, stay: bool, moved: bool, what: str) -> None:
        folder = self._new("faults")
        gone = folder.with_name(f"{folder.name} moved")
        shutil.rmtree(gone, ignore_errors=True)

        def arm(layer: ctypes.CDLL) -> None:
            layer.arm_faults(
                os.fsencode(folder), ctypes.c_long(call), number, int(stay), os.fsencode(gone) if moved else b""
            )

        ended, found = self._run(folder, arm), []
        if ended.late:
            found.append("did not end")
        if "Traceback" in ended.err:
            found.append("traceback")
        if ended.status not in (0, 1, 2) or (ended.status == 1 and "failed: " not in ended.err):
            found.append(f"status {ended.status}")
        if ended.status == 2 and len(re.findall(r"^error: ", ended.err, re.MULTILINE)) != 1:
            found.append("not one message")
        if moved:
            there = [place for place in (folder, gone) if place.exists()]
            if ended.status == 0 and not any(self._work.outcome(place) == self._outcome for place in there):
                found.append("success, and nothing is there")
            folder = gone if gone.exists() else folder
        elif ended.status == 0:
            self._compare(folder, "success", found)
        try:
            self._work.kept(folder)
        except Exception as error:
            found.append(f"half-written and looks whole: {type(error).__name__}: {error}")
        after = self._run(folder)
        if after.status:
            found.append(f"afterwards status {after.status}: {after.err[-800:]}")
        else:
            self._compare(folder, "afterwards", found)
        if found:
            self.faults.append(f"{what}: {'; '.join(found)}")
            print("FAULT", self.faults[-1], f"status {ended.status}", ended.err[-2500:], sep="\n", flush=True)

    def _compare(self, folder: pathlib.Path, when: str, found: list[str]) -> None:
        try:
            outcome = self._work.outcome(folder)
        except Exception as error:
            found.append(f"{when} another outcome: {type(error).__name__}: {error}")
            return
        if names := [n for n in sorted({*outcome, *self._outcome}) if outcome.get(n) != self._outcome.get(n)]:
            found.append(f"{when} another outcome: {', '.join(names[:5])}")


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="calls that fail, in total")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, help="for the runs; a temporary one if left out")
    options = parser.parse_args()
    base = (options.folder or pathlib.Path(tempfile.gettempdir(), f"disks_{os.getpid()}")).absolute()
    preloaded(base)
    works.share_cache(base)
    available, campaigns = works.works(base), []
    wanted = {*options.works, *(works.SOURCES[name] for name in options.works if name in works.SOURCES)}
    for name in (name for name in available if name in wanted):
        campaign = Campaign(name, available[name], base, random.Random(f"{options.seed} {name}"))
        campaign.whole()
        if name in options.works:
            campaign.disturb(max(1, round(options.count / len(options.works))))
            campaigns.append(campaign)
    for campaign in campaigns:
        print(f"{campaign.name}: {dict(campaign.kinds)}")
    faults = [fault for campaign in campaigns for fault in campaign.faults]
    print(
        f"{sum(c.kinds.total() for c in campaigns)} calls failed, {len(faults)} faults, seed {options.seed}",
        *faults,
        sep="\n  ",
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
