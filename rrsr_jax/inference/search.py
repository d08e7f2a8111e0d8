"""Matches of an image of any size in several references: the descriptors tile by tile, then the search, exact or coarse-to-fine.

The same as RRSR's own matching, but nothing is as large as image times reference, and few sizes are compiled: descriptors lie at
the top left of a canvas of one of few sizes, see `tiles.bucket`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax.inference import tiles
from rrsr_jax.inference.tiles import bucket
from rrsr_jax.models.matching import PATCH, match_patches, normalised, patch_norm
from rrsr_jax.models.search import assemble_windows, cell_means, search_windows, window_size, windows
from rrsr_jax.models.subpixel import subpixel_shift

FACTOR = 4  # of the coarse search
# Pairs of patches up to which the exact search is used: half a minute on two cores.
EXACT_PAIRS = 2**32
SEARCHES = ("auto", "exact", "coarse")
_WINDOWS = 2**14  # cells of the coarse search that are compared at a time
_TILE = 2**20  # pairs of pixels in memory at a time; the fastest on a CPU, by a tenth
_MARGIN = PATCH - 1

Size = tuple[int, int]  # height and width
_AROUND, _SAME = 5, 2.0  # see `supported`

Done = Callable[[float], None]  # told how much was done since the last time: pairs of patches, or a share


class Canvas(NamedTuple):
    """Descriptors on the device, normalised.

    Attributes:
      features: (1, H, W, C), zero outside the part that is not padding.
      size: height and width of that part.
    """

    features: jax.Array
    size: Size

    @classmethod
    def of(cls, features: np.ndarray) -> "Canvas":
        """From (h, w, C)."""
        h, w, channels = features.shape
        canvas = np.zeros((1, bucket(h), bucket(w), channels), np.float32)
        canvas[0, :h, :w] = features
        return cls(jnp.asarray(canvas), (h, w))

    def valid(self) -> np.ndarray:
        """The size, as `match_patches` wants it."""
        return np.array([self.size], np.int32)


class Matches(NamedTuple):
    """The best match of each patch of the image, all (h - 2, w - 2, ...), by its top left corner.

    Attributes:
      which: the number of the reference.
      place: (y, x) of the patch in that reference, in 1x pixels, float32.
      score: of the match, in [-1, 1].
    """

    which: np.ndarray
    place: np.ndarray
    score: np.ndarray


def choose_search(search: str, image: Size, references: Sequence[Size]) -> str:
    """`exact` or `coarse`; of `auto`, by the number of pairs of patches. Sizes are in pixels at 1x."""
    if search != "auto":
        return search
    return "exact" if sum(work(image, size, "exact") for size in references) <= EXACT_PAIRS else "coarse"


def work(image: Size, reference: Size, search: str) -> float:
    """What `find_matches` has to do for one reference, in pairs of patches."""
    patches, others = (float(h - _MARGIN) * (w - _MARGIN) for h, w in (image, reference))
    if search == "exact" or min(*image, *reference) < window_size(FACTOR):
        return patches * others
    return patches * others / FACTOR**4 + patches * window_size(FACTOR) ** 2  # between cells, then in windows


def find_matches(image: Canvas, references: Sequence[Canvas], search: str, *, dtype: str, done: Done) -> list[Matches]:
    """The best patch in each reference for every patch of the image.

    Args:
      image, references: descriptors.
      search: `exact` or `coarse`.
      dtype: see `match_patches`.
      done: told after each part.
    """
    find = _exact if search == "exact" else _coarse
    found = []
    for reference in references:
        pairs = work(image.size, reference.size, search)
        index, score = find(image, reference, dtype, lambda share, pairs=pairs: done(share * pairs))
        columns = reference.features.shape[2] - _MARGIN
        place = np.stack([index // columns, index % columns], -1).astype(np.float32)
        found.append(Matches(np.zeros(index.shape, np.int32), place, score))
    return found


def between_pixels(image: Canvas, reference: Canvas, matches: Matches) -> Matches:
    """The matches in one reference, refined, see `subpixel_shift`."""
    columns = reference.features.shape[2] - _MARGIN
    y, x = np.moveaxis(matches.place.astype(np.int32), -1, 0)
    return matches._replace(place=matches.place + _shifts(image, reference, y * columns + x))


def best_of(found: Sequence[Matches]) -> Matches:
    """The best reference for each patch; the first one wins a tie. Its `which` is the number in `found`."""
    best = found[0]
    for number, matches in enumerate(found[1:], start=1):
        better = matches.score > best.score
        best = Matches(
            np.where(better, np.int32(number), best.which),
            np.where(better[..., None], matches.place, best.place),
            np.where(better, matches.score, best.score),
        )
    return best


def supported(matches: Matches) -> np.ndarray:
    """Which matches neighbours confirm, (h - 2, w - 2) bool.

    They do if at least a third of the 24 patches around have their match in the same reference, and at the same distance to two
    pixels at 1x. Where a reference shows the same thing, patches beside each other have their matches beside each other. In an
    image of something else, the best matches lie anywhere.
    """
    h, w = matches.which.shape
    distance = matches.place - np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    rim = _AROUND // 2
    which = np.pad(matches.which, rim, constant_values=-1)
    around = np.pad(distance, ((rim, rim), (rim, rim), (0, 0))).astype(np.float32)
    votes = np.zeros((h, w), np.int8)
    for y in range(_AROUND):
        for x in range(_AROUND):
            same = which[y : y + h, x : x + w] == matches.which
            votes += same & (np.abs(around[y : y + h, x : x + w] - distance).max(-1) <= _SAME)
    return votes - 1 >= (_AROUND**2 - 1) // 3


def _exact(image: Canvas, reference: Canvas, dtype: str, done: Done) -> tuple[np.ndarray, np.ndarray]:
    """Index, row-major over the patches of the reference's canvas, and score."""
    index, score = (np.zeros([size - _MARGIN for size in image.size], kind) for kind in (np.int32, np.float32))
    parts = list(_parts(image))
    for place, part in parts:
        found = _match_exactly(part, reference.features, reference.valid(), dtype=dtype)
        for into, values in zip((index, score), found, strict=True):
            view = into[place]
            view[:] = np.asarray(values)[0, : view.shape[0], : view.shape[1]]
        done(1 / len(parts))
    return index, score


