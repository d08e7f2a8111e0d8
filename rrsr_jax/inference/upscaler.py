"""`Upscaler`: photographs in, photographs four times as large out."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.data.pictures import to_picture
from rrsr_jax.errors import InputError
from rrsr_jax.inference import ranking
from rrsr_jax.inference.references import SIDE, reduced
from rrsr_jax.inference.registration import register
from rrsr_jax.inference.search import (
    SEARCHES,
    Matches,
    best_of,
    between_pixels,
    choose_search,
    find_matches,
    supported,
    work,
)
from rrsr_jax.inference.stages import Stages
from rrsr_jax.models.contract import SCALES, read_contract
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.weights import released
from rrsr_jax.workdir import compilation_cache

SMALLEST = 12  # pixels a side of an input and a reference; smaller ones are extended by repeating their edges
MOST_WHOLE = 2**20  # pixels of the result, and of the reference, of a model that is run whole
LEAST = 0.1  # share of the image that a reference must be confirmed for; see `Upscaled.used`
_LARGEST_VALUE = 8.0  # colours outside sRGB lie a little outside [0, 1]; 8-bit images, far

Progress = Callable[[float, str], None]


class Upscaled(NamedTuple):
    """A result.

    Attributes:
      rgb: (4h, 4w, 3) float32, not clipped.
      used: for each reference, the share of the image, 0 to 1, that it shows. Of RRSR: the share of the 3x3 patches at 1x whose
        match in this reference is better than in the other ones and in the image itself, and is confirmed by the matches around
        it, see `search.supported`. 0 for a reference that was left out, see `Upscaler`. (The other patches take something from
        their best match too, but that says nothing: every patch has one in every photograph.) Of other models: the share of the
        pixels that change by more than 1 of 255 if the image itself is the reference.
      search: `exact` or `coarse`; `none` if the model has no such choice.
      notes: for each reference, what was done to it first, see `registration`; empty if nothing.
    """

    rgb: np.ndarray
    used: tuple[float, ...]
    search: str
    notes: tuple[str, ...] = ()


class Upscaler:
    """Enlarges images four times, with details from reference images of the same place, or from the image itself.

        upscaler = Upscaler("photo")
        large = upscaler(image, [reference])

    Of RRSR, images and references may have any size. They are computed in tiles; feature maps are kept in 16-bit floating point.
    The result is that of the model run on the whole image, to 1 of 255. References are first brought to the view of the image, if
    that can be found out, see `registration`. A reference that shows hardly anything of the image is
    left out, see `LEAST`, and without any reference the image itself is the reference. References lose up to three rows and
    columns, to multiples of 4. Memory, with 32 channels: about 1 GB, and 180 bytes a pixel of the result, and 90 a pixel of each
    reference. Other models are run whole, on images of up to `MOST_WHOLE` pixels. The same input gives the same result.

    Compiled programs are kept, see `compilation_cache`.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | released.Released = "photo",
        *,
        search: str = "auto",
        registers: bool = True,
    ):
        """Loads the weights.

        Args:
          weights: a name, folder or run, see `released.load`; or what that returned.
          search: for matches: `exact`, `coarse` (see `match_patches_coarse_to_fine`), or `auto`: exact if it does not take long.
          registers: whether references are brought to the view of the image first, see `registration`; not in the paper.

        Raises:
          InputError: no such search or weights.
        """
        if search not in SEARCHES:
            raise InputError(f"search: one of {', '.join(SEARCHES)} expected, got {search!r}")
        compilation_cache.use()
        self._search, self._registers = search, registers
        self._weights = weights if isinstance(weights, released.Released) else released.load(weights)

    @functools.cached_property
    def _stages(self) -> Stages:
        assert isinstance(self._weights.model, RRSR)
        return Stages(self._weights.model, self._weights.params)

    def __call__(self, image: Any, references: Sequence[Any] = (), *, progress: Progress | None = None) -> Any:
        """Enlarges one image.

        Args:
          image: a NumPy array or a Pillow image, see `pictures.to_picture`.
          references: of the same kinds.
          progress: see `upscale`.

        Returns:
          The result, of the kind of `image`.

        Raises:
          InputError: as `to_picture` and `upscale`.
        """
        picture = to_picture(image)
        upscaled = self.upscale(picture.rgb, [to_picture(r).rgb for r in references], progress=progress)
        return picture.enlarged(upscaled.rgb).like(image)

    def upscale(
        self, rgb: np.ndarray, references: Sequence[np.ndarray] = (), *, progress: Progress | None = None
    ) -> Upscaled:
        """Enlarges one image.

        Args:
          rgb: (h, w, 3) floating point, sRGB; colours outside sRGB have values outside [0, 1].
          references: likewise, of any sizes; none: the image itself is the only one.
          progress: called with the share of the work that is done, 0 to 1, and what is being done. An exception that it raises
            ends the work.

        Raises:
          InputError: an image of another shape or dtype or with values that are no colours, or too large for a model that is run
            whole; or weights whose result is not finite.
        """
        image = _extended(_checked("the image", rgb))
        others = [_extended(_checked(f"reference {number}", r)) for number, r in enumerate(references, start=1)]
        tell = progress or (lambda share, what: None)
        tell(0.0, "starting")
        notes: tuple[str, ...] = ("",) * len(others)
        if self._registers:
            registered = [register(image, other) for other in others]
            others, notes = [one.reference for one in registered], tuple(one.note for one in registered)
        run = self._staged if isinstance(self._weights.model, RRSR) else self._whole
        result = run(image, others, tell)
        h, w = rgb.shape[:2]
        result = result._replace(rgb=result.rgb[: SCALE_FACTOR * h, : SCALE_FACTOR * w], notes=notes)
        if not np.isfinite(result.rgb).all():
            raise InputError(
                f"weights {self._weights.name}: their result is not finite, in {np.dtype(np.float16)} features; use other weights"
            )
        tell(1.0, "done")
        return result

    def match_scores(self, rgb: np.ndarray, candidates: Sequence[np.ndarray]) -> list[float]:
        """How well each candidate matches an image, -1 to 1, from small copies of them; images as in `upscale`.

        Raises:
          InputError: images as in `upscale`, or the model does not search for matches.
        """
        model, params = self._weights.model, self._weights.params
        image = reduced(_checked("the image", rgb), SIDE // SCALE_FACTOR)
        small = [reduced(_checked(f"candidate {i}", one), SIDE) for i, one in enumerate(candidates, start=1)]
        return ranking.match_scores(model, params, image, small)

    def _staged(self, image: np.ndarray, others: list[np.ndarray], tell: Progress) -> Upscaled:
        stages, model = self._stages, self._stages.model
        images, pixels = [_cropped(other) for other in (*others, image)], image.shape[0] * image.shape[1]
        report = _Report(tell)
        report.expect("references", sum(i.shape[0] * i.shape[1] for i in images))
        report.expect("image", pixels)
        for scale, count in zip(SCALES, model.alignments, strict=True):
            report.expect(f"details at {scale}x", 2 * count * pixels * scale**2)
        cells = [(i.shape[0] // SCALE_FACTOR, i.shape[1] // SCALE_FACTOR) for i in images]
        search = choose_search(self._search, image.shape[:2], cells)
        report.expect("matches", sum(work(image.shape[:2], size, search) for size in cells))
        features, matches, used = self._matched(image, images, search, report)
        parts = {scale: report.part(f"details at {scale}x") for scale in SCALES}
        rgb = stages.restore(image, features, matches, lambda done, scale: parts[scale](done))
        return Upscaled(rgb, used, search)

    def _matched(
        self, image: np.ndarray, images: list[np.ndarray], search: str, report: "_Report"
    ) -> tuple[list[list[np.ndarray]], Matches, tuple[float, ...]]:
        """Features of the references that are used, matches in them, and the share of each of all; the last is the image."""
        stages, model = self._stages, self._stages.model
        references = [stages.reference(i, report.part("references")) for i in images]
        described = stages.descriptors(image, report.part("image"))
        canvases, done = [reference.descriptors for reference in references], report.part("matches")
        found = find_matches(described, canvases, search, dtype=model.match_dtype, done=done)
        kept, used = chosen(found)
        if model.match_subpixel:
            found = {i: between_pixels(described, canvases[i], found[i]) for i in kept}
        return [references[i].features for i in kept], best_of([found[i] for i in kept]), used

    def _whole(self, image: np.ndarray, others: list[np.ndarray], tell: Progress) -> Upscaled:
        model = self._weights.model
        if len(others) > 1:
            raise InputError(f"model {type(model).__name__} takes one reference, got {len(others)}; choose one")
        for name, array, scale in (("the image", image, SCALE_FACTOR), *(("the reference", o, 1) for o in others)):
            height, width = (scale * n for n in array.shape[:2])
            if height * width > MOST_WHOLE:
                raise InputError(
                    f"{name}: model {type(model).__name__} is run whole, on at most {MOST_WHOLE:,} pixels "
                    f"({'of the result' if scale > 1 else 'of a reference'}), got {height}x{width}; "
                    "crop or reduce it, or use weights of RRSR"
                )
        alone = self._applied(image, image)
        if not others:
            return Upscaled(alone, (), "none")
        tell(0.5, "details")
        rgb = self._applied(image, others[0])
        changed = np.abs(np.clip(rgb, 0, 1) - np.clip(alone, 0, 1)).max(-1) > 1 / 255
        return Upscaled(rgb, (float(changed.mean()),), "none")

    def _applied(self, image: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.asarray(self._apply(self._weights.params, image[None], reference[None])[0], np.float32)

    @functools.cached_property
    def _apply(self) -> Callable:
        model = self._weights.model
        read_contract(model)
        return jax.jit(lambda params, lr, ref: model.apply({"params": params}, lr, ref))


def chosen(found: Sequence[Matches]) -> tuple[list[int], tuple[float, ...]]:
    """Which references to use, and the share of the image that each is confirmed for.

    Args:
      found: the matches in each reference, and in the image itself, the last.

    Returns:
      Numbers in `found`: of the references that alone are confirmed for a share of at least `LEAST`; if there are none, of the
      image. And the share of each reference beside the others, 0 for one that is not used.
    """
    *others, own = found
    kept = [i for i, one in enumerate(others) if _shares([one, own])[0] >= LEAST]
    shares = dict(zip(kept, _shares([*(others[i] for i in kept), own]), strict=False))
    return kept or [len(others)], tuple(shares.get(i, 0.0) for i in range(len(others)))


def _shares(found: Sequence[Matches]) -> list[float]:
    """For each of `found` but the last, the share of the patches whose best match is there, and is confirmed."""
    best = best_of(found)
    confirmed = supported(best)
    return [float((confirmed & (best.which == number)).mean()) for number in range(len(found) - 1)]


class _Report:
    """Tells how much of the work is done. Costs are seconds on one core, for a million of what is counted."""

    COSTS: ClassVar = {
        "references": 3.0,
        "image": 25.0,
        "matches": 0.01,
        "details at 1x": 6.0,
        "details at 2x": 3.5,
        "details at 4x": 1.7,
    }

    def __init__(self, tell: Progress):
        self._tell, self._total, self._done = tell, 0.0, 0.0

    def expect(self, part: str, amount: float) -> None:
        """Adds `amount` to what there is to do."""
        self._total += amount * self.COSTS[part]

    def part(self, part: str) -> Callable[[float], None]:
        """What is called with the amount that was done of this part since the last time."""

        def done(amount: float) -> None:
            self._done += amount * self.COSTS[part]
            self._tell(min(1.0, self._done / self._total), part)

        return done


def _checked(name: str, rgb: np.ndarray) -> np.ndarray:
    """As float32; InputError unless it is an image of colours."""
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InputError(f"{name}: RGB of shape (height, width, 3) expected, got {rgb.shape}")
    if rgb.dtype.kind != "f":
        raise InputError(f"{name}: floating point expected, got {rgb.dtype}; divide 8-bit values by 255")
    low, high = float(rgb.min()), float(rgb.max())
    if not (low >= -_LARGEST_VALUE and high <= _LARGEST_VALUE):  # also if one of them is NaN
        raise InputError(
            f"{name}: values about from 0 to 1 expected, got {low:g} to {high:g}; divide by the value of white, often 255, "
            "and replace what is not finite"
        )
    return np.asarray(rgb, np.float32)


def _extended(rgb: np.ndarray) -> np.ndarray:
    """A contiguous copy of at least `SMALLEST` pixels a side."""
    missing = [(0, max(0, SMALLEST - n)) for n in rgb.shape[:2]]
    return np.pad(rgb, (*missing, (0, 0)), "edge")


def _cropped(rgb: np.ndarray) -> np.ndarray:
    """Without its last rows and columns, so that height and width are multiples of 4."""
    h, w = (n - n % SCALE_FACTOR for n in rgb.shape[:2])
    return rgb[:h, :w]
