"""Runs of configs as processes of `rrsr_jax.main`: what they are, whether they are finished, and how to start and stop one.

Nothing here uses an accelerator, which belongs to the process that runs.
"""

import functools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rrsr_jax import config_files
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import results
from rrsr_jax.training import train
from rrsr_jax.workdir.files import inside
from rrsr_jax.workdir.integrity import has_checkpoint
from rrsr_jax.workdir.progress import read_records

# A training step is timed over at least so many steps and seconds, after the first.
TIMED_STEPS, TIMED_SECONDS = 3, 10.0
# Fields with the workdir of another run; in a list, the name of another config stands for its run.
RUN_FIELDS = (
    "init_from",
    "weights.ranksrgan_ranker",
    *(f"rank_set.{name}" for name in ("srresnet", "srgan", "esrgan")),
)


class Run(NamedTuple):
    """One config with one seed.

    Attributes:
      name: the config's row, or its file's name without folder and ending.
      file: the config as `--config` takes it, FILE or FILE:ROW.
      overrides: `field=value`, by which the config differs from its file.
      config: with the overrides.
      workdir: of this run alone.
    """

    name: str
    file: str
    overrides: tuple[str, ...]
    config: ConfigDict
    workdir: pathlib.Path

    def override(self, **fields: Any) -> "Run":
        """The same run with other values; two underscores stand for a dot."""
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        kept = [override for override in self.overrides if override.partition("=")[0] not in fields]
        overrides = (*kept, *(f"{name}={value}" for name, value in fields.items()))
        return self._replace(overrides=overrides, config=config_files.load(self.file, overrides))


