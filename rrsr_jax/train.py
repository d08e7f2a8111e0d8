"""Training: one function from a config to a trained, evaluated model."""

import contextlib
import functools
import json
import pathlib
import signal
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax import evaluate, models, protocols, report, weights
from rrsr_jax.checkpoints import (
    SAME_RESULT,
    Checkpoints,
    check_same_run,
    claim_workdir,
    has_checkpoint,
    write_atomically,
)
from rrsr_jax.data import pipeline
from rrsr_jax.data.images import upscale
from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.progress import Progress, log
from rrsr_jax.step import (
    DATA_AXIS,
    TrainState,
    create_state,
    eval_params,
    make_decay,
    make_mesh,
    make_train_step,
    place,
)

# Weights kind of each part that a config's `weights` can name: a module, or under the model's own name everything else.
_MODULE_KINDS = {"vgg": "vgg19", "correspondence": "c2_extractor"}
_WEIGHT_KINDS = _MODULE_KINDS | {
    "rrsr": "rrsr_restoration",
    "c2_matching": "c2_restoration",
    "masa": "masa",
    "ttsr": "ttsr",
}


def train_and_evaluate(config: ConfigDict, workdir: str) -> dict | None:
    """Trains until `config.steps`, or from where a run in `workdir` stopped, then evaluates.

    Where a run starts: 1. the newest checkpoint in `workdir`; 2. `config.init_from`; 3. `config.weights` and random numbers.
    SIGINT and SIGTERM save after the step in progress; the same call goes on from there.

    Returns:
      Results by set (see `evaluate.Evaluation.summary`), or None if stopped early or if the config names no test set.

    Raises:
      InputError: bad config, data, weights or workdir; nothing is changed then.
      FloatingPointError: a loss or gradient that is not finite; the last checkpoint is from before it.
    """
    workdir = pathlib.Path(workdir)

    log("opening the data")
    check_same_run(workdir / "config.json", config)
    _check_numbers(config)
    test_sets = protocols.test_sets(config.eval)
    mesh = make_mesh()
    batches = pipeline.training_batches(
        config.data, config.batch_size, config.seed, jax.process_index(), jax.process_count(), _to_devices(mesh)
    )

    log(f"building the model, on {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
    model = models.build(config.model)
    abstract = _abstract_state(model, config, mesh)
    state = None
    if not has_checkpoint(workdir):
        state = place(create_state(initial_params(model, config), config), mesh)
        claim_workdir(workdir, config)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config.keep_checkpoints)))
        stack.enter_context(contextlib.closing(batches))
        stop = stack.enter_context(StopRequest())
        if state is None:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(abstract, batches)
            claim_workdir(workdir, config)
        progress = Progress(workdir, int(state.step), config.steps, config.batch_size)
        stack.enter_context(contextlib.closing(progress))
        upscaler = evaluate.make_upscaler(model)
        evaluator = functools.partial(_evaluate, upscaler, test_sets, config, workdir, stop=stop, progress=progress)
        step = make_train_step(model, config, mesh)
        state = _train(state, batches, step, config, upscaler, checkpoints, stop, progress, evaluator)
        if int(state.step) < config.steps:
            log(f"stopped and saved at step {int(state.step)}; the same command goes on from there")
            return None
        return _check_complete(evaluator(eval_params(state), int(state.step)), workdir)


def evaluate_only(config: ConfigDict, workdir: str) -> dict | None:
    """Evaluates the newest checkpoint in `workdir`, or where there is none, what `config.weights` or `config.init_from` name.

    Returns:
      Results by set (see `evaluate.Evaluation.summary`), or None if stopped; the same call goes on then.

    Raises:
      InputError: nothing to evaluate, or an image that failed; the results of all others are written then.
    """
    workdir = pathlib.Path(workdir)
    check_same_run(workdir / "config.json", config)
    test_sets = protocols.test_sets(config.eval)
    if not test_sets:
        raise InputError("config.eval.sets is empty: names of prepared datasets, or embedded, expected")
    model = models.build(config.model)
    params, step = None, "none"
    whole = {part: path for part, path in config.weights.items() if part not in _MODULE_KINDS}
    if has_checkpoint(workdir):
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            log(f"restoring checkpoint {checkpoints.latest()}")
            state = checkpoints.restore(_abstract_state(model, config, make_mesh()))
        params, step = eval_params(state), int(state.step)
    elif config.init_from or any(whole.values()):
        params = place(initial_params(model, config), make_mesh())
        step = f"{config.init_from} {config.weights.to_json()}"
    elif any(set(test_set.columns) != {"bicubic"} for test_set in test_sets):
        raise InputError(
            f"no checkpoint in {workdir}/checkpoints; the folder of a run expected that has saved one (or "
            f"{''.join(f'--config.weights.{part}, ' for part in whole)}--config.init_from; "
            "or --config.eval.columns=bicubic, which needs no model)"
        )
    claim_workdir(workdir, config)
    with StopRequest() as stop:
        results = _evaluate(evaluate.make_upscaler(model), test_sets, config, workdir, params, step, stop=stop)
    return _check_complete(results, workdir)


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


