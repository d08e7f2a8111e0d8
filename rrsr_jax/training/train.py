"""Training: one function from a config to a trained, evaluated model, for every stage."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from rrsr_jax import config_checks, processes
from rrsr_jax.console import StopRequest, log
from rrsr_jax.data import pipeline
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import results
from rrsr_jax.evaluation.results import Results
from rrsr_jax.evaluation.sharing import Stopped
from rrsr_jax.training import stages
from rrsr_jax.training.source import Source, to_devices
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.step import GO_ON, NO_BATCH, make_mesh, place
from rrsr_jax.workdir.checkpoints import Checkpoints, check_same_run, claim_workdir
from rrsr_jax.workdir.files import inside
from rrsr_jax.workdir.integrity import has_checkpoint
from rrsr_jax.workdir.lock import only_job
from rrsr_jax.workdir.progress import Profiler, Progress
from rrsr_jax.workdir.state import TrainState, eval_params, parameter_names


def train_and_evaluate(config: ConfigDict, workdir: str) -> Results | None:
    """Trains until `config.steps`, or goes on where a run in `workdir` stopped, then evaluates.

    A run starts from the first of these that is there: the newest checkpoint in `workdir`; `config.init_from`;
    `config.weights` and random numbers. SIGINT and SIGTERM save after the step in progress, or two later if there are several
    processes; the same call goes on from there.

    Returns:
      Results by set, or None if stopped early; the same call goes on then.

    Raises:
      InputError: bad config, data, weights or workdir, or another command at work there; nothing is changed then.
      FloatingPointError: a loss or gradient is not finite; the last checkpoint is from before it.
    """
    folder = pathlib.Path(workdir)
    config_checks.check(config)

    with contextlib.ExitStack() as stack:
        stack.enter_context(only_job(folder))
        check_same_run(folder / "config.json", config)

        log(
            f"opening the data and building the model, on {jax.device_count()} {jax.devices()[0].device_kind} device(s)"
        )
        starts = not processes.of_first(has_checkpoint(folder))
        stage, data, abstract = open_run(config, starts)
        processes.check_alike(f"data set, {config.data.name} in {config.data.dir}", data.identity)
        state = None
        if starts:
            state = place(stage.initial_state(), stage.mesh)
            claim_workdir(folder, config)

        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder, config, data.identity)))
        stop = stack.enter_context(StopRequest())
        if state is None:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(abstract)
            claim_workdir(folder, config)
        batches = stack.enter_context(contextlib.closing(data.start(int(state.step), to_devices(stage.mesh))))
        progress = Progress(folder, int(state.step), config.steps, config.batch_size)
        stack.enter_context(contextlib.closing(progress))
        profiler = Profiler(inside(folder, "profile"), int(state.step), config.profile_steps)
        stack.enter_context(contextlib.closing(profiler))

        def evaluate_at(state: TrainState) -> Results | None:
            found = _evaluate(stage, folder, eval_params(state), int(state.step), stop)
            if found is not None:
                progress.write_evaluation(int(state.step), results.flat(found))
            return found

        source = Source(batches, stage.mesh, stop)
        state = _train(state, source, stage, checkpoints, progress, profiler, evaluate_at)
        if int(state.step) < config.steps:
            log(f"stopped and saved at step {int(state.step)}; the same command goes on from there")
            return None
        return results.check_complete(evaluate_at(state), folder)


def evaluate_only(config: ConfigDict, workdir: str) -> Results | None:
    """Evaluates the newest checkpoint in `workdir`; without one, what `config.weights` or `config.init_from` names.

    Returns:
      Results by set, or None if stopped; the same call goes on then.

    Raises:
      InputError: nothing trained to evaluate; another command at work in `workdir`; or an image that failed, and the results
        of all others are written then.
    """
    folder = pathlib.Path(workdir)
    config_checks.check(config)
    with only_job(folder):
        return _evaluate_only(config, folder)


def _evaluate_only(config: ConfigDict, folder: pathlib.Path) -> Results | None:
    check_same_run(folder / "config.json", config)
    stage = stages.build(config, make_mesh())
    if not stage.test_sets:
        raise InputError("config.eval.sets is empty: names of prepared datasets, or embedded, expected")
    params, step = None, "none"
    needed = stage.NEEDS_MODEL or any(set(test_set.references) != {"bicubic"} for test_set in stage.test_sets)
    complete = {part: path for part, path in config.weights.items() if part in stage.COMPLETE_WEIGHTS}
    if processes.of_first(has_checkpoint(folder)):
        with contextlib.closing(Checkpoints(folder)) as checkpoints:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(stage.abstract_state())
        params, step = eval_params(state), int(state.step)
    elif needed and (config.init_from or any(complete.values())):
        params = place(stage.initial_state(complete=True), stage.mesh).generator
        step = f"{config.init_from} {config.weights.to_json()}"
    elif needed:
        without = "" if stage.NEEDS_MODEL else "; or --config.eval.references=bicubic, which needs no model"
        raise InputError(
            f"no checkpoint in {folder}/checkpoints; the folder of a run expected that has saved one (or "
            f"{''.join(f'--config.weights.{part}, ' for part in complete)}--config.init_from{without})"
        )
    claim_workdir(folder, config)
    with StopRequest() as stop:
        found = _evaluate(stage, folder, params, step, stop)
    return results.check_complete(found, folder)


def open_run(
    config: ConfigDict, starts: bool, planned: Mapping[str, str] | None = None
) -> tuple[Stage, pipeline.TrainingData, TrainState]:
    """The stage of a config, its training data, and the shapes of its state.

    Args:
      config: of the run.
      starts: whether it has no checkpoint yet. The files and the run that it starts from must be there then.
      planned: see `Stage.check_sources`.

    Raises:
      InputError: whatever would end the run before its first step.
    """
    config_checks.check(config)
    _check_batch(config.batch_size, config.accumulate, jax.device_count())
    stage = stages.build(config, make_mesh())
    if starts:
        stage.check_sources(planned or {})
    return stage, stage.training_data(planned or {}), stage.abstract_state()


def _check_batch(batch_size: int, accumulate: int, devices: int) -> None:
    """Raises InputError unless all devices get as many images, in equal pieces."""
    each, rest = divmod(batch_size, devices)
    if rest:
        near = " or ".join(str(n * devices) for n in (each, each + 1) if n)
        fewer = " or ".join(str(n) for n in range(1, devices) if batch_size % n == 0)
        raise InputError(
            f"config.batch_size: a multiple of {devices} devices expected, such as {near}, got {batch_size}; "
            f"{batch_size} images divide among {fewer} of them"
        )
    if each % accumulate:
        fitting = ", ".join(str(n) for n in range(1, each + 1) if each % n == 0)
        raise InputError(
            f"config.accumulate: a divisor of the {each} images of a device ({fitting}) expected, got {accumulate}; "
            f"config.batch_size={batch_size} is that of all {devices} devices and pieces together"
        )


class _Check:
    """Fetches whether a step's numbers were finite, and what was told with it, when the next step is already under way, so that
    no device waits.

    `settle` makes up for the delay: whoever writes something from the state calls it first. All processes call it alike.

    Attributes:
      notice: the largest that any process has given so far.
    """

    def __init__(self, names: Sequence[str], checkpoints: Checkpoints):
        self._names, self._checkpoints = names, checkpoints
        self._before: Mapping[str, jax.Array] | None = None  # metrics of the last step that was checked
        self._unchecked: tuple[int, Mapping[str, jax.Array]] | None = None
        self.notice = GO_ON

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Checks the step before, and keeps this one; FloatingPointError as `settle`."""
        self.settle()
        self._unchecked = step, metrics

    def settle(self) -> None:
        """Waits for the last step and checks it.

        Raises:
          FloatingPointError: a number is not finite; names the step and the parameters with the largest gradients.
        """
        if self._unchecked is None:
            return
        step, metrics = self._unchecked
        if not metrics["finite"]:
            self._checkpoints.wait()
            names = self._names
            before = "" if self._before is None else f" (a step before: {names[int(self._before['largest_gradient'])]})"
            raise FloatingPointError(
                f"step {step}: not finite: {to_log(metrics)}; the largest gradient is that of "
                f"{names[int(metrics['largest_gradient'])]}{before}; "
                f"the last good checkpoint is {self._checkpoints.latest() or 'none'}. "
                "Look at the data of this step, or start in a new workdir with a lower learning rate"
            )
        self.notice = max(self.notice, int(metrics.get("notice", GO_ON)))
        self._before, self._unchecked = metrics, None


