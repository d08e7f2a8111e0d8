"""RRSR stage by stage: each over the whole image, tile by tile, before the next one starts.

Feature maps lie in the main memory, as NumPy arrays of `STORE`, and the device holds one tile and the features of the references
of one scale. At 4x a map of 32 channels of a result of 4000 x 3000 pixels takes 768 MB, and there is one at a time: the second
half of a FAS block writes into the map it reads.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.inference.search import Canvas, Matches
from rrsr_jax.inference.tiles import Tile, bucket, computed, rows_of_tiles, tiles_of
from rrsr_jax.models.contract import SCALES
from rrsr_jax.models.matching import PATCH, normalised
from rrsr_jax.models.pfas import FAS
from rrsr_jax.models.rrsr import PRE_OFFSETS, RRSR

STORE = np.float16  # of feature maps in memory; computation is in the dtype of the model
_REFERENCE_REACH = 12  # pixels of a reference around a pixel that change its features or descriptors, a multiple of 4
_INPUT_REACH = 4  # likewise of the input: upsampling and descriptors
_OFFSETS_REACH = {"patches": 2, "smooth": 1}  # 1x pixels of the prepared flow around a pixel that change its offsets
_IMAGE_REACH = 4  # pixels at 4x: the two last convolutions, and the enlarged input, whose tiles need a multiple of 4

_LARGEST_INPUT = 128  # pixels a side of a tile of the input that is enlarged and described

Params = Mapping[str, Any]
Done = Callable[..., None]  # told how many pixels are done, and at which scale


class Reference(NamedTuple):
    """A reference, as RRSR needs it.

    Attributes:
      features: at each of `SCALES`, (H, W, C) of `STORE`.
      descriptors: what is matched.
    """

    features: list[np.ndarray]
    descriptors: Canvas


class Stages:
    """The stages of one model. Their programs are compiled when they are first needed, for few sizes."""

    def __init__(self, model: RRSR, params: Params):
        """Takes the model, and its parameters as they are nested in Flax."""
        self.model = model.clone(remat="none")
        self._params = jax.device_put(params)
        self._dtype = jnp.dtype(model.dtype)
        self._programs: dict[str, Callable] = {}

    def reference(self, image: np.ndarray, done: Done) -> Reference:
        """Features and descriptors of a reference (H, W, 3), height and width multiples of 4 and at least 12."""

        def compute(params, image):
            features = _apply(self.model, params, image, method="reference_features")
            descriptors = _apply(self.model, params, image, method="reference_descriptors")
            return [*(f.astype(STORE) for f in features), normalised(descriptors)]

        run, params = self._program("reference", compute), self._some("vgg", "correspondence")
        shrinks = [SCALE_FACTOR // scale for scale in SCALES] + [SCALE_FACTOR]
        maps: list[np.ndarray] = []
        tiles = tiles_of(image.shape, _REFERENCE_REACH)
        for tile, parts in computed(tiles, lambda tile: run(params, tile.cut(image))):
            if not maps:
                height, width = image.shape[:2]
                sizes = [(height // shrink, width // shrink) for shrink in shrinks]
                maps = [np.empty((*size, part.shape[-1]), part.dtype) for size, part in zip(sizes, parts, strict=True)]
            for into, part, shrink in zip(maps, parts, shrinks, strict=True):
                tile.paste(into, part, shrink=shrink)
            done(tile.pixels())
        return Reference(maps[:-1], Canvas.of(maps[-1]))

    def descriptors(self, lr: np.ndarray, done: Done) -> Canvas:
        """What the input (h, w, 3) is matched by."""

        def compute(params, lr):
            return normalised(_apply(self.model, params, lr, method="input_descriptors"))

        run, params = self._program("input", compute), self._some("correspondence")
        tiles = tiles_of(lr.shape, _INPUT_REACH, _LARGEST_INPUT)
        results = computed(tiles, lambda tile: run(params, tile.cut(lr)))
        return Canvas.of(_assembled(results, lr.shape[:2], done=done))

    def restore(self, lr: np.ndarray, features: Sequence[list[np.ndarray]], matches: Matches, done: Done) -> np.ndarray:
        """The result (4h, 4w, 3) for an input (h, w, 3), not clipped.

        Args:
          lr: the input.
          features: of each reference; they are taken out of the lists, scale by scale.
          matches: of the input in the references.
          done: told the pixels of each tile, and the scale.
        """
        flow = self._prepared_flow(matches, [of_one[0].shape[0] for of_one in features])
        x = self._context(lr)
        for k, scale in enumerate(SCALES):
            canvas = _canvas(features, k)
            for i in range(self.model.alignments[k]):
                params = self._params[f"fas_{scale}x_{i}"]
                aligned, mean = self._align(k, params, x, canvas, flow, done)
                self._select(k, params, x, aligned, mean, done)
            del canvas
            if scale < SCALE_FACTOR:
                x = self._upsampled(x, scale)
        return self._image(x, lr)

    def _program(self, name: str, compute: Callable) -> Callable:
        """`compute`, compiled; the one of the first call with this name."""
        return self._programs.setdefault(name, jax.jit(compute))

    def _some(self, *modules: str) -> Params:
        return {name: self._params[name] for name in modules}

    def _prepared_flow(self, matches: Matches, heights: Sequence[int]) -> np.ndarray:
        """The flow to the canvas of references, (h, w, 2), ready for the offsets of each scale."""
        top = np.array(_tops(heights), np.float32)
        place = matches.place + np.stack([top[matches.which], np.zeros(matches.which.shape, np.float32)], -1)
        h, w = matches.which.shape
        flow = place - np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).astype(np.float32)
        flow = np.pad(flow, ((0, PATCH - 1), (0, PATCH - 1), (0, 0)))
        prepare, _ = PRE_OFFSETS[self.model.pre_offsets]
        return np.asarray(self._program("flow", prepare)(flow[None]))[0]

    def _context(self, lr: np.ndarray) -> np.ndarray:
        def compute(params, lr):
            return _apply(self.model, params, lr, method="context").astype(STORE)

        run, params = self._program("context", compute), self._some("context_encoder")
        tiles = tiles_of(lr.shape, self.model.reach_of_context)
        return _assembled(computed(tiles, lambda tile: run(params, tile.cut(lr))), lr.shape[:2])

    def _align(
        self, k: int, params: Params, x: np.ndarray, canvas: jax.Array, flow: np.ndarray, done: Done
    ) -> tuple[np.ndarray, np.ndarray]:
        """Aligned features of the references, and the mean of `x` and them over the image, (1, .)."""
        scale, fas = SCALES[k], self.model.fas(k)
        _, offsets = PRE_OFFSETS[self.model.pre_offsets]

        def compute(params, x, canvas, beside, flow, origin, core):
            x = x.astype(self._dtype)
            pre_offset = offsets(flow, scale) + origin.reshape(1, 1, 1, 1, 2)
            aligned = _apply(fas, params, x, canvas, pre_offset, beside, method="aligned")
            merged = jnp.concatenate([x, aligned], -1).astype(jnp.float32)
            rows, columns = (
                ((first <= at) & (at < last)).astype(jnp.float32)
                for (first, last), at in zip(core, map(jnp.arange, x.shape[1:3]), strict=True)
            )
            return aligned.astype(STORE), jnp.einsum("nhwc,h,w->nc", merged, rows, columns)

        run, bordered = self._program(f"align_{k}", compute), np.asarray(canvas[0])
        height, width = x.shape[:2]
        overlap = max(FAS.reach_of_alignment, _OFFSETS_REACH[self.model.pre_offsets] * scale)
        total: Any = 0.0

        def submit(tile):
            origin = np.array([tile.y.start, tile.x.start], np.float32)
            core = np.array([(part.start, part.stop) for part in tile.core()])
            return run(params, tile.cut(x), canvas, _beside(bordered, tile), tile.cut(flow, shrink=scale), origin, core)

        aligned = np.empty((height, width, canvas.shape[-1]), STORE)
        for tile, (part, sums) in computed(tiles_of((height, width), -(-overlap // scale) * scale), submit):
            tile.paste(aligned, part)
            total = total + sums.astype(np.float64)
            done(tile.pixels(), scale)
        return aligned, (total / (height * width)).astype(np.float32)

    def _select(self, k: int, params: Params, x: np.ndarray, aligned: np.ndarray, mean: np.ndarray, done: Done) -> None:
        """The second half of a FAS block, written into `x`."""
        fas = self.model.fas(k)

        def compute(params, x, aligned, mean):
            x, aligned = x.astype(self._dtype), aligned.astype(self._dtype)
            return _apply(fas, params, x, aligned, None, mean, method="selected").astype(STORE)

        run = self._program(f"select_{k}", compute)
        finished: collections.deque[list[tuple[Tile, np.ndarray]]] = collections.deque()
        for row in rows_of_tiles(x.shape, fas.reach_of_selection):
            finished.append(list(computed(row, lambda tile: run(params, tile.cut(x), tile.cut(aligned), mean))))
            if len(finished) > 2:  # the next row, and the last one that starts early, read what two rows would replace
                _paste(x, finished.popleft())
            for tile in row:
                done(tile.pixels(), SCALES[k])
        for results in finished:
            _paste(x, results)

    def _upsampled(self, x: np.ndarray, scale: int) -> np.ndarray:
        def compute(params, x):
            return _apply(self.model, params, x.astype(self._dtype), scale, method="upsampled").astype(STORE)

        run, params = self._program(f"up_{scale}", compute), self._some(f"up_{scale}x")
        tiles = tiles_of(x.shape, 1)
        size = (2 * x.shape[0], 2 * x.shape[1])
        return _assembled(computed(tiles, lambda tile: run(params, tile.cut(x))), size, 2)

    def _image(self, x: np.ndarray, lr: np.ndarray) -> np.ndarray:
        def compute(params, x, lr):
            return _apply(self.model, params, x.astype(self._dtype), lr, method="image")

        run, params = self._program("image", compute), self._some("tail1", "tail2")
        tiles = tiles_of(x.shape, _IMAGE_REACH)
        results = computed(tiles, lambda tile: run(params, tile.cut(x), tile.cut(lr, shrink=SCALE_FACTOR)))
        return _assembled(results, x.shape[:2])


def _apply(module: nn.Module, params: Params, *arguments: Any, method: str) -> Any:
    return module.apply({"params": params}, *arguments, method=method)


def _paste(x: np.ndarray, results: Iterable[tuple[Tile, np.ndarray]]) -> None:
    for tile, part in results:
        tile.paste(x, part)


def _assembled(
    results: Iterable[tuple[Tile, np.ndarray]], size: tuple[int, ...], scale: int = 1, done: Done = lambda pixels: None
) -> np.ndarray:
    """What counts of the result of each tile, (1, ., ., C), as one map of `size`."""
    whole = None
    for tile, part in results:
        whole = np.empty((*size, part.shape[-1]), part.dtype) if whole is None else whole
        tile.paste(whole, part, scale)
        done(tile.pixels())
    assert whole is not None
    return whole


def _tops(heights: Sequence[int]) -> list[int]:
    """First row of each reference on the canvas, with an empty row after each, as in `rrsr`; then the height of the canvas."""
    return [0, *itertools.accumulate(height + 1 for height in heights)]


def _canvas(features: Sequence[list[np.ndarray]], k: int) -> jax.Array:
    """The references' features at `SCALES[k]` below each other, with zeros around; they are taken out of the lists."""
    scale = SCALES[k]
    maps = [of_one[k] for of_one in features]
    tops = _tops([f.shape[0] // scale for f in maps])
    height, width = bucket(tops[-1]) * scale, bucket(max(f.shape[1] // scale for f in maps)) * scale
    canvas = np.zeros((1, height + 2, width + 2, maps[0].shape[-1]), maps[0].dtype)
    for top, f in zip(tops, maps, strict=False):
        canvas[0, 1 + scale * top :, 1:][: f.shape[0], : f.shape[1]] = f
    for of_one in features:
        of_one[k] = np.empty((0, 0, 0), STORE)
    return jax.device_put(canvas)


def _beside(bordered: np.ndarray, tile: Tile) -> np.ndarray:
    """The features of the references at the place of a tile, zero outside: (1, H, W, C), from the canvas (., ., C)."""
    part = bordered[tile.y.start + 1 : tile.y.stop + 1, tile.x.start + 1 : tile.x.stop + 1]
    missing = (tile.y.stop - tile.y.start - part.shape[0], tile.x.stop - tile.x.start - part.shape[1])
    return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)))[None]
