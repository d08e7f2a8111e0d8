"""`Upscaler`: photographs in, photographs four times as large out."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.errors import InputError
from rrsr_jax.inference.search import SEARCHES, best_of, choose_search, find_matches, work
from rrsr_jax.inference.stages import Reference, Stages
from rrsr_jax.models.rrsr import RRSR

SMALLEST = 12  # pixels a side of an input and a reference; smaller ones are extended by repeating their edges


class Upscaled(NamedTuple):
    rgb: np.ndarray
    used: tuple[float, ...]
    search: str


class Upscaler:
    def __init__(self, model, params, *, search: str = "auto"):
        self._stages = Stages(model, params)
        self._model = self._stages.model
        self._search = search

    def upscale(self, rgb, references=(), log=lambda s: None):
        h, w = rgb.shape[:2]
        t = time.time()

        def done(*a):
            pass

        lr = np.ascontiguousarray(rgb, np.float32)
        images = [
            np.ascontiguousarray(r[: r.shape[0] // 4 * 4, : r.shape[1] // 4 * 4], np.float32)
            for r in (*references, rgb)
        ]
        refs = [self._stages.reference(image, done) for image in images]
        log(f"references {time.time() - t:.1f}")
        image = self._stages.descriptors(lr)
        log(f"input {time.time() - t:.1f}")
        canvases = [r.descriptors for r in refs]
        search = choose_search(self._search, image, canvases)
        found = find_matches(
            image,
            canvases,
            search,
            subpixel=self._model.match_subpixel,
            dtype=self._model.match_dtype,
            tile=self._model.match_tile,
            done=done,
        )
        log(f"matches {search} {time.time() - t:.1f}")
        matches = best_of(found)
        refs = [Reference(r.features, None) for r in refs]
        del canvases, image
        last = [None]

        def done2(px, scale):
            if last[0] != scale:
                log(f"scale {scale} {time.time() - t:.1f}")
                last[0] = scale

        sr = self._stages.restore(lr, refs, matches, done2)
        log(f"done {time.time() - t:.1f}")
        self.found = found
        return Upscaled(sr, (), search)
