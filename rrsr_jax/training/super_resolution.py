"""The -rec stage: a super-resolution model by its reconstruction, reciprocal or not (eqs. 1 to 3)."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax import models
from rrsr_jax.console import log
from rrsr_jax.data import transforms
from rrsr_jax.data.images import upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, report, results, super_resolution
from rrsr_jax.evaluation.results import Results
from rrsr_jax.models.contract import read_contract
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.training.initial import (
    LOSS_NETWORKS,
    MODULES,
    fitted,
    initialise,
    initialise_model,
    load_part,
    read_source,
    scale_kernels,
)
from rrsr_jax.training.measures import metrics
from rrsr_jax.training.passes import make_train_step
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.step import Step, create_state
from rrsr_jax.workdir.state import TrainState


class SuperResolution(Stage):
    """A super-resolution model by its reconstruction (stage `rec`)."""

    SOURCES = ("student", "rec", "gan")
    COMPLETE_WEIGHTS = tuple(models.MODELS)
    NEEDS_MODEL = False
    transforms = staticmethod(transforms.reciprocal_pairs)

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`."""
        super().__init__(config, mesh)
        self._step = make_train_step(self.model, config, mesh)
        self._metrics = metrics(config.eval)

    @functools.cached_property
    def _upscaler(self) -> Callable[..., np.ndarray]:
        return evaluate.make_upscaler(self.model)

    def build_model(self) -> nn.Module:
        """See `Stage`."""
        return models.build(self.config.model)

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        return create_state(self.config, initialise_model(self.model, key))

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; the parameters are those of `model_params`."""
        source = read_source(self.config, self.SOURCES)
        return create_state(self.config, model_params(self.model, self.config, source, complete))

    def step(self, number: int) -> Step:
        """See `Stage`."""
        return self._step

    def evaluate(
        self, params: Mapping[str, Any] | None, step: int | str, workdir: pathlib.Path, stop: Callable[[], bool]
    ) -> Results:
        """See `Stage`; also writes images, page and sheets to `workdir`/eval."""
        return super_resolution.evaluate_sets(
            None if params is None else functools.partial(self._upscaler, params),
            self.test_sets,
            workdir=workdir,
            identity=results.identity(params, step, self.config),
            border=self.config.eval.border,
            shown=self.config.eval.shown,
            sheets=self.config.eval.sheets,
            padded=not read_contract(self.model).pads_itself,
            stop=stop,
            metrics=self._metrics,
        )

    def report(self, results: Results) -> str:
        """See `Stage`."""
        return report.as_text(results)

    def pictures(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
        """The first image of a batch, side by side: bicubic, reference, result, ground truth."""
        lr, ref, hr = (np.asarray(batch[name].addressable_data(0)[0]) for name in ("lr", "ref", "hr"))
        sr = self._upscaler(params, lr, ref, lr.shape[:2])
        return {"train/bicubic_ref_sr_hr": np.concatenate([upscale(lr), ref, sr, hr], axis=1)}


def model_params(
    model: nn.Module, config: ConfigDict, source: TrainState | None, complete: bool = False
) -> dict[str, Any]:
    """Parameters of a super-resolution model to start from.

    They are random; then the parts that `config.weights` names are replaced; then those that the run `config.init_from` has:
    all of them, or of a correspondence net's run that one part.

    Args:
      model: the network.
      config: of the run.
      source: of `read_source`.
      complete: see `Stage.initial_state`.

    Raises:
      InputError: files that are not there, files or a run that do not fit, or that leave a part random.
    """
    params = scale_kernels(initialise(functools.partial(initialise_model, model), config.seed), config.init_gain)
    if source and "branch_lr" not in source.generator:  # not a correspondence net
        return fitted(config, params, source.generator)
    if "correspondence" in params and not config.weights.correspondence:
        params["correspondence"] = untrained(params["correspondence"])
    random, rates = set(params), config.learning_rates
    for part, path in config.weights.items():
        if part in LOSS_NETWORKS or (part == "vgg" and part not in params and config.stage == "gan"):
            continue
        if path:
            random -= load_part(params, part, path)
        elif (
            part in params
            and not rates[part if part in rates else "default"]
            and not (part == "correspondence" and source)
        ):
            log(f"note: no config.weights.{part}: the frozen {part} network is untrained")
    if source:
        if "correspondence" not in params:
            raise InputError(f"config.init_from={config.init_from}: {config.model.name} has no correspondence net")
        params["correspondence"] = fitted(config, params["correspondence"], source.generator)
        random.discard("correspondence")
    if complete and random:
        missing = sorted({name if name in MODULES else config.model.name for name in random})
        raise InputError(
            f"config.weights and config.init_from leave parts of {config.model.name} untrained: {', '.join(missing)}; to "
            f"evaluate it, name a run of stage rec or gan (--config.init_from), or files of these parts (--config.weights)"
        )
    return params
