"""The training pipeline (Grain): deterministic by seed, sharded by process, and started at any batch."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
import tqdm
from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.data import datasets
from rrsr_jax.data.folders import listed
from rrsr_jax.data.transforms import reciprocal_pairs
from rrsr_jax.errors import InputError

ON_DEVICE = 2  # batches that wait there

# From the `data` part of a config, the examples, and whether these have references, to what is done to each example.
Transforms = Callable[[ConfigDict, Sequence[Mapping[str, Any]], bool], Sequence[grain.transforms.RandomMap]]


class SkipDamaged(Sequence):
    """A dataset whose damaged records are replaced by the next good one; `skipped` counts those before an example."""

    def __init__(self, examples: Sequence[Mapping[str, Any]]):
        self._examples, self._told = examples, set()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for skipped in range(len(self)):
            try:
                return {**self._examples[(index + skipped) % len(self)], "skipped": np.int32(skipped)}
            except InputError as error:
                if (
                    str(error) not in self._told
                ):  # this may run in a worker process, which must not touch the accelerator
                    self._told.add(str(error))
                    tqdm.tqdm.write(f"skipped: {error}", file=sys.stderr)
        raise InputError("no record of the dataset can be read")


class TrainingData(NamedTuple):
    """The batches of a run. Which examples a batch has depends on its number alone, not on the number of processes.

    Attributes:
      batches: of this process; number i is for step i + 1.
      identity: tells the data set from others: its `name`, number of `examples` and `fingerprint`. JSON values.
      config: the `data` part of the run's config.
    """

    batches: grain.MapDataset
    identity: Mapping[str, Any]
    config: ConfigDict

    def start(
        self, first: int = 0, to_device: Callable[[dict[str, np.ndarray]], dict[str, Any]] | None = None
    ) -> grain.DatasetIterator:
        """Iterates over the batches from number `first` on; `to_device` is applied to each, a few batches ahead."""
        options = grain.ReadOptions(num_threads=self.config.threads, prefetch_buffer_size=self.config.prefetch)
        batches = self.batches[first:].to_iter_dataset(options)
        if self.config.workers:
            workers = grain.multiprocessing.MultiprocessingOptions(num_workers=self.config.workers)
            batches = batches.mp_prefetch(workers, worker_init_fn=_ignore_signals)
        if to_device:
            batches = grain.experimental.ThreadPrefetchIterDataset(
                batches.map(to_device), prefetch_buffer_size=ON_DEVICE
            )
        return iter(batches)


def training_data(
    config: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    transforms: Transforms = reciprocal_pairs,
) -> TrainingData:
    """Endless batches of 8-bit images for one process.

    A batch is a dict of arrays with batch_size / process_count rows: 8-bit images (., ., ., 3), and for `warped_pairs` the
    `homography` (., 3, 3) float32; with `config.skip_damaged` also `skipped`, how many damaged records came before each image.

    Args:
      config: the `data` part of a config that `config_checks` has accepted.
      batch_size: of all processes together.
      seed: of shuffling, augmentation and warps.
      process_index, process_count: this process, of all.
      transforms: `transforms.reciprocal_pairs` or `transforms.warped_pairs`.

    Raises:
      InputError: no such dataset, images that are too small, or a batch that the processes cannot share.
    """
    if config.name == "embedded":
        photographs = datasets.embedded_photographs(datasets.EMBEDDED_TRAIN, config.patch)
        examples = [{"name": name, "hr": hr} for name, hr in zip(datasets.EMBEDDED_TRAIN, photographs, strict=True)]
        has_references, fingerprint = False, ""  # they come with a dependency
    else:
        examples = datasets.Prepared(config.name, config.dir)
        has_references, fingerprint = examples.has_references, examples.fingerprint
        _check_sizes(config, examples)
        if config.skip_damaged:
            examples = SkipDamaged(examples)
    steps = transforms(config, examples, has_references)
    batches = batched(examples, steps, batch_size, seed, process_index, process_count)
    identity = {"name": config.name, "examples": len(examples), "fingerprint": fingerprint}
    return TrainingData(batches, identity, config)


def batched(
    examples: Sequence[Mapping[str, Any]],
    transforms: Sequence[grain.transforms.RandomMap],
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Endless batches of one process, of the examples in random order; arguments as in `training_data`."""
    if batch_size % process_count:
        raise InputError(f"config.batch_size: a multiple of {process_count} processes expected, got {batch_size}")
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    for transform in transforms:
        dataset = dataset.random_map(transform)
    return dataset[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)


def training_batches(*args: Any, **kwargs: Any) -> grain.DatasetIterator:
    """Iterates over the batches of `training_data` from the first one on."""
    return training_data(*args, **kwargs).start()


def _check_sizes(config: ConfigDict, examples: datasets.Prepared) -> None:
    """Raises InputError if images are smaller than a patch: before the first step, not when one of them is drawn."""
    small = {name: side for name, side in examples.sides if side < config.patch}
    if small:
        fits = min(small.values()) // SCALE_FACTOR * SCALE_FACTOR
        names = listed([f"{name} ({side})" for name, side in small.items()])
        raise InputError(
            f"config.data.patch: at most {fits} expected, got {config.patch}: {len(small)} of {len(examples)} images of "
            f"{config.name} are smaller: {names}. Lower it, or leave these images out: prepare them "
            f"under another name (--dataset={config.name.partition('/')[0]}/NAME), with --smallest={config.patch} --skip_bad"
        )


def _ignore_signals(*_):
    """Worker processes end with the main process, which finishes its step first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
