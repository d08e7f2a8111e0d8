"""The training pipeline (Grain): deterministic by seed, sharded by process, resumable at any batch."""

import grain
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.data import datasets
from rrsr_jax.data.images import SCALE_FACTOR, downscale, perspective_warp, random_view
from rrsr_jax.errors import InputError

SMALLEST_PATCH = 12  # 3x3 pixels at 1x, what matching needs


class RandomView(grain.transforms.RandomMap):
    """A photograph to a pair `hr`, `ref`: see `images.random_view`."""

    def __init__(self, patch: int):
        self._patch = patch

    def random_map(self, photograph: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        hr, ref = random_view(photograph, self._patch, rng)
        return {"hr": hr, "ref": ref}


class FlipAndTurn(grain.transforms.RandomMap):
    """Flips and 90-degree rotation, the same for every image of the element."""

    def random_map(self, element: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        horizontal, vertical, turns = rng.random() < 0.5, rng.random() < 0.5, int(rng.random() < 0.5)

        def transform(image):
            image = image[:, ::-1] if horizontal else image
            image = image[::-1] if vertical else image
            return np.rot90(image, turns)

        return {name: transform(image) for name, image in element.items()}


class Reciprocal(grain.transforms.RandomMap):
    """Adds what the two passes need: `lr`, and the warped reference `ref_p` with its low-resolution `ref_lr_p` (eq. 3).

    Without `warp` the reference itself stands in, which is the paper's ablation: training then collapses to an auto-encoder.
    """

    def __init__(self, warp: bool, smallest: float, largest: float):
        self._warp, self._range = warp, (smallest, largest)

    def random_map(self, element: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        ref = np.ascontiguousarray(element["ref"])
        ref_p = perspective_warp(ref, rng, *self._range) if self._warp else ref
        hr = np.ascontiguousarray(element["hr"])
        return {"lr": downscale(hr), "hr": hr, "ref": ref, "ref_p": ref_p, "ref_lr_p": downscale(ref_p)}


def training_batches(
    config: ConfigDict, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator:
    """Endless batches of 8-bit images for one process, with `get_state` and `set_state`.

    Args:
      config: the `data` part of a config.
      batch_size: of all processes together.
      seed: of shuffling, augmentation and warps.
      process_index, process_count: this process, of all.

    Returns:
      Iterator over dicts of `lr`, `hr`, `ref`, `ref_p`, `ref_lr_p`, each (batch_size / process_count, ., ., 3) uint8.

    Raises:
      InputError: wrong settings or data; says what was expected.
    """
    if config.patch % SCALE_FACTOR or config.patch < SMALLEST_PATCH:
        raise InputError(
            f"config.data.patch: a multiple of {SCALE_FACTOR}, at least {SMALLEST_PATCH}, expected, got {config.patch}"
        )
    if config.warp and not 0 <= config.warp_range[0] <= config.warp_range[1] < config.patch / 2:
        raise InputError(
            f"config.data.warp_range: two rising numbers below half the patch of {config.patch} expected, got {config.warp_range}"
        )
    if batch_size % process_count:
        raise InputError(f"config.batch_size: a multiple of {process_count} processes expected, got {batch_size}")
    if config.name == "embedded":
        source = datasets.embedded_photographs(datasets.EMBEDDED_TRAIN, config.patch)
        pairs = [RandomView(config.patch)]
    elif config.name == "cufed":
        source, pairs = datasets.PairFolders(config.dir, config.patch, datasets.CUFED_PAIRS), []
    else:
        raise InputError(f"config.data.name: embedded or cufed expected, got {config.name!r}")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    for transform in [*pairs, FlipAndTurn(), Reciprocal(config.warp, *config.warp_range)]:
        dataset = dataset.random_map(transform)
    dataset = dataset[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    )
    if config.workers:
        batches = batches.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=config.workers))
    return iter(batches)