def plan(patterns: Sequence[str], workdir: pathlib.Path, overrides: Sequence[str], seeds: int) -> list[Run]:
    """All runs, config by config, each with seeds that count up from the config's; a run comes after the one it starts from.

    A config one of whose `RUN_FIELDS` is the name of another one in the list gets that one's run, of the same place among seeds.

    Args:
      patterns: FILE or FILE:ROW; FILE may have wildcards, and without ROW stands for all its rows.
      workdir: each run gets `NAME/seed_N` in it.
      overrides: `field=value` for every config that has the field.
      seeds: number of runs of each config.

    Raises:
      InputError: no such file or row, two of one name, or an override that no config has or that does not fit.
    """
    files = [file for pattern in patterns for file in config_files.expand(pattern)]
    names = [config_files.name(file) for file in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--configs: configs of different names expected, got several of {', '.join(sorted(twice))}")
    known = {file: config_files.fields(config_files.load(file)) for file in files}
    config_files.check_overrides(overrides, known)
    runs = []
    for name, file in zip(names, files, strict=True):
        own = tuple(override for override in overrides if override.partition("=")[0] in known[file])
        config = config_files.load(file, own)
        for seed in range(config.seed, config.seed + seeds):
            run = Run(name, file, own, config, inside(workdir, name, f"seed_{seed}"))
            runs.append(run.override(seed=seed) if seed != config.seed else run)
    return _in_order(names, runs, seeds)


def _in_order(names: Sequence[str], runs: Sequence[Run], seeds: int) -> list[Run]:
    """The runs with a folder in each of `RUN_FIELDS` where there was a name, and each config after those that it needs."""
    by_name = {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(names)}
    sources: dict[str, dict[str, str]] = {}
    for name, (first, *_) in by_name.items():
        fields = {field: _value(first.config, field) for field in RUN_FIELDS}
        sources[name] = {field: other for field, other in fields.items() if other in by_name}
    for name, needed in sources.items():
        for field, source in needed.items():
            pairs = zip(by_name[name], by_name[source], strict=True)
            by_name[name] = [run.override(**{field.replace(".", "__"): str(other.workdir)}) for run, other in pairs]
    ordered, waiting = [], list(names)
    while waiting:
        ready = [name for name in waiting if not set(sources[name].values()) & set(waiting)]
        if not ready:
            raise InputError(f"config.init_from: {', '.join(waiting)} start from each other")
        ordered += by_name[ready[0]]
        waiting.remove(ready[0])
    return ordered


def _value(config: ConfigDict, field: str) -> str:
    """The value of a field with dots; empty if the config does not have it."""
    if field not in config_files.fields(config):
        return ""
    return functools.reduce(lambda part, name: part[name], field.split("."), config)


def check(run: Run, planned: Sequence[Run]) -> None:
    """Raises InputError for what would end the run before its first step, or leave it without results.

    Args:
      run: one of `planned`.
      planned: all runs of the list; it may start from one of them.
    """
    starts = any(not has_checkpoint(other.workdir) for other in planned if other.name == run.name)
    try:
        stage, _, _ = train.open_run(run.config, starts, {str(other.workdir): other.config.stage for other in planned})
        if not stage.test_sets:
            raise InputError("config.eval.sets is empty: names of prepared datasets, or embedded, expected")
    except InputError as error:
        raise InputError(f"{run.file}: {error}") from error


def finished_results(run: Run) -> dict[str, Any] | None:
    """`step` and `sets` of the run's `results.json`; None unless they are of all its steps, all its test sets, no failed image,
    and this very config.
    """
    try:
        saved_config = json.loads((run.workdir / "config.json").read_text())
        written = json.loads((run.workdir / "results.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    wanted = {name for name in run.config.eval.sets.split(",") if name}
    if (
        saved_config != json.loads(run.config.to_json())
        or written["step"] != run.config.steps
        or wanted - set(written["sets"])
    ):
        return None
    sets = {name: written["sets"][name] for name in written["sets"] if name in wanted}
    return None if any(result["failed"] for result in sets.values()) else {"step": written["step"], "sets": sets}


def training_records(run: Run) -> list[dict[str, Any]]:
    """What the run has recorded of its training so far."""
    return [record for record in read_records(run.workdir) if "train/loss" in record]


def seconds_per_step(run: Run) -> float | None:
    """Mean over the run's records, of training alone; None if no record has it."""
    seconds = [record["seconds_per_step"] for record in training_records(run) if record.get("seconds_per_step")]
    return statistics.mean(seconds) if seconds else None


def execute(run: Run, stop: Callable[[], bool], lock: int) -> int:
    """Runs or continues it, and returns the exit status; when `stop` says so, it is told to save and end.

    Args:
      run: what to run.
      stop: asked a few times a second.
      lock: the descriptor of an open file that the process keeps open as long as it lives.
    """
    run.workdir.mkdir(parents=True, exist_ok=True)
    # Results of another evaluation would look like this one's, once the config beside them is the new one.
    if (run.workdir / "results.json").exists():
        results.move_aside(run.workdir / "results.json")
    call = [sys.executable, "-m", "rrsr_jax.main", f"--config={run.file}", f"--workdir={run.workdir}"]
    call += [f"--config.{override}" for override in run.overrides]
    # A session of its own: Ctrl-C comes here, and reaches the run once. Its results go where its progress goes.
    process = subprocess.Popen(call, stdout=2, start_new_session=True, pass_fds=(lock,))
    asked = False
    try:
        while process.poll() is None:
            if not asked and stop():
                asked = True
                process.terminate()
            time.sleep(0.1)
    except BaseException:  # asked a second time: so is the run
        process.terminate()
        process.wait()
        raise
    return process.returncode


def measure_seconds_per_step(run: Run, scratch: pathlib.Path, stop: Callable[[], bool], lock: int) -> float | None:
    """Seconds of one training step, from the first steps of the run, which are thrown away; None if asked to stop.

    Raises:
      InputError: the run ended before there was something to measure.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    never = 1_000_000  # in steps
    quiet: dict[str, Any] = dict(checkpoint_every=never, image_every=never, eval__every=0, eval__sets="", init_from="")
    if "pixel_steps" in run.config:  # most of a GAN run's steps are those with the discriminator
        quiet["pixel_steps"] = 0
    if _value(run.config, "weights.ranksrgan_ranker"):  # which may not be there yet
        quiet["loss__ranking"] = 0.0
    trial = run._replace(workdir=scratch).override(steps=never, log_every=1, **quiet)
    since = None

    def enough() -> bool:
        nonlocal since
        recorded = len(training_records(trial))
        if since is None and recorded:
            since = time.monotonic()
        return since is not None and time.monotonic() - since >= TIMED_SECONDS and recorded > TIMED_STEPS

    execute(trial, lambda: stop() or enough(), lock)
    recorded, seconds = len(training_records(trial)), seconds_per_step(trial)
    shutil.rmtree(scratch, ignore_errors=True)
    if stop():
        return None
    if recorded <= TIMED_STEPS or seconds is None:
        raise InputError(f"{run.file}: ended after {recorded} steps, before a step could be timed; see above")
    return seconds
