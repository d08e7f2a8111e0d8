"""The stage that trains RankSRGAN's Ranker, which learns the order that NIQE gives the results of three methods."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax import models
from rrsr_jax.data import pipeline
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.results import Results, SetResult
from rrsr_jax.models.ranksrgan import Ranker
from rrsr_jax.training import losses_table1, rank_set
from rrsr_jax.training.initial import fitted, initialise, load_ranker, read_source
from rrsr_jax.training.passes import over_devices
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.step import (
    DATA_AXIS,
    Step,
    compile_step,
    create_state,
    largest_gradient,
    merge,
    parameter_rates,
    split,
    to_float,
    update,
)
from rrsr_jax.workdir.integrity import has_checkpoint
from rrsr_jax.workdir.state import TrainState

SET, METRIC = "rank_set", "right_order"  # of the results


class RankerStage(Stage):
    """RankSRGAN's Ranker on the results of three runs (stage `ranker`); its statistics are `TrainState.statistics`."""

    SOURCES = ("ranker",)
    COMPLETE_WEIGHTS = ("ranksrgan_ranker",)
    NEEDS_MODEL = True

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """See `Stage`."""
        super().__init__(config, mesh)
        self.test_sets = (SET,)  # pyright: ignore[reportAttributeAccessIssue]  # patches that are held out, no images of a set
        self._step = compile_step(functools.partial(_step, self.model, config), mesh)

    @functools.cached_property
    def _examples(self) -> list[dict[str, Any]]:
        return rank_set.read(self.config)

    def build_model(self) -> nn.Module:
        """See `Stage`."""
        return models.build(self.config.model, {"ranker": Ranker})

    @staticmethod
    def transforms(config, examples, has_references):
        """See `Stage`."""
        del config, examples, has_references
        return [rank_set.ChoosePair()]

    def check_sources(self, planned: Mapping[str, str]) -> None:
        """See `Stage`; it needs three runs."""
        for method in rank_set.METHODS:
            run = self.config.rank_set[method]
            if run not in planned and not has_checkpoint(pathlib.Path(run)):
                raise InputError(
                    f"config.rank_set.{method}={run}: the workdir of a run expected, whose results are ranked (or in a list, see "
                    "rrsr_jax.experiments.table, the name of another config of that list)"
                )
        super().check_sources(planned)

    def training_data(self, planned: Mapping[str, str]) -> pipeline.TrainingData:
        """See `Stage`; empty where the runs that it learns from are still planned."""
        if any(self.config.rank_set[method] in planned for method in rank_set.METHODS):
            return pipeline.TrainingData(grain.MapDataset.source([]), {}, self.config.data)
        shown, _ = rank_set.split(self._examples)
        process = jax.process_index(), jax.process_count()
        batches = pipeline.batched(shown, [rank_set.ChoosePair()], self.config.batch_size, self.config.seed, *process)
        checksum = [round(float(sum(example["niqe"].sum() for example in shown)), 2)]
        identity = {"name": SET, "examples": len(shown), "fingerprint": str(checksum[0])}
        return pipeline.TrainingData(batches, identity, self.config.data)

    def random_state(self, key: jax.Array) -> TrainState:
        """See `Stage`."""
        return self._state(self._variables(key))

    def _variables(self, key):
        side = self.config.data.patch
        return dict(self.model.init(key, jax.numpy.zeros((1, side, side, 3)), train=False))

    def _state(self, variables):
        return create_state(self.config, variables["params"], statistics=variables["batch_stats"])

    def initial_state(self, complete: bool = False) -> TrainState:
        """See `Stage`; the Ranker comes from `config.init_from`, `config.weights.ranksrgan_ranker`, or is random."""
        source = read_source(self.config, self.SOURCES)
        variables = initialise(self._variables, self.config.seed)
        if source:
            found = {"params": source.generator, "batch_stats": source.statistics}
            return self._state(fitted(self.config, variables, found))
        if path := self.config.weights.ranksrgan_ranker:
            variables = load_ranker(path, variables)
        return self._state(variables)

    def step(self, number: int) -> Step:
        """See `Stage`."""
        return self._step

    @functools.cached_property
    def _scores(self):
        @jax.jit
        def scores(params, images):
            return self.model.apply({"params": params}, to_float(images), train=True, mutable=["batch_stats"])[0]

        return scores

    def evaluate(
        self, params: Mapping[str, Any] | None, step: int | str, workdir: pathlib.Path, stop: Callable[[], bool]
    ) -> Results:
        """See `Stage`: the share of held-out pairs in the right order, normalised together as in training."""
        assert params is not None, "NEEDS_MODEL"
        pairs = rank_set.held_out_pairs(rank_set.split(self._examples)[1])
        first, second = (
            np.concatenate(
                [
                    self._scores(params, np.stack([pair[name] for pair in pairs[i : i + self.config.batch_size]]))
                    for i in range(0, len(pairs), self.config.batch_size)
                ]
            )
            for name in ("first", "second")
        )
        label = np.array([pair["label"].item() for pair in pairs])
        share = float(((first >= second) == (label > 0)).mean())
        return {SET: SetResult(images=len(pairs), references={"pairs": {METRIC: share}}, failed={})}

    def report(self, results: Results) -> str:
        """See `Stage`."""
        return "\n".join(
            f"{name}: {result['references']['pairs'][METRIC]:.1%} of {result['images']} pairs in the order of NIQE"
            for name, result in results.items()
        )


def _step(net, config, state: TrainState, batch):
    rates = parameter_rates(state.generator, config.learning_rates)
    trained, fixed = split(state.generator, rates)
    label = batch["label"].reshape(-1)

    def loss(trained):
        scores, statistics = [], state.statistics
        for name in ("first", "second"):
            variables = {"params": merge(trained, fixed), "batch_stats": statistics}
            score, new = over_devices(net).apply(variables, batch[name], train=True, mutable=["batch_stats"])
            scores, statistics = [*scores, score], new["batch_stats"]
        value = losses_table1.ranking(scores[0], scores[1], label)
        right = ((scores[0] >= scores[1]) == (label > 0)).mean()
        return config.loss.ranking * value, ({"ranking": value, METRIC: right}, statistics)

    (total, (metrics, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
    gradient, metrics, statistics = jax.lax.pmean((gradient, metrics | {"loss": total}, statistics), DATA_AXIS)
    trained, opt_state, ema = update(gradient, trained, state, config, rates)
    metrics |= {"grad_norm": optax.tree.norm(gradient), "largest_gradient": largest_gradient(gradient, state)}
    opt_state = {**state.opt_state, "generator": opt_state}
    moved = {"generator": merge(trained, fixed), "statistics": statistics, "opt_state": opt_state, "ema": ema}
    return state.replace(step=state.step + 1, **moved), metrics
