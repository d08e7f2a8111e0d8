"""What is done to an example of a dataset before it becomes an element of a batch, as Grain transforms."""

from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.data import augment
from rrsr_jax.data.images import downscale, matching_patch, perspective_warp, random_view, relight, view_pair
from rrsr_jax.errors import InputError


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
    """Draws one of an example's references as its `ref`, and cuts both to `patch` x `patch`.

    The input's patch lies anywhere, the reference's where it matches: see `images.matching_patch`. Images of that size stay.
    """

    def __init__(self, patch: int):
        self._patch = patch

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        hr, size = element["hr"], (self._patch, self._patch, 3)
        ref = element["refs"][rng.integers(len(element["refs"]))]
        if hr.shape != size:
            hr = Crop(self._patch).random_map(element, rng)["hr"]
        return element | {"hr": hr, "ref": ref if ref.shape == size else matching_patch(hr, ref)}


class Unrelated(grain.transforms.RandomMap):
    """Replaces some references by a patch of another photograph, and marks the samples that get no reference."""

    def __init__(self, photographs: Sequence[Mapping[str, Any]], unrelated: float, none: float):
        self._photographs, self._unrelated, self._none = photographs, unrelated, none

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        draw = rng.random()
        if draw < self._unrelated:
            other = self._photographs[int(rng.integers(len(self._photographs)))]
            image = (other.get("refs") or [other["hr"]])[0]
            height, width = (min(a, b) for a, b in zip(image.shape[:2], element["ref"].shape[:2], strict=True))
            top, left = rng.integers(0, [image.shape[0] - height + 1, image.shape[1] - width + 1])
            patch = image[top : top + height, left : left + width]
            return element | {"ref": augment.mirror_to(patch, *element["ref"].shape[:2])}
        return element | {"no_reference": True} if draw < self._unrelated + self._none else element


class Light(grain.transforms.RandomMap):
    """Changes the light of one image: see `augment.change_light`."""

    def __init__(self, name: str, light: Mapping[str, float]):
        self._name, self._light = name, dict(light)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return element | {self._name: augment.change_light(element[self._name], rng, **self._light)}


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


class Degrade(grain.transforms.RandomMap):
    """Replaces the low-resolution `inputs` and the `reference` by degraded ones, see `augment.degrade`; targets stay clean.

    A sample marked with `no_reference` gets its own `lr` as its reference, mirrored to the size of the reference.
    """

    def __init__(
        self,
        inputs: Mapping[str, str],
        reference: str,
        degradation: Mapping[str, Any],
        reference_degradation: Mapping[str, Any],
    ):
        self._inputs, self._reference = dict(inputs), reference
        self._degradation, self._reference_degradation = dict(degradation), dict(reference_degradation)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        element = dict(element)
        for low, high in self._inputs.items():
            element[low] = augment.degrade(element[high], rng, **self._degradation, reduce=True)
        ref = augment.degrade(element[self._reference], rng, **self._reference_degradation)
        if element.pop("no_reference", False):
            ref = augment.mirror_to(element["lr"], *ref.shape[:2])
        return element | {self._reference: ref}


class ViewPair(grain.transforms.RandomMap):
    """As `WarpedPair`, but `warped` is another, relit view of the place: see `images.view_pair`."""

    def __init__(self, patch: int, view: Mapping[str, Any]):
        self._patch, self._view = patch, dict(view)

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        _check_size(element, self._patch)
        hr, other, homography = view_pair(element["hr"], self._patch, rng, **self._view)
        hr = np.ascontiguousarray(hr)
        images = {"lr": downscale(hr), "hr": hr, "warped": relight(other, rng)}
        return images | {"homography": homography.astype(np.float32)} | _kept(element)


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
    return {name: element[name] for name in ("skipped", "no_reference") if name in element}


def _check_size(element: Mapping[str, Any], patch: int) -> tuple[int, int]:
    """Height and width of `hr`; InputError if it is smaller than a patch."""
    height, width = element["hr"].shape[:2]
    if min(height, width) < patch:
        raise InputError(
            f"{element['name']}: {patch}x{patch} pixels (config.data.patch) expected, got {height}x{width}; "
            f"lower it, or prepare the images under another name with --smallest={patch} --skip_bad"
        )
    return height, width


def reciprocal_pairs(
    config: ConfigDict, examples: Sequence[Mapping[str, Any]], has_references: bool
) -> list[grain.transforms.RandomMap]:
    """Transforms to what super-resolution learns from: `lr`, `hr`, `ref`, `ref_p` and `ref_lr_p`, see `Reciprocal`.

    Augmentation that the config leaves off is not among them and draws no random numbers.

    Args:
      config: the `data` part of a config.
      examples: of the dataset, to draw unrelated references from.
      has_references: whether examples have references; a photograph without any gets another view of itself.
    """
    steps = [ChooseReference(config.patch) if has_references else MakePair(config.patch, config.view)]
    if any(config.reference_shares.values()):
        steps.append(Unrelated(examples, **config.reference_shares))
    if any(config.light.values()):
        steps.append(Light("ref", config.light))
    steps += [FlipAndTurn(), Reciprocal(config.warp, *config.warp_range)]
    return steps + _degradations(config, {"lr": "hr", "ref_lr_p": "ref_p"}, "ref")


def warped_pairs(
    config: ConfigDict, examples: Sequence[Mapping[str, Any]], has_references: bool
) -> list[grain.transforms.RandomMap]:
    """Transforms to what the correspondence net learns from, see `WarpedPair` and `ViewPair`; it needs no references.

    Arguments as in `reciprocal_pairs`.
    """
    del examples, has_references
    if config.pairs == "view":
        steps: list[grain.transforms.RandomMap] = [FlipAndTurn(), ViewPair(config.patch, config.view)]
    else:
        steps = [Crop(config.patch), FlipAndTurn(), WarpedPair(*config.warp_range)]
    if any(config.light.values()):
        steps.append(Light("warped", config.light))
    return steps + _degradations(config, {"lr": "hr"}, "warped")


def _degradations(config: ConfigDict, inputs: Mapping[str, str], reference: str) -> list[grain.transforms.RandomMap]:
    """The last step, if there is anything to degrade: see `Degrade`."""
    if not (config.degradation.share or config.reference_degradation.share or config.reference_shares.none):
        return []
    return [Degrade(inputs, reference, config.degradation, config.reference_degradation)]
