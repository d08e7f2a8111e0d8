"""A list of configs, run one after another, and one table of their results: the paper's Table 2, for example.

python -m rrsr_jax.experiments.table --configs configs/table2.py --workdir=runs/table2 [--seeds=2] [--minutes=25] ...
python -m rrsr_jax.experiments.table --configs configs/table2.py:masa configs/table2.py:masa_rtrr --workdir=runs/masa
python -m rrsr_jax.experiments.table --configs configs/table1.py configs/rcan.py --workdir=runs/table1 --table1

A file that has rows stands for all of them, FILE:ROW for one. Each run is a process of `rrsr_jax.main` with a workdir of its own,
`WORKDIR/NAME/seed_N`, NAME being the row or the file. So memory is given back between runs, and one that dies takes no other with
it. Finished runs are not repeated. Ctrl-C or SIGTERM stops the run in progress after its step, and the list with it; the same
command goes on from there. A config whose `init_from` is the name of another one in the list starts from that one's run, so a
chain of stages is a list, too: `configs/chain.py`.

`--set` holds for every config that has the field. `--minutes` gives all runs the same time of training instead of their configs'
steps. A method then pays for what its step costs: reciprocal training gets about half the steps. The time of a step is measured
for every config before anything runs, and kept in `WORKDIR/seconds_per_step.json`. `steps` follows from it, and `decay_steps`
keep their place relative to the end. Correspondence nets keep their configs' steps. Compilation, checkpoints and evaluation are
not counted. Other work on the machine falsifies the measurement; the table has the minutes that each run took.

`--table1` also prints the paper's Table 1, all methods, and beside it the results of the configs that stand for them.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time
import zlib
from collections.abc import Sequence

import jax

from rrsr_jax import models
from rrsr_jax.console import StopRequest, exit_on_error
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.results import move_aside
from rrsr_jax.experiments import runs
from rrsr_jax.experiments.comparison import collect, markdown, table1
from rrsr_jax.experiments.runs import Run
from rrsr_jax.workdir import lock
from rrsr_jax.workdir.checkpoints import check_same_run
from rrsr_jax.workdir.files import write_atomically

# The fields of a config that the time of a training step depends on.
TIMED_FIELDS = (
    "model",
    "data",
    "batch_size",
    "accumulate",
    "loss",
    "learning_rates",
    "ema_decay",
    "stage",
    "discriminator",
)


MOST_SEEDS, MOST_MINUTES = 1_000, 1_000_000


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Bad input ends with a message and exit status 2 before anything runs, a failed run with 1 after all others."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--configs", nargs="+", required=True, help="FILE (all its rows) or FILE:ROW; wildcards in quotes"
    )
    parser.add_argument("--workdir", required=True, help="folder of all runs")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="for all configs")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each config")
    parser.add_argument("--minutes", type=float, help="of training for each run, instead of its config's steps")
    parser.add_argument(
        "--table1", action="store_true", help="also print the paper's Table 1 with the results beside it"
    )
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # the accelerator belongs to the runs
    workdir = pathlib.Path(options.workdir)
    failed = run_list(options.configs, workdir, options.set, options.seeds, options.minutes, options.table1)
    if failed:
        print(f"error: {len(failed)} run(s) failed, see above: {', '.join(map(str, failed))}", file=sys.stderr)
        sys.exit(1)


def run_list(
    configs: Sequence[str],
    workdir: pathlib.Path,
    overrides: Sequence[str],
    seeds: int,
    minutes: float | None,
    paper: bool = False,
) -> list[pathlib.Path]:
    """Runs what is not finished, writes `table.json` after each run, and prints the table; returns the failed runs' workdirs.

    A table of another list in that folder is moved aside first.

    Arguments as on the command line, see `main`; None for `minutes` keeps the configs' steps. If `paper`, the paper's Table 1
    follows.

    Raises:
      InputError: arguments, configs, data or a workdir that do not fit; nothing has run then.
    """
    if not 1 <= seeds <= MOST_SEEDS or (minutes is not None and not 0 < minutes <= MOST_MINUTES):
        raise InputError(
            f"--seeds from 1 to {MOST_SEEDS:,} and --minutes above 0, up to {MOST_MINUTES:,}, expected, got {seeds} and {minutes}"
        )
    if minutes and any(override.startswith("steps=") for override in overrides):
        raise InputError("--minutes or --set steps=N expected, got both")
    planned = runs.plan(configs, workdir, overrides, seeds)
    for run in {run.name: run for run in planned}.values():  # of each config the largest seed
        runs.check(run, planned)
    failed = []
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(lock.only_writer(workdir / lock.NAME, f"--workdir={workdir}"))
        stop = stack.enter_context(StopRequest())
        if minutes:
            planned = _share_time(planned, minutes, workdir, stop, held)
        for run in planned or ():
            check_same_run(run.workdir / "config.json", run.config)
        if planned:
            failed = _run_all(planned, workdir, minutes, stop, held)
        if stop.received():
            _say("stopped; the same command goes on from there")
    if planned:
        print(markdown(collect(planned)))
        if paper:
            print(f"\n{table1(collect(planned))}")
    return failed


def _run_all(
    planned: Sequence[Run], workdir: pathlib.Path, minutes: float | None, stop: StopRequest, held: int
) -> list[pathlib.Path]:
    """Runs what is not finished until asked to stop; returns the workdirs of what failed."""
    started, durations, failed = time.monotonic(), [], []
    for number, run in enumerate(planned, start=1):
        left = sum(runs.finished_results(other) is None for other in planned[number - 1 :])
        if stop.received() or runs.finished_results(run):
            continue
        what = f"{run.name} seed {run.config.seed}"
        if any(str(other.workdir) == run.config.init_from and not runs.finished_results(other) for other in planned):
            failed.append(run.workdir)
            _say(f"{what} is left out: it starts from {run.config.init_from}, which is not finished")
            continue
        each = statistics.mean(durations) if durations else 60 * (minutes or 0)
        remaining = f"about {_clock(each * left)} remaining" if each else "remaining time known after one run"
        _say(f"run {number} of {len(planned)}, {what}, {_clock(time.monotonic() - started)} elapsed, {remaining}")
        began = time.monotonic()
        status = runs.execute(run, stop.received, held)
        durations.append(time.monotonic() - began)
        table = workdir / "table.json"
        if _has_others(table, planned):
            move_aside(table)
        write_atomically(table, json.dumps(collect(planned), indent=2))
        if not stop.received() and not runs.finished_results(run):
            failed.append(run.workdir)
            _say(f"{what} failed with exit status {status}; its files are in {run.workdir}")
    return failed


def _has_others(table: pathlib.Path, planned: Sequence[Run]) -> bool:
    """Whether a table has rows or seeds of another list."""
    here = {(run.name, str(run.config.seed)) for run in planned}
    try:
        there = {(name, seed) for name, entry in json.loads(table.read_text()).items() for seed in entry["seeds"]}
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError, KeyError, TypeError):  # not one of ours
        return True
    return not there <= here


def _share_time(
    planned: Sequence[Run], minutes: float, workdir: pathlib.Path, stop: StopRequest, held: int
) -> list[Run] | None:
    """The runs with as many steps as fit into `minutes`; None if stopped while measuring."""
    path = workdir / "seconds_per_step.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    first = {run.name: run for run in reversed(planned) if run.config.model.name in models.MODELS}
    for number, (name, run) in enumerate(reversed(first.items()), start=1):
        fields = json.loads(run.config.to_json())
        timed = {field: fields[field] for field in TIMED_FIELDS if field in fields}
        config = zlib.crc32(json.dumps(timed, sort_keys=True).encode())
        if known.get(name, {}).get("config") != config:
            _say(f"timing a training step of {name}, {number} of {len(first)}")
            seconds = runs.measure_seconds_per_step(run, workdir / ".timing", stop.received, held)
            if seconds is None:
                return None
            known[name] = {"config": config, "seconds": seconds}
            write_atomically(path, json.dumps(known, indent=2))
        _say(f"{name}: {known[name]['seconds']:.3g} s per step, {_fitting(minutes, known[name]['seconds'])} steps")
    return [
        with_steps(run, _fitting(minutes, known[run.name]["seconds"])) if run.name in first else run for run in planned
    ]


def _fitting(minutes: float, seconds: float) -> int:
    return max(1, round(60 * minutes / seconds))


def with_steps(run: Run, steps: int) -> Run:
    """The run over another number of steps; its learning rates decay at the same fractions of it."""
    decays = tuple(max(1, round(decay * steps / run.config.steps)) for decay in run.config.decay_steps)
    return run.override(steps=steps, decay_steps=decays)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