def initial_params(model, config: ConfigDict) -> Mapping:
    """Parameters to start from: `config.init_from`, or random ones with the parts that `config.weights` names replaced."""
    params = _random_params(model, config.seed)
    if config.init_from:
        with contextlib.closing(Checkpoints(pathlib.Path(config.init_from))) as checkpoints:
            source = checkpoints.params()
        what = f"the parameters of config.init_from={config.init_from} and this config's model"
        check_shapes(what, _flat_shapes(params), _flat_shapes(source))
        return source
    params = _scale_kernels(params, config.init_gain)
    if "correspondence" in params and not config.weights.correspondence:
        params["correspondence"] = untrained(params["correspondence"])
    for part, path in config.weights.items():
        if not path:
            if part in params and not config.learning_rates[part]:
                log(f"note: no config.weights.{part}: the frozen {part} network is untrained")
            continue
        if part in _MODULE_KINDS and part not in params:
            raise InputError(f"config.weights.{part}: this model has no part {part}")
        loaded = weights.load(_WEIGHT_KINDS[part], path)
        target = params[part] if part in _MODULE_KINDS else params
        if part == "vgg":  # the file goes further than the model
            loaded = {layer: value for layer, value in loaded.items() if layer in target}
        # Checkpoints of some models hold the encoders as well.
        wanted = {module: value for module, value in target.items() if module not in _MODULE_KINDS or module in loaded}
        what = f"{path} (config.weights.{part}) and this config's model"
        check_shapes(what, _flat_shapes(wanted), _flat_shapes(loaded))
        target.update(loaded)
    return params


def _scale_kernels(params: Mapping, gain: float) -> dict:
    """Kernels of everything but the encoders, times `gain`."""

    def scale(path, value):
        return value * gain if path[0] not in _MODULE_KINDS and path[-1] != "bias" and value.ndim > 1 else value

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: scale(path, value) for path, value in flat.items()})


def _flat_shapes(tree: Mapping) -> dict[str, tuple]:
    return {k: v.shape for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def _random_params(model, seed: int) -> dict:
    # Selecting inside drops the forward pass, and with it most of the compilation; on a CPU, where compiling takes longest, what
    # runs only once is not optimised either.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(functools.partial(_init, model), compiler_options=options)(jax.random.key(seed))


def _init(model, key: jax.Array) -> dict:
    return model.init(key, jnp.zeros((1, 3, 3, 3)), jnp.zeros((1, 12, 12, 3)))["params"]


def _abstract_state(model, config: ConfigDict, mesh: Mesh) -> TrainState:
    """Shapes and places of a state, without computing one."""
    try:
        state = jax.eval_shape(lambda: create_state(_init(model, jax.random.key(config.seed)), config))
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"config.model does not describe a network: {error}") from error
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)


