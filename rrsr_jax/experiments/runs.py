"""Runs of configs as processes of `rrsr_jax.main`: what they are, whether they are finished, and how to start and stop one.

Nothing here uses an accelerator, which belongs to the process that runs.
"""

import contextlib
import difflib
import glob
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from rrsr_jax.errors import InputError
from rrsr_jax.training import train

# A step is timed over at least so many steps and seconds, after the first.
TIMED_STEPS, TIMED_SECONDS = 3, 10.0


class Run(NamedTuple):
    """One config with one seed.

    Attributes:
      name: the config's, without folder and ending.
      path: of the config file.
      overrides: `field=value`, by which the config differs from its file.
      config: with the overrides.
      workdir: of this run alone.
    """

    name: str
    path: str
    overrides: tuple[str, ...]
    config: ConfigDict
    workdir: pathlib.Path

    def override(self, **fields: Any) -> "Run":
        """The same run with other values; two underscores stand for a dot."""
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        kept = [override for override in self.overrides if override.partition("=")[0] not in fields]
        overrides = (*kept, *(f"{name}={value}" for name, value in fields.items()))
        return self._replace(overrides=overrides, config=load_config(self.path, overrides))


def load_config(path: str, overrides: Iterable[str]) -> ConfigDict:
    """The config of a file with `field=value` overrides, read exactly as `rrsr_jax.main` reads its command line."""
    argv = ["", f"--config={path}", *(f"--config.{override}" for override in overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        holder.value.steps  # noqa: B018  # what is wrong with the file is raised at the first use
    except (flags.Error, OSError, SyntaxError) as error:
        raise InputError(f"{path}: {error}") from error
    return holder.value


def plan(patterns: Sequence[str], workdir: pathlib.Path, overrides: Sequence[str], seeds: int) -> list[Run]:
    """All runs, config by config, each with seeds that count up from the config's; a run comes after the one it starts from.

    A config whose `init_from` is the name of another one in the list starts from that one's run, of the same place among seeds.

    Args:
      patterns: config files; may have wildcards.
      workdir: each run gets `CONFIG/seed_N` in it.
      overrides: `field=value` for every config that has the field.
      seeds: number of runs of each config.

    Raises:
      InputError: no such file, two of one name, or an override that no config has or that does not fit.
    """
    paths = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or _nothing(pattern)]
    names = [pathlib.Path(path).stem for path in paths]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--configs: files of different names expected, got several called {', '.join(sorted(twice))}")
    known = {path: fields(load_config(path, ())) for path in paths}
    check_overrides(overrides, known)
    runs = []
    for name, path in zip(names, paths, strict=True):
        own = tuple(override for override in overrides if override.partition("=")[0] in known[path])
        config = load_config(path, own)
        for seed in range(config.seed, config.seed + seeds):
            run = Run(name, path, own, config, workdir / name / f"seed_{seed}")
            runs.append(run.override(seed=seed) if seed != config.seed else run)
    return _in_order(names, runs, seeds)


def _in_order(names: Sequence[str], runs: Sequence[Run], seeds: int) -> list[Run]:
    """The runs with `init_from` as a folder where it was a name, and each config after the one that it starts from."""
    by_name = {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(names)}
    sources = {name: own[0].config.init_from for name, own in by_name.items() if own[0].config.init_from in by_name}
    for name, source in sources.items():
        pairs = zip(by_name[name], by_name[source], strict=True)
        by_name[name] = [run.override(init_from=str(other.workdir)) for run, other in pairs]
    ordered, waiting = [], list(names)
    while waiting:
        ready = [name for name in waiting if sources.get(name) not in waiting]
        if not ready:
            raise InputError(f"config.init_from: {', '.join(waiting)} start from each other")
        ordered += by_name[ready[0]]
        waiting.remove(ready[0])
    return ordered


def _nothing(pattern):
    raise InputError(f"--configs: no file {pattern}")


def check_overrides(overrides: Sequence[str], known: Mapping[str, set[str]]) -> None:
    """InputError for what no config has, whose fields are `known` by path; a note on what some have not."""
    everywhere = set().union(*known.values())
    for override in overrides:
        field, given, _ = override.partition("=")
        if not given:
            raise InputError(f"--set: field=value expected, got {override!r}")
        if field not in everywhere:
            near = difflib.get_close_matches(field, everywhere, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--set {override}: none of the configs has a field {field}{hint}")
        if without := [pathlib.Path(path).stem for path in known if field not in known[path]]:
            print(f"note: --set {override} says nothing to {', '.join(without)}", file=sys.stderr)


def fields(config: ConfigDict, prefix: str = "") -> set[str]:
    """Names of all fields, dotted."""
    names = set()
    for name, value in config.items():
        names |= {prefix + name} | (fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else set())
    return names


def check(run: Run) -> None:
    """Raises InputError for what would end the run before its first step: model, schedule, data, test sets."""
    config = run.config
    try:
        stage, batches = train.open_run(config)
        batches.close()
        if not stage.test_sets:
            raise InputError("config.eval.sets is empty: names of prepared datasets, or embedded, expected")
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from error


def results(run: Run) -> dict[str, Any] | None:
    """What the run's `results.json` says, if it is finished: the asked step, all sets, no failed image, this very config."""
    try:
        there = json.loads((run.workdir / "config.json").read_text())
        written = json.loads((run.workdir / "results.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    wanted = {name for name in run.config.eval.sets.split(",") if name}
    if (
        there != json.loads(run.config.to_json())
        or written["step"] != run.config.steps
        or wanted - set(written["sets"])
    ):
        return None
    sets = {name: written["sets"][name] for name in written["sets"] if name in wanted}
    return None if any(result["failed"] for result in sets.values()) else {"step": written["step"], "sets": sets}


def records(run: Run) -> list[dict[str, Any]]:
    """What the run has logged of its training so far."""
    path, found = run.workdir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # a line that is being written
            found.append(json.loads(line))
    return [record for record in found if "train/loss" in record]


def execute(run: Run, stop: Callable[[], bool], lock: int) -> int:
    """Runs or continues it, and returns the exit status; when `stop` says so, it is told to save and end.

    Args:
      run: what to run.
      stop: asked a few times a second.
      lock: an open file that the process keeps open as long as it lives.
    """
    run.workdir.mkdir(parents=True, exist_ok=True)
    # Results of another evaluation would look like this one's, once the config beside them is the new one.
    (run.workdir / "results.json").unlink(missing_ok=True)
    call = [sys.executable, "-m", "rrsr_jax.main", f"--config={run.path}", f"--workdir={run.workdir}"]
    call += [f"--config.{override}" for override in run.overrides]
    # A session of its own: Ctrl-C comes here, and reaches the run once. Its tables go where its progress goes.
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


def step_seconds(run: Run, scratch: pathlib.Path, stop: Callable[[], bool], lock: int) -> float | None:
    """Seconds of one training step, from the first steps of the run, which are thrown away; None if asked to stop.

    Raises:
      InputError: the run ended before there was something to measure.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    many = 1_000_000  # the remaining time, in whole seconds, tells the time of a step all the better
    quiet = dict(checkpoint_every=many, image_every=many, eval__every=0, eval__sets="", init_from="")
    if "pixel_steps" in run.config:  # most of a GAN run's steps are those with the discriminator
        quiet["pixel_steps"] = 0
    trial = run._replace(workdir=scratch).override(steps=many, log_every=1, **quiet)
    since = None

    def enough():
        nonlocal since
        if since is None and records(trial):
            since = time.monotonic()
        return since is not None and time.monotonic() - since >= TIMED_SECONDS and len(records(trial)) > TIMED_STEPS

    execute(trial, lambda: stop() or enough(), lock)
    measured = records(trial)
    shutil.rmtree(scratch, ignore_errors=True)
    if stop():
        return None
    if len(measured) <= TIMED_STEPS:
        raise InputError(f"{run.path}: ended after {len(measured)} steps, before a step could be timed; see above")
    return measured[-1]["eta_seconds"] / (many - measured[-1]["step"])
