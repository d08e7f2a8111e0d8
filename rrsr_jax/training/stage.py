"""What the loop in `train` asks of a stage of training, and what all stages share."""

import abc
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rrsr_jax.data import pipeline
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import protocols
from rrsr_jax.evaluation.protocols import TestSet
from rrsr_jax.evaluation.results import Results
from rrsr_jax.training import initial
from rrsr_jax.training.step import Step
from rrsr_jax.workdir.state import TrainState


class Stage(abc.ABC):
    """One stage: its data, parameters, step, evaluation and pictures.

    Attributes:
      SOURCES: names of the stages whose runs it can start from (`config.init_from`).
      COMPLETE_WEIGHTS: entries of `config.weights` that alone make a model that can be evaluated.
      NEEDS_MODEL: whether there is nothing to evaluate without a model; else there is the bicubic baseline.
      config: of the run.
      mesh: of its devices.
      model: the network that is trained.
      test_sets: what it is evaluated on.
    """

    SOURCES: ClassVar[tuple[str, ...]]
    COMPLETE_WEIGHTS: ClassVar[tuple[str, ...]]
    NEEDS_MODEL: ClassVar[bool]

    def __init__(self, config: ConfigDict, mesh: Mesh):
        """Builds the network and opens the test sets; InputError if the config names another one than there is."""
        self.config, self.mesh = config, mesh
        self.model = self.build_model()
        self.test_sets: Sequence[TestSet] = protocols.test_sets(config.eval)

    @abc.abstractmethod
    def build_model(self) -> nn.Module:
        """The network that `config.model` names."""

    @staticmethod
    @abc.abstractmethod
    def transforms(
        config: ConfigDict, examples: Sequence[Mapping[str, Any]], has_references: bool
    ) -> Sequence[grain.transforms.RandomMap]:
        """From an example of a dataset to an element of a batch; `config` is the `data` part, see `pipeline.training_batches`."""

    def training_data(self, planned: Mapping[str, str]) -> pipeline.TrainingData:
        """The batches of this process; InputError as `pipeline.training_data`. `planned`: see `check_sources`."""
        process = jax.process_index(), jax.process_count()
        return pipeline.training_data(
            self.config.data, self.config.batch_size, self.config.seed, *process, self.transforms
        )

    @abc.abstractmethod
    def random_state(self, key: jax.Array) -> TrainState:
        """A state with random parameters. It is only traced, for its shapes."""

    @abc.abstractmethod
    def initial_state(self, complete: bool = False) -> TrainState:
        """The state before the first step.

        Args:
          complete: whether the network must come from files or another run, without any random part, to be evaluated as it is.

        Raises:
          InputError: files or runs that are not there or do not fit, or that leave a part random.
        """

    def check_sources(self, planned: Mapping[str, str]) -> None:
        """Raises InputError unless the files and the run that `initial_state` reads are there; it does not read them.

        Args:
          planned: stages of the runs that will be there by then, by their workdirs.
        """
        initial.check_sources(self.config, self.SOURCES, planned)

    @abc.abstractmethod
    def step(self, number: int) -> Step:
        """The compiled function for update `number`, counted from 0. It donates the state."""

    @abc.abstractmethod
    def evaluate(
        self, params: Mapping[str, Any] | None, step: int | str, workdir: pathlib.Path, stop: Callable[[], bool]
    ) -> Results:
        """Results by test set, of parameters (None without a model) from `step`.

        Raises:
          Stopped: `stop` said so.
          InputError: results cannot be written.
        """

    @abc.abstractmethod
    def report(self, results: Results) -> str:
        """The results as text."""

    def pictures(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
        """8-bit images by name, to look at while training."""
        return {}

    def abstract_state(self) -> TrainState:
        """Shapes and places of a state, without computing one; InputError if the config does not describe a network."""
        try:
            state = jax.eval_shape(self.random_state, jax.random.key(self.config.seed))
        except InputError:
            raise
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            raise InputError(f"config.model does not describe a network: {error}") from error
        modules = {"default", "discriminator"}.union(
            *(path.split("/") for path in initial.flat_shapes(state.generator))
        )
        if unknown := [name for name in self.config.learning_rates if name not in modules]:
            raise InputError(
                f"config.learning_rates.{unknown[0]}: the model has no module of that name; leave it out, or correct its name"
            )
        for name, leaf in initial.flat_shapes({"model": state.generator, "discriminator": state.discriminator}).items():
            if 0 in leaf:
                raise InputError(f"config.model does not describe a network: {name} has the shape {leaf}")
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)