def _parts(image: Canvas) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Tiles of the image: which patches they have, (rows, columns), and their descriptors (1, ., ., C), all of one size.

    A small image is one tile, with its padding. Of a large one the last tiles start early.
    """
    features = np.asarray(image.features[0])
    patches = [size - _MARGIN for size in image.size]
    rows, columns = (min(size, tiles.SIDES[-1]) - _MARGIN for size in features.shape[:2])
    for y in range(0, patches[0], rows):
        for x in range(0, patches[1], columns):
            top, left = max(0, min(y, patches[0] - rows)), max(0, min(x, patches[1] - columns))
            place = slice(top, min(top + rows, patches[0])), slice(left, min(left + columns, patches[1]))
            yield place, features[None, top : top + rows + _MARGIN, left : left + columns + _MARGIN]


def _coarse(image: Canvas, reference: Canvas, dtype: str, done: Done) -> tuple[np.ndarray, np.ndarray]:
    """As `_exact`."""
    if min(*image.size, *reference.size) < window_size(FACTOR):
        return _exact(image, reference, dtype, done)
    cells = [
        Canvas(_cells(canvas.features), (canvas.size[0] // FACTOR, canvas.size[1] // FACTOR))
        for canvas in (image, reference)
    ]
    coarse_share = work(cells[0].size, cells[1].size, "exact") / work(image.size, reference.size, "coarse")
    coarse, _ = _exact(cells[0], cells[1], dtype, lambda share: done(share * coarse_share))
    start, corner = _windows(coarse[None], cells[1].features.shape[2], image.size, reference.valid())
    # A list of cells, in parts of one size; the last part is filled up with its first cell.
    flat = [np.asarray(array).reshape(-1, 2) for array in (start, corner)]
    part = min(bucket(len(flat[0])), _WINDOWS)
    found = []
    for first in range(0, len(flat[0]), part):
        cut = [array[first : first + part] for array in flat]
        full = [np.concatenate([array, np.repeat(array[:1], part - len(array), 0)])[None, None] for array in cut]
        result = _search_windows(image.features, reference.features, *full, reference.valid(), dtype=dtype)
        found.append([np.asarray(values)[:, :, : len(cut[0])] for values in result])
        done(len(cut[0]) / len(flat[0]) * (1 - coarse_share))
    index, score = (
        np.asarray(
            assemble_windows(np.concatenate(parts, 2).reshape(*start.shape[:3], FACTOR, FACTOR), image.size, FACTOR)
        )[0]
        for parts in zip(*found, strict=True)
    )
    h, w = index.shape
    return index, score / (np.asarray(_patch_norm(image.features))[0, :h, :w] + np.float32(1e-5))


def _shifts(image: Canvas, reference: Canvas, index: np.ndarray) -> np.ndarray:
    """See `subpixel_shift`: (h - 2, w - 2, 2)."""
    norm, shifts = _patch_norm(reference.features), np.zeros((*index.shape, 2), np.float32)
    for place, part in _parts(image):
        view = shifts[place]
        known = np.zeros((1, part.shape[1] - _MARGIN, part.shape[2] - _MARGIN), np.int32)
        known[0, : view.shape[0], : view.shape[1]] = index[place]
        found = _subpixel_shift(part, reference.features, known, reference.valid(), norm)
        view[:] = np.asarray(found)[0, : view.shape[0], : view.shape[1]]
    return shifts


_match_exactly = jax.jit(
    lambda a, b, valid_ref, **options: match_patches(a, b, normalise=False, valid_ref=valid_ref, tile=_TILE, **options),
    static_argnames="dtype",
)
_search_windows = jax.jit(
    lambda a, b, start, corner, valid_ref, **options: search_windows(
        a, b, start, corner, factor=FACTOR, valid_ref=valid_ref, tile=_TILE, **options
    ),
    static_argnames="dtype",
)
_cells = jax.jit(lambda features: normalised(cell_means(features, FACTOR)))
_windows = jax.jit(functools.partial(windows, factor=FACTOR), static_argnums=(1, 2))
_patch_norm = jax.jit(patch_norm)
_subpixel_shift = jax.jit(subpixel_shift)
