"""The training pipeline (Grain): deterministic by seed, sharded by process, resumable at any batch."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tqdm
from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.data import datasets
from rrsr_jax.data.images import downscale, perspective_warp, random_view, resize_bicubic
from rrsr_jax.errors import InputError

ON_DEVICE = 2  # batches that wait there


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


class MakePair(grain.transforms.RandomMap):
    """Makes a pair `hr`, `ref` from a photograph: see `images.random_view`."""

    def __init__(self, patch: int, view: Mapping[str, Any]):
        self._patch, self._view = patch, dict(view)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        _check_size(element, self._patch)
        hr, ref = random_view(element["hr"], self._patch, rng, **self._view)
        return element | {"hr": hr, "ref": ref}


class Crop(grain.transforms.RandomMap):
    """Cuts a random patch from the photograph, as its `hr`."""

    def __init__(self, patch: int):
        self._patch = patch

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        height, width = _check_size(element, self._patch)
        top, left = rng.integers(0, [height - self._patch + 1, width - self._patch + 1])
        return {**element, "hr": element["hr"][top : top + self._patch, left : left + self._patch]}


class ChooseReference(grain.transforms.RandomMap):
    """Draws one of an example's references as its `ref`, resized to `patch` x `patch` if necessary; `hr` must have that size."""

    def __init__(self, patch: int):
        self._patch = patch

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        height, width = element["hr"].shape[:2]
        if (height, width) != (self._patch, self._patch):
            raise InputError(
                f"{element['name']}: an input of {self._patch}x{self._patch} pixels (config.data.patch) expected, "
                f"got {height}x{width}; cut the pairs into patches, or train on photos"
            )
        ref = element["refs"][rng.integers(len(element["refs"]))]
        return element | {"ref": ref if ref.shape == element["hr"].shape else resize_bicubic(ref, height, width)}


class FlipAndTurn(grain.transforms.RandomMap):
    """Flips and 90-degree rotation, the same for input and reference."""

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        horizontal, vertical, turns = rng.random() < 0.5, rng.random() < 0.5, int(rng.random() < 0.5)

        def transform(image):
            image = image[:, ::-1] if horizontal else image
            image = image[::-1] if vertical else image
            return np.rot90(image, turns)

        return element | {name: transform(element[name]) for name in ("hr", "ref") if name in element}


class Reciprocal(grain.transforms.RandomMap):
    """Adds what the two passes need: `lr`, and the warped reference `ref_p` with its low-resolution `ref_lr_p` (eq. 3).

    Without `warp` the reference itself takes the place of `ref_p`. This is the paper's ablation: training collapses to an
    auto-encoder of the reference.
    """

    def __init__(self, warp: bool, smallest: float, largest: float):
        self._warp, self._range = warp, (smallest, largest)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        ref = np.ascontiguousarray(element["ref"])
        ref_p = perspective_warp(ref, rng, *self._range)[0] if self._warp else ref
        hr = np.ascontiguousarray(element["hr"])
        images = {"lr": downscale(hr), "hr": hr, "ref": ref, "ref_p": ref_p, "ref_lr_p": downscale(ref_p)}
        return images | _kept(element)


class WarpedPair(grain.transforms.RandomMap):
    """Adds what the correspondence net learns from: `lr`, the image's perspective warp `warped`, and the `homography`.

    The homography, (3, 3) float32, maps (x, y, 1) in pixels of `hr` to pixels of `warped`.
    """

    def __init__(self, smallest: float, largest: float):
        self._range = (smallest, largest)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        hr = np.ascontiguousarray(element["hr"])
        warped, homography = perspective_warp(hr, rng, *self._range)
        images = {"lr": downscale(hr), "hr": hr, "warped": warped, "homography": homography.astype(np.float32)}
        return images | _kept(element)


def _kept(element: Mapping[str, Any]) -> dict[str, Any]:
    return {name: element[name] for name in ("skipped",) if name in element}


def _check_size(element: Mapping[str, Any], patch: int) -> tuple[int, int]:
    """Height and width of `hr`; InputError if it is smaller than a patch."""
    height, width = element["hr"].shape[:2]
    if min(height, width) < patch:
        raise InputError(
            f"{element['name']}: {patch}x{patch} pixels (config.data.patch) expected, got {height}x{width}; "
            f"prepare with --smallest={patch}"
        )
    return height, width


