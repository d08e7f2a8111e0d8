"""Kills a training run at random moments, lets it go on each time, and compares its end with that of an uninterrupted run.

    python -m tests.kill --config=configs/demo.py --times=10

SIGKILL and SIGTERM alternate. Flags not listed below go to `rrsr_jax.main`; without them the run is short and evaluates nothing.
Prints a line for every kill; the exit status is 1 if a run failed or came to another end, or one that was told to stop had not
saved its last step.
"""

import argparse
import itertools
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags, logging

from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import has_checkpoint, newest_intact
from rrsr_jax.workdir.progress import read_records

SHORT = ("steps=60", "log_every=1", "checkpoint_every=7", "image_every=1000000", "eval.sets=")


def start(flags_of_main: list[str], workdir: pathlib.Path) -> subprocess.Popen:
    """The run in `workdir`, from the start or from where it was; its messages are added to `workdir.log`."""
    call = [sys.executable, "-m", "rrsr_jax.main", *flags_of_main, f"--workdir={workdir}"]
    with workdir.with_suffix(".log").open("a") as messages:
        return subprocess.Popen(call, stdout=messages, stderr=messages)


def records(workdir: pathlib.Path) -> list[dict]:
    """The metrics of every step so far, without speed and memory."""
    return [
        {k: v for k, v in record.items() if k == "step" or k.startswith("train/")} for record in read_records(workdir)
    ]


def checkpoint(workdir: pathlib.Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    return newest_intact(workdir)[0] if has_checkpoint(workdir) else 0


def same_end(workdir: pathlib.Path, whole: pathlib.Path) -> bool:
    """Whether two finished runs have the same state, bit by bit, and the same metrics at every step; says so."""
    ends = [jax.tree_util.tree_leaves_with_path(Checkpoints(folder).read_state()) for folder in (workdir, whole)]
    pairs = list(zip(*ends, strict=True))
    different = [jax.tree_util.keystr(path) for (path, a), (_, b) in pairs if not np.array_equal(a, b, equal_nan=True)]
    same_metrics = records(workdir) == records(whole)
    print(
        f"{workdir.name} ended at step {checkpoint(workdir)}: {len(pairs) - len(different)} of {len(pairs)} arrays "
        f"identical{', '.join(['', *different[:3]])}; metrics of all steps {'identical' if same_metrics else 'DIFFERENT'}",
        flush=True,
    )
    return same_metrics and not different


def interrupted(
    flags_of_main: list[str], workdir: pathlib.Path, moments: Iterator[tuple[signal.Signals, float]], times: int
) -> tuple[int, bool]:
    """Runs to the end, killed up to `times` times; how often it was, and whether all was well."""
    kills, good = 0, True
    while True:
        process = start(flags_of_main, workdir)
        number, moment = next(moments) if kills < times else (None, None)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            outcome, well = kill(process, number, workdir)
            kills, good = kills + 1, good and well
            print(f"{workdir.name}: {number.name} after {moment:.1f} s, {outcome}", flush=True)
            continue
        if code:
            print(f"{workdir.name}: FAILED with exit status {code}, see {workdir.with_suffix('.log')}", flush=True)
        return kills, good and not code


def kill(process: subprocess.Popen, number: signal.Signals, workdir: pathlib.Path) -> tuple[str, bool]:
    """Sends the signal and waits; what came of it, and whether that is as it should be."""
    process.send_signal(number)
    code = process.wait()
    logged, kept = len(records(workdir)), checkpoint(workdir)
    if number == signal.SIGKILL or code == -number:
        return f"killed at step {logged}; goes on from {kept}", True
    if code:
        return f"FAILED with exit status {code}, see {workdir.with_suffix('.log')}", False
    clean = logged == kept
    return f"stopped at step {logged}, {'saved' if clean else 'NOT SAVED'}; goes on from {kept}", clean


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--times", type=int, default=10, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workdir", type=pathlib.Path, help="a new folder for the runs; a temporary one if left out")
    arguments, others = parser.parse_known_args()
    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for the runs
    base = arguments.workdir or pathlib.Path(tempfile.mkdtemp())
    base.mkdir(parents=True, exist_ok=True)
    flags_of_main = [f"--config={arguments.config}", *(f"--config.{field}" for field in SHORT), *others]

    begun = time.monotonic()
    if start(flags_of_main, base / "whole").wait():
        sys.exit(f"the uninterrupted run failed, see {base}/whole.log")
    duration = time.monotonic() - begun
    print(f"uninterrupted: {checkpoint(base / 'whole')} steps in {duration:.0f} s; all runs are in {base}", flush=True)
    return 0 if all_end_alike(flags_of_main, base, duration, arguments.times, random.Random(arguments.seed)) else 1


def all_end_alike(
    flags_of_main: list[str], base: pathlib.Path, duration: float, times: int, rng: random.Random
) -> bool:
    """As many interrupted runs as it takes to kill so often at moments within `duration`; whether all was well."""
    numbers, kills, runs, good = itertools.cycle([signal.SIGKILL, signal.SIGTERM]), 0, 0, True
    while good and kills < times:
        begun, runs = time.monotonic(), runs + 1
        moments = ((number, rng.uniform(0, duration)) for number in numbers)
        more, good = interrupted(flags_of_main, base / f"killed_{runs}", moments, times - kills)
        good = good and same_end(base / f"killed_{runs}", base / "whole")
        kills += more
        if not more:  # it took less time than the first one, which compiled
            duration = min(duration, time.monotonic() - begun)
    print(f"{kills} kills in {runs} runs: {'all ended like the uninterrupted one' if good else 'NOT all well'}")
    return good


if __name__ == "__main__":
    sys.exit(main())
