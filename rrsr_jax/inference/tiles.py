"""Tiles of few sizes that cover an image of any size.

A tile never crosses the edge of the image, because a network pads there with zeros, and zeros in front of a convolution are not
zeros after it. So the last tile starts early, and an image smaller than the smallest tile is one tile.
"""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SIDES = (32, 48, 64, 96, 128, 192, 256)  # of tiles, in pixels: few, so that few programs are compiled
_EACH = 16  # pixels of its side that a tile costs in addition
_AHEAD = 1  # tiles that are computed while the results of the one before are stored


class Span(NamedTuple):
    """A tile along one axis. Of its results those from `first` to `last` count, in pixels of the image."""

    start: int
    stop: int
    first: int
    last: int


class Tile(NamedTuple):
    """A tile: its rows and its columns."""

    y: Span
    x: Span

    def cut(self, array: np.ndarray, scale: int = 1, shrink: int = 1) -> np.ndarray:
        """A copy of the tile's part of (H, W, ...), with a batch axis; `array` has `scale` / `shrink` times the tile's pixels."""
        y, x = (slice(s.start * scale // shrink, s.stop * scale // shrink) for s in self)
        return np.array(array[None, y, x], order="C")

    def paste(self, array: np.ndarray, part: np.ndarray, scale: int = 1, shrink: int = 1) -> None:
        """Writes what counts of the tile's result (1, ., ., ...) to its place in (H, W, ...)."""
        into = tuple(slice(s.first * scale // shrink, s.last * scale // shrink) for s in self)
        array[into] = part[(0, *self.core(scale, shrink))]

    def core(self, scale: int = 1, shrink: int = 1) -> tuple[slice, slice]:
        """Where in the tile the part that counts is."""
        y, x = (slice((s.first - s.start) * scale // shrink, (s.last - s.start) * scale // shrink) for s in self)
        return y, x

    def pixels(self) -> int:
        """How many pixels count."""
        return (self.y.last - self.y.first) * (self.x.last - self.x.first)


def side(size: int, overlap: int, largest: int = 0) -> int:
    """The side of tiles along an axis of `size` pixels: that of `SIDES` up to `largest` (0: any) with which least is computed.

    It is `size` if that is smaller than all. Where the overlap would take most of a tile, tiles are larger.
    """
    least, most = max(3 * overlap, SIDES[0]), min(size, largest or SIDES[-1])
    fitting = [s for s in SIDES if least <= s <= most] or [-(-least // SIDES[0]) * SIDES[0]]
    return min(size, min(fitting, key=lambda s: _count(size, s, overlap) * (s + _EACH)))


def _count(size: int, length: int, overlap: int) -> int:
    return 1 if length >= size else math.ceil((size - 2 * overlap) / (length - 2 * overlap))


def spans(size: int, overlap: int, largest: int = 0) -> list[Span]:
    """The tiles along an axis. Each result that counts is `overlap` pixels or more from an edge of its tile, or at the image's.

    Sides, `overlap` and `size` that are multiples of a number give starts that are multiples of it.
    """
    length = side(size, overlap, largest)
    starts = [min(i * (length - 2 * overlap), size - length) for i in range(_count(size, length, overlap))]
    lasts = [start + length - overlap for start in starts[:-1]] + [size]
    return [Span(at, at + length, *core) for at, *core in zip(starts, [0, *lasts[:-1]], lasts, strict=True)]


def rows_of_tiles(size: Sequence[int], overlap: int, largest: int = 0) -> list[list[Tile]]:
    """All tiles of an image of `size` (height, width, ...), row by row."""
    columns = spans(size[1], overlap, largest)
    return [[Tile(y, x) for x in columns] for y in spans(size[0], overlap, largest)]


def tiles_of(size: Sequence[int], overlap: int, largest: int = 0) -> list[Tile]:
    """All tiles in one list."""
    return [tile for row in rows_of_tiles(size, overlap, largest) for tile in row]


def computed(tiles: Iterable[Tile], compute: Callable[[Tile], Any]) -> Iterator[tuple[Tile, Any]]:
    """Each tile with its result as NumPy arrays. The device computes a tile while the results of the one before are used."""
    waiting: collections.deque[tuple[Tile, Any]] = collections.deque()
    for tile in tiles:
        waiting.append((tile, compute(tile)))
        if len(waiting) > _AHEAD:
            tile, result = waiting.popleft()
            yield tile, jax.tree.map(np.asarray, result)
    for tile, result in waiting:
        yield tile, jax.tree.map(np.asarray, result)


def bucket(size: int) -> int:
    """`size` rounded up to one of few sizes: to a multiple of 16, and less than an eighth of it if it is 128 or more."""
    step = max(16, 2 ** max(0, size.bit_length() - 4))
    return -(-size // step) * step