def to_log(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """A step's metrics as numbers, in one transfer, without those that the loop is for."""
    shown = {k: v for k, v in metrics.items() if k not in ("finite", "largest_gradient", "notice", "skipped")}
    return {k: float(v) for k, v in jax.device_get(shown).items()}


def _train(
    state: TrainState,
    source: Source,
    stage: Stage,
    checkpoints: Checkpoints,
    progress: Progress,
    profiler: Profiler,
    evaluate_at: Callable[[TrainState], Results | None],
) -> TrainState:
    """The loop, until `config.steps` or a request to stop. Metrics are fetched at log steps only, see `_Check`."""
    config, step, skipped = stage.config, int(state.step), []
    check, compiled = _Check(parameter_names(state), checkpoints), set()

    def paused() -> contextlib.AbstractContextManager[None]:
        """For all that is no step: waits for the last one and checks it; what follows is not timed."""
        check.settle()
        return progress.paused()

    def save() -> None:
        check.settle()
        checkpoints.save(state)

    if step < config.steps:
        log("compiling the training step (once; a minute or two for the full model)")
    while step < config.steps and check.notice == GO_ON:
        if config.eval.every and step and step % config.eval.every == 0 and step not in progress.evaluated:
            with paused():
                save()  # an evaluation may take long, and fail
                if evaluate_at(state) is None:
                    break
            continue
        batch = source.next()
        if batch is None:
            break
        update = stage.step(step)
        if counted := update in compiled:
            state, metrics = update(state, batch)
        else:  # neither the compilation nor this step is timed
            with paused():
                state, metrics = jax.block_until_ready(update(state, batch))
            compiled.add(update)
        step += 1
        check.add(step, metrics)
        progress.stepped(step, counted)
        checkpoints.check()
        skipped += [metrics["skipped"]] if "skipped" in metrics else []
        if step % config.log_every == 0 or step == config.steps:
            check.settle()
        if check.notice == NO_BATCH:  # nothing has changed
            break
        if step % config.log_every == 0 or step == config.steps:
            skipped = [sum(map(int, skipped))] if skipped else []
            progress.write(step, to_log(metrics) | ({"skipped": skipped[0]} if skipped and skipped[0] else {}))
        profiler.stepped(step, state)
        if step % config.image_every == 0:
            with paused():
                if processes.is_first():
                    for name, image in stage.pictures(on_one_device(eval_params(state)), batch).items():
                        progress.image(name, image, step)
        if step % config.checkpoint_every == 0 or step == config.steps:
            with paused():
                save()
    profiler.close()
    if step < config.steps:
        log("stopping: saving")
    save()
    checkpoints.wait()
    source.raise_problem()  # to go on from here, once the data is mended or the record skipped
    return state


def _evaluate(
    stage: Stage, workdir: pathlib.Path, params: Mapping[str, Any] | None, step: int | str, stop: StopRequest
) -> Results | None:
    """Evaluates on all devices; the first process prints a table and writes `results.json`. None if any was asked to stop."""
    if not stage.test_sets:
        return {}
    try:
        found = stage.evaluate(params, step, workdir, stop.received)
    except Stopped:
        log("stopped while evaluating; the same command goes on from there")
        return None
    if processes.is_first():
        results.write(workdir / "results.json", results.identity(params, step, stage.config), found)
        log(f"step {step}: results in {workdir}/results.json")
        print(stage.report(found))
    processes.gather("evaluated")
    return found


def on_one_device(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first device's copy of replicated arrays."""
    return jax.tree.map(lambda a: a.addressable_data(0), params)
