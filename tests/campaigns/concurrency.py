"""Gives two commands at once in one folder, the second at a random moment of the first.

    python -m tests.campaigns.concurrency --count=100 [--pairs training evaluation ...] [--seed=0] [--folder=DIR]

Each must end with success, or be refused with one message and status 2, and one of them must succeed. In the end, after the
command is given once more, the files, arrays and metrics must be those of a command that was alone. The exit status is 1 for
faults.
"""

import argparse
import collections
import functools
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.campaigns import processes, works
from tests.campaigns.works import Work, run_main


class Pair(NamedTuple):
    """A work, and what is done beside it in its folder."""

    work: str
    beside: Callable[[], Any] | None = None  # None: the same again


PAIRS = {
    "two trainings": Pair("single_image"),
    "two evaluations": Pair("evaluation"),
    "two prepares": Pair("prepare"),
    "two upscales": Pair("upscale"),
    "two imports": Pair("weights import"),
    "two packs": Pair("weights pack"),
    "training and evaluation": Pair(
        "single_image", functools.partial(run_main, "--mode=eval", "--workdir=run", "--config.eval.references=bicubic")
    ),
}


class Campaign:
    """One pair, again and again.

    Args:
      name: of the pair.
      work: the first command, and how its end looks.
      beside: the second one.
      base: folder of the campaign.
      rng: of the moments.
    """

    def __init__(self, name: str, work: Work, beside: Callable[[], Any], base: pathlib.Path, rng: random.Random):
        self.name, self._work, self._beside, self._base, self._rng = name, work, beside, base, rng
        self.faults: list[str] = []
        self.endings = collections.Counter()

    def whole(self, alone: pathlib.Path) -> None:
        """Runs the work alone in a folder."""
        for _ in range(2):
            shutil.rmtree(alone, ignore_errors=True)
            alone.mkdir(parents=True)
            self._work.inputs(alone)
            begun, ended = time.monotonic(), self._start(self._work.call, alone, "").wait()
            self._duration = time.monotonic() - begun
            if ended.status:
                sys.exit(f"{self.name}: alone it ended with status {ended.status}:\n{ended.err}")
        self._outcome = self._work.outcome(alone)

    def once(self, number: int) -> None:
        """Both commands in a new folder."""
        folder, found = self._base / "together" / f"{self.name} {number}", []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._work.inputs(folder)
        first = self._start(self._work.call, folder, " first")
        time.sleep(self._rng.choice([0, self._rng.uniform(0, 0.2), self._rng.uniform(0, self._duration)]))
        second = self._start(self._beside, folder, " second")
        both = [first.wait(), second.wait()]
        for ended in both:
            if ended.late or ended.status not in (0, 2) or "Traceback" in ended.err:
                found.append(f"status {ended.status}: {ended.err[-1500:]}")
            elif ended.status == 2 and len(re.findall(r"^error: ", ended.err, re.MULTILINE)) != 1:
                found.append(f"not one message: {ended.err[-1500:]}")
        statuses = [ended.status for ended in both]
        if 0 not in statuses:
            found.append(f"both were refused: {both[0].last()} | {both[1].last()}")
        self.endings["both succeeded" if statuses == [0, 0] else "one refused"] += 1
        after = self._start(self._work.call, folder, " third").wait()
        if after.status:
            found.append(f"afterwards status {after.status}: {after.err[-1500:]}")
        else:
            outcome = self._work.outcome(folder)
            names = [n for n in sorted({*outcome, *self._outcome}) if outcome.get(n) != self._outcome.get(n)]
            if names:
                found.append(f"another end than alone: {', '.join(names[:5])}")
        if found:
            self.faults.append(f"{self.name} {number}: {'; '.join(found)}")
            print("FAULT", self.faults[-1], flush=True)
        shutil.rmtree(folder, ignore_errors=True)

    def _start(self, call: Callable[[], Any], folder: pathlib.Path, name: str) -> processes.Process:
        said = folder.with_name(folder.name + name)
        return processes.Process(call, folder, said=said, variables=works.variables(self._base))


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="of pairs of commands, in total")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=pathlib.Path, help="for the runs; a temporary one if left out")
    options = parser.parse_args()
    base = (options.folder or pathlib.Path(tempfile.mkdtemp())).absolute()
    base.mkdir(parents=True, exist_ok=True)
    works.share_cache(base)
    available, campaigns = works.works(base), []
    for name in options.pairs:
        pair = PAIRS[name]
        source = works.SOURCES.get(pair.work, pair.work)
        for needed in dict.fromkeys([source, pair.work]):
            work = available[needed]
            campaign = Campaign(name, work, pair.beside or work.call, base, random.Random(f"{options.seed} {name}"))
            campaign.whole(base / "whole" / needed)
        for number in range(max(1, round(options.count / len(options.pairs)))):
            campaign.once(number)
        campaigns.append(campaign)
        print(f"{name}: {dict(campaign.endings)}, {len(campaign.faults)} faults", flush=True)
    faults = [fault for campaign in campaigns for fault in campaign.faults]
    print(
        f"{sum(c.endings.total() for c in campaigns)} pairs, {len(faults)} faults, seed {options.seed}",
        *faults,
        sep="\n  ",
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
