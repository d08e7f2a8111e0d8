"""Kills commands at random moments, gives them again, and compares the end with that of a command that was left alone.

    python -m tests.campaigns.kills --count=1000 [--works teacher rec prepare ...] [--seed=0] [--folder=DIR]

Half of the kills come at any moment of a run, a quarter while a file is being written, and a quarter twice within a second.
SIGKILL, SIGTERM and SIGINT. After every kill no checkpoint or result may be lost, and nothing half-written may look whole.
A run that was killed up to `MOST` times is then left alone: it must end with the same files, arrays and metrics, bit by bit, as
one that never was, and leave nothing behind. Prints a line per run, and the faults; the exit status is 1 if there are any.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from tests.campaigns import processes, works
from tests.campaigns.works import Work

# Out of a hundred kills, how many go to each. A run of a stage takes seconds, the other commands tenths of one.
SHARES = {
    "teacher": 2,
    "student": 2,
    "rec": 2,
    "single_image": 8,
    "gan": 4,
    "evaluation": 8,
    "prepare": 22,
    "upscale": 18,
    "weights import": 14,
    "weights export": 10,
    "weights pack": 10,
}
MOST = 10  # kills of one run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Campaign:
    """The kills of one work.

    Args:
      name, work: what is killed.
      base: folder of the campaign.
      rng: of the moments.
    """

    def __init__(self, name: str, work: Work, base: pathlib.Path, rng: random.Random):
        self.name, self._work, self._base, self._rng = name, work, base, rng
        self.faults: list[str] = []
        self.kinds = collections.Counter()

    def whole(self) -> None:
        """Runs the work undisturbed; twice, so that nothing has to be compiled any more."""
        for _ in range(2):
            folder = self._base / "whole" / self.name
            shutil.rmtree(folder, ignore_errors=True)
            begun, (process, _) = time.monotonic(), self._start(folder)
            ended = process.wait()
            self._duration = time.monotonic() - begun
            if ended.status:
                sys.exit(f"{self.name}, left alone, ended with status {ended.status}:\n{ended.err}")
        self._outcome = self._work.outcome(folder)

    def kill(self, count: int) -> None:
        """Kills as often."""
        run = 0
        while self.kinds.total() < count and len(self.faults) < 20:
            run += 1
            folder, before = self._base / "killed" / f"{self.name} {run}", self.kinds.total()
            shutil.rmtree(folder, ignore_errors=True)
            most = min(self._rng.randint(1, MOST), count - before)
            self._one_run(folder, most)
            print(
                f"{self.name} {run}: killed {self.kinds.total() - before} times, {len(self.faults)} faults", flush=True
            )
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, folder: pathlib.Path) -> tuple[processes.Process, pathlib.Path]:
        if not folder.exists():
            folder.mkdir(parents=True)
            self._work.inputs(folder)
        return processes.Process(self._work.call, folder, variables=works.variables(self._base)), folder

    def _one_run(self, folder: pathlib.Path, most: int) -> None:
        """One run, killed up to `most` times and then left alone."""
        kept, killed = 0, 0
        while True:
            process, _ = self._start(folder)
            what = self._disturb(process, folder) if killed < most else ""
            ended = process.wait()
            killed += bool(what)
            if what:
                self.kinds[what] += 1
            try:
                now = self._work.kept(folder)
            except Exception as error:
                self._fault(folder, f"after {what}: {type(error).__name__}: {error}")
                return
            if now < kept:
                self._fault(folder, f"after {what}: {kept} was safe, now {now} is")
            kept = now
            if ended.late:
                self._fault(folder, f"after {what}: did not end")
                return
            if "Traceback" in ended.err:
                self._fault(folder, f"after {what}: traceback: {ended.err[-1500:]}")
            if "stopped and saved at step" in ended.err and f"stopped and saved at step {now};" not in ended.err:
                self._fault(folder, f"after {what}: said to have saved another step than {now}")
            if not what and ended.status:
                self._fault(folder, f"left alone after {killed} kills: status {ended.status}: {ended.err[-1500:]}")
                return
            if not what:
                break
        self._check_end(folder)

    def _disturb(self, process: processes.Process, folder: pathlib.Path) -> str:
        """Kills the process; says how, or nothing if it had ended before."""
        moment, number = self._rng.choice(["random", "random", "writing", "twice"]), self._rng.choice(SIGNALS)
        numbers = [number] if moment != "twice" else [self._rng.choice(SIGNALS[1:]), number]
        until = time.monotonic() + self._rng.uniform(0, self._duration)
        while time.monotonic() < until and not process.ended():
            time.sleep(0.0005)
        if moment == "writing":
            works.wait_for(folder, self._work.temporary, process, self._duration)
            time.sleep(self._rng.choice([0, 0, 0.001, 0.005, 0.02]))
        if process.ended():
            return ""
        process.send(numbers[0])
        if moment == "twice":
            time.sleep(self._rng.uniform(0, 1) * min(1, self._duration / 4))
            process.send(numbers[1])
        return f"{moment} {'+'.join(n.name for n in numbers)}"

    def _check_end(self, folder: pathlib.Path) -> None:
        outcome = self._work.outcome(folder)
        names = [n for n in sorted({*outcome, *self._outcome}) if outcome.get(n) != self._outcome.get(n)]
        if names:
            self._fault(folder, f"another end than the one left alone: {', '.join(names[:5])}")
        left = [str(path) for pattern in self._work.temporary for path in folder.glob(pattern)]
        if left := [path for path in left if not path.endswith("images.csv")]:
            self._fault(folder, f"left behind: {', '.join(left)}")

    def _fault(self, folder: pathlib.Path, text: str) -> None:
        self.faults.append(f"{folder.name}: {text}")
        print("FAULT", self.faults[-1], flush=True)


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="kills in total")
    parser.add_argument("--works", nargs="+", choices=SHARES, default=list(SHARES), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=pathlib.Path, help="for the runs; a temporary one if left out")
    options = parser.parse_args()
    base = (options.folder or pathlib.Path(tempfile.mkdtemp())).absolute()
    base.mkdir(parents=True, exist_ok=True)
    available, shares, campaigns = works.works(base), sum(SHARES[name] for name in options.works), []
    wanted = {*options.works, *(works.SOURCES[name] for name in options.works if name in works.SOURCES)}
    for name in (name for name in available if name in wanted):
        campaign = Campaign(name, available[name], base, random.Random(f"{options.seed} {name}"))
        campaign.whole()
        if name in options.works:
            campaign.kill(max(1, round(options.count * SHARES[name] / shares)))
            campaigns.append(campaign)
    for campaign in campaigns:
        print(f"{campaign.name}: {campaign.kinds.total()} kills {json.dumps(dict(campaign.kinds))}")
    faults = [fault for campaign in campaigns for fault in campaign.faults]
    print(
        f"{sum(c.kinds.total() for c in campaigns)} kills, {len(faults)} faults, seed {options.seed}",
        *faults,
        sep="\n  ",
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
