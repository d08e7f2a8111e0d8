"""A list of configs, one after another, and one table of what comes out: the paper's Table 2, say.

python -m rrsr_jax.table --configs='configs/table2/*.py' --workdir=runs/table2 [--set FIELD=VALUE ...] [--seeds=2] [--minutes=25]

Each run is a process of `rrsr_jax.main` with a workdir of its own, `WORKDIR/CONFIG/seed_N`: so memory is given back between
runs, and one that dies takes no other with it. Finished runs are not repeated. Ctrl-C or SIGTERM stops the run in progress, after
its step, and with it the list; the same command goes on from there.

`--set` holds for every config that has the field. `--minutes` gives all runs the same time of training instead of their
configs' steps, so that a method pays for what its step costs: reciprocal training gets about half the steps. The time of a
step is measured for every config before anything runs, and kept in `WORKDIR/step_seconds.json`; `steps` follows from it, and
`decay_steps` keep their place relative to the end. Compilation, checkpoints and evaluation are not counted. Other work on the
machine falsifies the measurement; the table has the minutes that each run then took.
"""

import argparse
import contextlib
import fcntl
import json
import pathlib
import statistics
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rrsr_jax import runs
from rrsr_jax.checkpoints import check_same_run, write_atomically
from rrsr_jax.errors import InputError
from rrsr_jax.runs import Run
from rrsr_jax.train import StopRequest

# The parts of a config that the time of a step depends on.
DECISIVE = ("model", "data", "batch_size", "loss", "learning_rates", "ema_decay")
# The metrics of `evaluate`, and how many digits of them are shown.
DIGITS = {"psnr_y": 2, "ssim_y": 4, "gmsd_y": 4}
# PSNR and SSIM on CUFED5 by config, as RRSR's paper has them (Tables 1 and 2).
PUBLISHED = {
    "cufed5": (28.83, 0.856),
    "rtrr_0_0": (28.70, 0.853),
    "rtrr_0_4": (28.83, 0.856),
    "k16": (28.83, 0.856),
    "c2": (28.40, 0.846),
    "c2_pfa": (28.63, 0.851),
    "c2_pfa_ras": (28.70, 0.853),
    "c2_pfa_ras_rtrr": (28.83, 0.856),
    "c2_rtrr": (28.64, 0.853),
    "c2_matching": (28.40, 0.846),
    "c2_matching_rtrr": (28.64, 0.853),
    "masa": (27.47, 0.815),
    "masa_rtrr": (27.58, 0.818),
    "ttsr": (27.03, 0.800),
    "ttsr_rtrr": (27.17, 0.804),
    "srcnn": (25.33, 0.745),
    "edsr": (25.93, 0.777),
    "rcan": (26.06, 0.769),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Bad input ends with a message and exit status 2 before anything runs, a failed run with 1 after all others."""
    parser = argparse.ArgumentParser(prog="python -m rrsr_jax.table", description=__doc__.split("\n")[0])
    parser.add_argument("--configs", nargs="+", required=True, help="config files; may have wildcards, in quotes")
    parser.add_argument("--workdir", required=True, help="folder of all runs")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="for all configs")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each config")
    parser.add_argument("--minutes", type=float, help="of training for each run, instead of its config's steps")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # the accelerator belongs to the runs
    try:
        failed = make_table(options.configs, pathlib.Path(options.workdir), options.set, options.seeds, options.minutes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if failed:
        print(f"error: {len(failed)} run(s) failed, see above: {', '.join(map(str, failed))}", file=sys.stderr)
        sys.exit(1)


def make_table(
    configs: Sequence[str], workdir: pathlib.Path, overrides: Sequence[str], seeds: int, minutes: float | None
) -> list[pathlib.Path]:
    """Runs what is not finished, writes `table.json` after each run, and prints the table; returns the failed runs' workdirs."""
    if seeds < 1 or (minutes is not None and minutes <= 0):
        raise InputError(f"--seeds of at least 1 and --minutes above 0 expected, got {seeds} and {minutes}")
    if minutes and any(override.startswith("steps=") for override in overrides):
        raise InputError("--minutes or --set steps=N expected, got both")
    planned = runs.plan(configs, workdir, overrides, seeds)
    for run in {run.name: run for run in planned}.values():
        runs.check(run)
    failed = []
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_claim(workdir))
        stop = stack.enter_context(StopRequest())
        if minutes:
            planned = _share_time(planned, minutes, workdir, stop, lock)
        for run in planned or ():
            check_same_run(run.workdir / "config.json", run.config)
        if planned:
            failed = _run_all(planned, workdir, minutes, stop, lock)
        if stop.received():
            _say("stopped; the same command goes on from there")
    if planned:
        print(markdown(summary(planned)))
    return failed


