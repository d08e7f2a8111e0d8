"""Training: one function from a config to a trained, evaluated model, for every stage."""

import contextlib
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax.console import StopRequest, log
from rrsr_jax.data import pipeline
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, results
from rrsr_jax.evaluation.results import Results
from rrsr_jax.training import stages
from rrsr_jax.training.stages import Stage
from rrsr_jax.training.step import DATA_AXIS, make_decay, make_mesh, parameter_names, place
from rrsr_jax.workdir.checkpoints import Checkpoints, check_same_run, claim_workdir
from rrsr_jax.workdir.integrity import has_checkpoint
from rrsr_jax.workdir.progress import Progress
from rrsr_jax.workdir.state import TrainState, eval_params


def train_and_evaluate(config: ConfigDict, workdir: str) -> Results | None:
    """Trains until `config.steps`, or from where a run in `workdir` stopped, then evaluates.

    Where a run starts: 1. the newest checkpoint in `workdir`; 2. `config.init_from`; 3. `config.weights` and random numbers.
    SIGINT and SIGTERM save after the step in progress; the same call goes on from there.

    Returns:
      Results by set, or None if stopped early or if the config names no test set.

    Raises:
      InputError: bad config, data, weights or workdir; nothing is changed then.
      FloatingPointError: a loss or gradient that is not finite; the last checkpoint is from before it.
    """
    workdir = pathlib.Path(workdir)

    log("opening the data")
    check_same_run(workdir / "config.json", config)
    _check_numbers(config)
    mesh = make_mesh()
    stage = stages.build(config, mesh)
    batches = pipeline.training_batches(
        config.data,
        config.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        _to_devices(mesh),
        config.stage,
    )

    log(f"building the model, on {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
    abstract = stage.abstract_state()
    state = None
    if not has_checkpoint(workdir):
        state = place(stage.initial_state(), mesh)
        claim_workdir(workdir, config)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config)))
        stack.enter_context(contextlib.closing(batches))
        stop = stack.enter_context(StopRequest())
        if state is None:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(abstract, batches)
            claim_workdir(workdir, config)
        progress = Progress(workdir, int(state.step), config.steps, config.batch_size)
        stack.enter_context(contextlib.closing(progress))

        def evaluate_at(state):
            found = _evaluate(stage, config, workdir, eval_params(state), int(state.step), stop)
            if found is not None:
                progress.write_evaluation(int(state.step), results.flat(found))
            return found

        state = _train(state, batches, stage, config, checkpoints, stop, progress, evaluate_at)
        if int(state.step) < config.steps:
            log(f"stopped and saved at step {int(state.step)}; the same command goes on from there")
            return None
        return results.check_complete(evaluate_at(state), workdir) if stage.test_sets else None


def evaluate_only(config: ConfigDict, workdir: str) -> Results | None:
    """Evaluates the newest checkpoint in `workdir`, or where there is none, what `config.weights` or `config.init_from` name.

    Returns:
      Results by set, or None if stopped; the same call goes on then.

    Raises:
      InputError: nothing to evaluate, or an image that failed; the results of all others are written then.
    """
    workdir = pathlib.Path(workdir)
    check_same_run(workdir / "config.json", config)
    mesh = make_mesh()
    stage = stages.build(config, mesh)
    if not stage.test_sets:
        raise InputError("config.eval.sets is empty: names of prepared datasets, or embedded, expected")
    params, step = None, "none"
    whole = {part: path for part, path in config.weights.items() if part in stage.whole}
    if has_checkpoint(workdir):
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(stage.abstract_state())
        params, step = eval_params(state), int(state.step)
    elif config.init_from or any(whole.values()):
        params = place(stage.initial_state().params, mesh)
        step = f"{config.init_from} {config.weights.to_json()}"
    elif stage.needs_model or any(set(test_set.references) != {"bicubic"} for test_set in stage.test_sets):
        without = "" if stage.needs_model else "; or --config.eval.references=bicubic, which needs no model"
        raise InputError(
            f"no checkpoint in {workdir}/checkpoints; the folder of a run expected that has saved one (or "
            f"{''.join(f'--config.weights.{part}, ' for part in whole)}--config.init_from{without})"
        )
    claim_workdir(workdir, config)
    with StopRequest() as stop:
        found = _evaluate(stage, config, workdir, params, step, stop)
    return results.check_complete(found, workdir)