def _to_devices(mesh: Mesh):
    """Puts a batch of this process on its devices; what is no image stays where it is."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def put(batch):
        return {k: jax.make_array_from_process_local_data(sharding, v) if v.ndim > 1 else v for k, v in batch.items()}

    return put


def _train(
    state: TrainState, batches, train_step, config, upscaler, checkpoints, stop, progress, evaluator
) -> TrainState:
    """The loop, until `config.steps` or a request to stop."""
    step, skipped = int(state.step), 0
    if step < config.steps:
        log("compiling the training step (once; a minute or two for the full model)")
    while step < config.steps and not stop.requested():
        if config.eval.every and step and step % config.eval.every == 0 and step not in progress.evaluated:
            checkpoints.save(state, batches)  # an evaluation may take long, and fail
            evaluator(eval_params(state), step)
            continue
        try:
            batch = next(batches)
        except InputError:
            checkpoints.save(state, batches)  # to go on from here, once the data is mended or the record skipped
            raise
        skipped += int(np.sum(batch.pop("skipped", 0)))
        state, metrics = train_step(state, batch)
        step += 1
        metrics = {k: float(v) for k, v in metrics.items()} | ({"skipped": skipped} if skipped else {})
        if not all(np.isfinite(v) for v in metrics.values()):
            raise FloatingPointError(
                f"step {step}: not finite: {metrics}; the last good checkpoint is {checkpoints.latest()}. "
                "Look at the data of this step, or start in a new workdir with a lower learning rate"
            )
        progress.stepped(step)
        if step % config.log_every == 0 or step == config.steps:
            progress.write(step, metrics)
        if step % config.image_every == 0 and jax.process_index() == 0:
            progress.image("train/bicubic_ref_sr_hr", _strip(upscaler, state, batch), step)
        if step % config.checkpoint_every == 0 or step == config.steps:
            checkpoints.save(state, batches)
    if step < config.steps:
        log("stop requested: saving")
    checkpoints.save(state, batches)
    return state


def _strip(upscaler, state: TrainState, batch: Mapping[str, jax.Array]) -> np.ndarray:
    """The first image of a batch, side by side: bicubic, reference, result, ground truth."""
    lr, ref, hr = (np.asarray(batch[name].addressable_data(0)[0]) for name in ("lr", "ref", "hr"))
    sr = upscaler(_on_one_device(eval_params(state)), lr, ref, lr.shape[:2])
    return np.concatenate([upscale(lr), ref, sr, hr], axis=1)


def _evaluate(upscaler, test_sets, config, workdir, params, step, *, stop, progress=None) -> dict | None:
    """Evaluates on the first process; writes `results.json` and a folder per set into the workdir.

    Returns:
      Results by set, or None if asked to stop.
    """
    results = {}
    if test_sets and jax.process_index() == 0:
        if params is not None:
            params = _on_one_device(params)
            upscaler = functools.partial(upscaler, params)
        run = {
            "step": step,
            "parameters": _checksum(params),
            "model": {k: v for k, v in config.model.to_dict().items() if k not in SAME_RESULT},
            **{name: config.eval[name] for name in ("crops", "patch")},
        }
        for test_set in test_sets:
            out = workdir / "eval" / test_set.name.replace("/", "-")
            try:
                evaluation = evaluate.evaluate(upscaler, test_set, config.eval.border, out, run, stop.received)
                report.write_page(out / "index.html", test_set, evaluation, config.eval.shown)
                report.write_sheets(out, test_set, evaluation, config.eval.sheets)
            except OSError as error:
                raise InputError(f"cannot write the results to {out}: {error}") from error
            except evaluate.Stopped:
                log("stopped while evaluating; the same command goes on from there")
                results = None
                break
            results[test_set.name] = evaluation.summary
    if results:
        _write_results(workdir / "results.json", run, results)
        log(f"step {step}: results in {workdir}/results.json, images, page and CSV in {workdir}/eval")
        print(report.table(results))
    if progress and results is not None:
        rows = [(name, column, row) for name, r in results.items() for column, row in r["columns"].items()]
        values = {f"val/{name}/{column}/{k}": row[k] for name, column, row in rows for k in evaluate.METRICS}
        progress.write_evaluation(step, values)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")
    return results if test_sets else None


def _checksum(params: Mapping | None) -> int:
    """Tells one set of parameters from another."""
    return functools.reduce(lambda crc, a: zlib.crc32(np.asarray(a).tobytes(), crc), jax.tree.leaves(params), 0)


def _check_complete(results: Mapping[str, Mapping] | None, workdir: pathlib.Path) -> dict | None:
    """The results; InputError if an image failed."""
    if failed := sum(len(result["failed"]) for result in (results or {}).values()):
        raise InputError(f"{failed} image(s) failed, see above; {workdir}/results.json has the results of the others")
    return results


def _write_results(path: pathlib.Path, run: Mapping[str, Any], results: Mapping[str, Mapping]) -> None:
    """Adds to what the file says of other sets, if that is of the same run."""
    run = json.loads(json.dumps({name: run[name] for name in ("step", "parameters", "model")}))
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        before = json.loads(path.read_text())
        if before | run == before:
            results = before["sets"] | results
    write_atomically(path, json.dumps({**run, "sets": results}, indent=2))


def _on_one_device(params: Mapping) -> Mapping:
    return jax.tree.map(lambda a: a.addressable_data(0), params)


class StopRequest:
    """While active, the first SIGINT or SIGTERM asks for a stop after the step in progress; a second one interrupts."""

    def __enter__(self):
        self._received = False
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, *_):
        if self._received:
            raise KeyboardInterrupt
        self._received = True

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    def requested(self) -> bool:
        """Whether to stop now; all processes of a run get the same answer."""
        if jax.process_count() > 1:
            return bool(multihost_utils.process_allgather(np.array(self._received)).any())
        return self._received