def _claim(workdir: pathlib.Path):
    """An open, locked file; its lock lives as long as this process or a run that it has started."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w")
    except OSError as error:
        raise InputError(f"--workdir={workdir}: a writable folder expected ({error})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(
            f"--workdir={workdir}: another command, or a run it has left behind, is at work there"
        ) from error
    return file


def _run_all(planned: Sequence[Run], workdir: pathlib.Path, minutes, stop: StopRequest, lock) -> list[pathlib.Path]:
    """Runs what is not finished until asked to stop; returns the workdirs of what failed."""
    started, durations, failed = time.monotonic(), [], []
    for number, run in enumerate(planned, start=1):
        left = sum(runs.results(other) is None for other in planned[number - 1 :])
        if stop.received() or runs.results(run):
            continue
        what = f"{run.name} seed {run.config.seed}"
        each = statistics.mean(durations) if durations else 60 * (minutes or 0)
        to_go = f"about {_clock(each * left)} to go" if each else "time to go known after one run"
        _say(f"run {number} of {len(planned)}, {what}, {_clock(time.monotonic() - started)} elapsed, {to_go}")
        began = time.monotonic()
        status = runs.execute(run, stop.received, lock.fileno())
        durations.append(time.monotonic() - began)
        write_atomically(workdir / "table.json", json.dumps(summary(planned), indent=2))
        if not stop.received() and not runs.results(run):
            failed.append(run.workdir)
            _say(f"{what} failed with exit status {status}; {run.workdir} has what there is")
    return failed


def _share_time(
    planned: Sequence[Run], minutes: float, workdir: pathlib.Path, stop: StopRequest, lock
) -> list[Run] | None:
    """The runs with as many steps as fit into `minutes`; None if stopped while measuring."""
    path = workdir / "step_seconds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    first = {run.name: run for run in reversed(planned)}
    for number, (name, run) in enumerate(reversed(first.items()), start=1):
        decisive = {part: json.loads(run.config.to_json())[part] for part in DECISIVE}
        config = zlib.crc32(json.dumps(decisive, sort_keys=True).encode())
        if known.get(name, {}).get("config") != config:
            _say(f"timing the steps of {name}, {number} of {len(first)}")
            seconds = runs.step_seconds(run, workdir / ".timing", stop.received, lock.fileno())
            if seconds is None:
                return None
            known[name] = {"config": config, "seconds": seconds}
            write_atomically(path, json.dumps(known, indent=2))
        _say(f"{name}: {known[name]['seconds']:.3g} s a step, {_fitting(minutes, known[name]['seconds'])} steps")
    return [with_steps(run, _fitting(minutes, known[run.name]["seconds"])) for run in planned]


def _fitting(minutes: float, seconds: float) -> int:
    return max(1, round(60 * minutes / seconds))


def with_steps(run: Run, steps: int) -> Run:
    """The run over another number of steps; its learning rates decay at the same fractions of it."""
    decays = tuple(max(1, round(decay * steps / run.config.steps)) for decay in run.config.decay_steps)
    return run.override(steps=steps, decay_steps=decays)


def summary(planned: Sequence[Run]) -> dict[str, Any]:
    """Per config its file, the published figures, and of every finished seed steps, minutes of training and results by set."""
    table = {}
    for run in planned:
        row = table.setdefault(run.name, {"config": run.path, "published": PUBLISHED.get(run.name), "seeds": {}})
        if found := runs.results(run):
            row["seeds"][run.config.seed] = {"minutes": _training_minutes(run), **found}
    return table


def _training_minutes(run: Run) -> float | None:
    """Of all steps at the speed of the last ones."""
    last = runs.records(run)[-1]
    speed = last["images_per_second"]
    return round(run.config.steps * run.config.batch_size / speed / 60, 2) if speed else None


def markdown(table: Mapping[str, Any]) -> str:
    """A table per test set: means over seeds with standard deviations; each config with its first way to choose a reference."""
    sets = dict.fromkeys(name for row in table.values() for seed in row["seeds"].values() for name in seed["sets"])
    lines = []
    for name in sets:
        titles = ("config", "reference", "border", "seeds", "steps", "minutes", "PSNR", "SSIM", "GMSD")
        titles += ("paper: PSNR", "SSIM")
        lines += [
            f"{name}, on Y, GMSD the lower the better; the paper's figures are those of CUFED5",
            "",
            _row(*titles),
            "|---" * len(titles) + "|",
        ]
        rows = {
            config: [seed for seed in row["seeds"].values() if name in seed["sets"]] for config, row in table.items()
        }
        one = next(found for found in rows.values() if found)
        lines.append(_result_row("bicubic", name, one[:1], "bicubic", None))
        for config, found in rows.items():
            columns = found[0]["sets"][name]["columns"] if found else ()
            column = next((column for column in columns if column != "bicubic"), "bicubic")
            lines.append(_result_row(config, name, found, column, table[config]["published"]))
        lines.append("")
    return "\n".join(lines).rstrip()


def _result_row(label: str, name: str, found: Sequence[Mapping[str, Any]], column: str, published) -> str:
    """One row, of the seeds that are finished; bicubic knows neither seeds nor steps."""
    published = published or ("", "")
    if not found:
        return _row(label, "", "", 0, "", "", *[""] * len(DIGITS), *published)
    results = [seed["sets"][name] for seed in found]
    scores = _scores([result["columns"][column] for result in results])
    if column == "bicubic":
        return _row(label, "", results[0]["border"], "", "", "", *scores, *published)
    minutes = f"{statistics.mean(seed['minutes'] or 0 for seed in found):.1f}"
    column = column.replace("_", " ")
    return _row(label, column, results[0]["border"], len(found), found[0]["step"], minutes, *scores, *published)


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _scores(seeds: Sequence[Mapping[str, float]]) -> list[str]:
    """Mean and deviation of each metric that all of them have: older results are without GMSD."""
    shown = []
    for metric, digits in DIGITS.items():
        if not all(metric in seed for seed in seeds):
            shown.append("")
            continue
        values = [seed[metric] for seed in seeds]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        shown.append(f"{statistics.mean(values):.{digits}f}{spread}")
    return shown


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
