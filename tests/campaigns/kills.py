"""Kills commands at random moments, gives them again, and compares the end with that of a command that was left alone.

    python -m tests.campaigns.kills --count=1000 [--works teacher rec prepare ...] [--seed=0] [--folder=DIR]

Half of the kills come at any moment of a run, a quarter while a file is being written, and a quarter twice within a second.
SIGKILL, SIGTERM and SIGINT. After every kill no checkpoint or result may be lost, nothing half-written may look whole, and the
exit status must be that of a command that was stopped, or had ended. A run that was killed up to `MOST` times is then left alone:
it must end with the same files, arrays and metrics, bit by bit, as one that never was, and leave no other file behind. Prints a
line per run, and the faults; the exit status is 1 if there are any. Other seeds give other moments: so a campaign goes on.
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
INTERRUPTED, SAVED = 130, 75  # the status of a command that was asked to stop; of training that has saved its step
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
        self._asked = self._stopped = 0  # once, at any moment, to stop

    def whole(self) -> None:
        """Runs the work undisturbed, unless this code did it here before; twice, so that nothing has to be compiled any more."""
        folder = self._base / "whole" / self.name
        note, code = folder.with_name(f"{self.name}.json"), works.fingerprint()
        if note.exists() and (known := json.loads(note.read_text()))[0] == code:
            _, self._outcome, names, self._duration = known
            self._names = set(names)
            return
        for _ in range(2):
            shutil.rmtree(folder, ignore_errors=True)
            begun, (process, _) = time.monotonic(), self._start(folder)
            ended = process.wait()
            self._duration = time.monotonic() - begun
            if ended.status:
                sys.exit(f"{self.name}, left alone, ended with status {ended.status}:\n{ended.err}")
        self._outcome, self._names = self._work.outcome(folder), works.names(folder)
        note.write_text(json.dumps([code, self._outcome, sorted(self._names), self._duration]))

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
        if self._asked >= 10 and 2 * self._stopped < self._asked:
            self._fault(f"stopped {self._stopped} times of {self._asked} that it was asked to")

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
            what, seen = self._disturb(process, folder) if killed < most else ("", 0)
            ended = process.wait()
            killed += bool(what)
            if what:
                self.kinds[what] += 1
            where = f"{folder.name}, after {what}" if what else f"{folder.name}, left alone after {killed} kills"
            try:
                now = self._work.kept(folder)
            except Exception as error:
                self._fault(f"{where}: {type(error).__name__}: {error}")
                return
            if now < max(kept, seen):
                self._fault(f"{where}: {max(kept, seen)} was safe, now {now} is")
            kept = now
            if ended.late:
                self._fault(f"{where}: did not end")
                return
            if "Traceback" in ended.err:
                self._fault(f"{where}: traceback: {ended.err[-1500:]}")
            if "stopped and saved at step" in ended.err and f"stopped and saved at step {now};" not in ended.err:
                self._fault(f"{where}: said to have saved another step than {now}")
            if ended.status not in self._statuses(what):
                self._fault(f"{where}: status {ended.status}: {ended.err[-1500:]}")
                return
            if what in ("random SIGTERM", "random SIGINT"):
                self._asked += 1
                self._stopped += ended.status in (INTERRUPTED, SAVED)
            if not what:
                break
        self._check_end(folder)

    def _statuses(self, what: str) -> tuple[int, ...]:
        """With which a command may end."""
        if not what:
            return (0,)
        stopped = (0, INTERRUPTED, SAVED)
        return (*stopped, -signal.SIGKILL) if "SIGKILL" in what else stopped

    def _disturb(self, process: processes.Process, folder: pathlib.Path) -> tuple[str, int]:
        """Kills the process. How, nothing if it had ended before; and how much looked whole at that moment."""
        moment, number = self._rng.choice(["random", "random", "writing", "twice"]), self._rng.choice(SIGNALS)
        numbers = [number] if moment != "twice" else [self._rng.choice(SIGNALS[1:]), number]
        until = time.monotonic() + self._rng.uniform(0, self._duration)
        while time.monotonic() < until and not process.ended():
            time.sleep(0.0005)
        if moment == "writing":
            works.wait_for(folder, self._work.temporary, process, self._duration)
            time.sleep(self._rng.choice([0, 0, 0.001, 0.005, 0.02]))
        seen = self._work.seen(folder)
        if process.ended():
            return "", 0
        process.send(numbers[0])
        if moment == "twice":
            time.sleep(self._rng.uniform(0, 1) * min(1, self._duration / 4))
            process.send(numbers[1])
        return f"{moment} {'+'.join(n.name for n in numbers)}", seen

    def _check_end(self, folder: pathlib.Path) -> None:
        outcome = self._work.outcome(folder)
        names = [n for n in sorted({*outcome, *self._outcome}) if outcome.get(n) != self._outcome.get(n)]
        if names:
            self._fault(f"{folder.name}: another end than the one left alone: {', '.join(names[:5])}")
        if others := works.names(folder) ^ self._names:
            self._fault(f"{folder.name}: left behind, or missing: {', '.join(sorted(others)[:5])}")

    def _fault(self, text: str) -> None:
        self.faults.append(text)
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
    works.share_cache(base)
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