def reciprocal_pairs(config: ConfigDict, has_references: bool) -> list[grain.transforms.RandomMap]:
    """Transforms to what super-resolution learns from: `lr`, `hr`, `ref`, `ref_p` and `ref_lr_p`, see `Reciprocal`.

    Args:
      config: the `data` part of a config.
      has_references: whether examples have references; a photograph without any gets another view of itself.
    """
    pair = ChooseReference(config.patch) if has_references else MakePair(config.patch, config.view)
    return [pair, FlipAndTurn(), Reciprocal(config.warp, *config.warp_range)]


def warped_pairs(config: ConfigDict, has_references: bool) -> list[grain.transforms.RandomMap]:
    """Transforms to what the correspondence net learns from, see `WarpedPair`; it needs no references.

    Arguments as in `reciprocal_pairs`.
    """
    del has_references
    return [Crop(config.patch), FlipAndTurn(), WarpedPair(*config.warp_range)]


def training_batches(
    config: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    to_device: Callable[[dict[str, np.ndarray]], dict[str, Any]] | None = None,
    transforms: Callable[[ConfigDict, bool], Sequence[grain.transforms.RandomMap]] = reciprocal_pairs,
) -> grain.DatasetIterator:
    """Endless batches of 8-bit images for one process, with `get_state` and `set_state`.

    Args:
      config: the `data` part of a config.
      batch_size: of all processes together.
      seed: of shuffling, augmentation and warps.
      process_index, process_count: this process, of all.
      to_device: applied to every batch, a few batches ahead.
      transforms: `reciprocal_pairs` or `warped_pairs`.

    Returns:
      Iterator over dicts of arrays with batch_size / process_count rows: 8-bit images (., ., ., 3), and for `warped_pairs` the
      `homography` (., 3, 3) float32; with `config.skip_damaged` also `skipped`, how many damaged records came before each image.

    Raises:
      InputError: wrong settings or data; says what was expected.
    """
    if config.patch % SCALE_FACTOR or config.patch < datasets.SMALLEST:
        raise InputError(
            f"config.data.patch: a multiple of {SCALE_FACTOR}, at least {datasets.SMALLEST}, expected, got {config.patch}"
        )
    if config.warp and not 0 <= config.warp_range[0] <= config.warp_range[1] < config.patch / 2:
        raise InputError(
            f"config.data.warp_range: two rising numbers below half the patch of {config.patch} expected, got {config.warp_range}"
        )
    if min(config.view.shift, config.view.corners) < 0 or config.view.corners > 0.25:
        raise InputError(
            f"config.data.view: shift of at least 0 and corners of 0 to 0.25 expected, got {config.view.to_dict()}"
        )
    if min(config.threads, config.prefetch, config.workers) < 0:
        raise InputError("config.data: threads, prefetch and workers of at least 0 expected")
    if batch_size % process_count:
        raise InputError(f"config.batch_size: a multiple of {process_count} processes expected, got {batch_size}")
    if config.name == "embedded":
        photographs = datasets.embedded_photographs(datasets.EMBEDDED_TRAIN, config.patch)
        examples = [{"name": name, "hr": hr} for name, hr in zip(datasets.EMBEDDED_TRAIN, photographs, strict=True)]
        has_references = False
    else:
        examples = datasets.Prepared(config.name, config.dir)
        has_references = examples.has_references
        if config.skip_damaged:
            examples = SkipDamaged(examples)
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    for transform in transforms(config, has_references):
        dataset = dataset.random_map(transform)
    dataset = dataset[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
    )
    if config.workers:
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=config.workers)
        batches = batches.mp_prefetch(options, worker_init_fn=_ignore_signals)
    if to_device:
        batches = grain.experimental.ThreadPrefetchIterDataset(batches.map(to_device), prefetch_buffer_size=ON_DEVICE)
    return iter(batches)


def _ignore_signals(*_):
    """Worker processes end with the main process, which finishes its step first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