def _check_numbers(config: ConfigDict) -> None:
    """Raises InputError for numbers that no run can have."""
    for name in ("batch_size", "steps", "log_every", "image_every", "checkpoint_every", "keep_checkpoints"):
        if config[name] < 1:
            raise InputError(f"config.{name}: at least 1 expected, got {config[name]}")
    if config.batch_size % jax.device_count():
        raise InputError(
            f"config.batch_size: a multiple of {jax.device_count()} devices expected, got {config.batch_size}"
        )
    make_decay(config)
    if min(config.loss.values()) < 0 or not any(config.loss.values()):
        raise InputError(f"config.loss: weights of at least 0, and one above, expected, got {config.loss.to_dict()}")


def _to_devices(mesh: Mesh):
    """Puts a batch of this process on its devices; what is no image stays where it is."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def put(batch):
        return {k: jax.make_array_from_process_local_data(sharding, v) if v.ndim > 1 else v for k, v in batch.items()}

    return put


def _train(state: TrainState, batches, stage: Stage, config, checkpoints, stop, progress, evaluate_at) -> TrainState:
    """The loop, until `config.steps` or a request to stop."""
    step, skipped, largest = int(state.step), 0, None
    if step < config.steps:
        log("compiling the training step (once; a minute or two for the full model)")
    while step < config.steps and not stop.requested():
        if config.eval.every and step and step % config.eval.every == 0 and step not in progress.evaluated:
            checkpoints.save(state, batches)  # an evaluation may take long, and fail
            evaluate_at(state)
            continue
        try:
            batch = next(batches)
        except InputError:
            checkpoints.save(state, batches)  # to go on from here, once the data is mended or the record skipped
            raise
        skipped += int(np.sum(batch.pop("skipped", 0)))
        state, metrics = stage.step(state, batch)
        step += 1
        before, largest = largest, int(metrics.pop("largest_gradient"))
        metrics = {k: float(v) for k, v in metrics.items()} | ({"skipped": skipped} if skipped else {})
        if not all(np.isfinite(v) for v in metrics.values()):
            checkpoints.wait()
            names = parameter_names(state.params)
            raise FloatingPointError(
                f"step {step}: not finite: {metrics}; the largest gradient is that of {names[largest]}"
                f"{'' if before is None else f' (a step before: {names[before]})'}; "
                f"the last good checkpoint is {checkpoints.latest() or 'none'}. "
                "Look at the data of this step, or start in a new workdir with a lower learning rate"
            )
        progress.stepped(step)
        checkpoints.check()
        if step % config.log_every == 0 or step == config.steps:
            progress.write(step, metrics)
        if step % config.image_every == 0 and jax.process_index() == 0:
            for name, image in stage.pictures(on_one_device(eval_params(state)), batch).items():
                progress.image(name, image, step)
        if step % config.checkpoint_every == 0 or step == config.steps:
            checkpoints.save(state, batches)
    if step < config.steps:
        log("stop requested: saving")
    checkpoints.save(state, batches)
    checkpoints.wait()
    return state


def _evaluate(stage: Stage, config, workdir: pathlib.Path, params, step: int | str, stop) -> Results | None:
    """Evaluates on the first process, prints a table and writes `results.json`; None if asked to stop."""
    found = {}
    if stage.test_sets and jax.process_index() == 0:
        params = None if params is None else on_one_device(params)
        try:
            found = stage.evaluate(params, step, workdir, stop.received)
        except evaluate.Stopped:
            log("stopped while evaluating; the same command goes on from there")
            found = None
    if found:
        results.write(workdir / "results.json", results.identity(params, step, config), found)
        log(f"step {step}: results in {workdir}/results.json")
        print(stage.table(found))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")
    return found


def on_one_device(params):
    """The first device's copy of replicated arrays."""
    return jax.tree.map(lambda a: a.addressable_data(0), params)
