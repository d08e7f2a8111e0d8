"""References of a command: the files that were named, and the best candidates of an album."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.data.pictures import Picture, read_picture
from rrsr_jax.errors import InputError
from rrsr_jax.inference.jobs import digest

BEST = 3  # candidates that are taken
SIDE = 128  # pixels of a candidate's longer side when it is compared; of the photograph's, divided by the scale factor


class References:
    """All references, read.

    Attributes:
      notes: what the user should know about them, before any is used.

    Args:
      files: used for every photograph.
      candidates: of which the best `BEST` are used for each photograph. One that cannot be read is noted and left out.

    Raises:
      InputError: a file that cannot be read, or candidates of which none can.
    """

    def __init__(self, files: Sequence[pathlib.Path], candidates: Sequence[pathlib.Path]):
        self.notes: list[str] = []
        self._files = {path: read_picture(path) for path in files}
        self._digests = {path: digest(path) for path in [*files, *candidates]}
        self._candidates: dict[pathlib.Path, np.ndarray] = {}
        for path in candidates:
            try:
                self._candidates[path] = reduced(read_picture(path).rgb, SIDE)
            except InputError as error:
                self.notes.append(f"note: candidate left out: {error}")
        if candidates and not self._candidates:
            raise InputError("\n".join(["--ref: none of the candidates can be read", *self.notes]))
        self._read = functools.lru_cache(BEST)(read_picture)

    def choose(
        self, source: pathlib.Path, rgb: np.ndarray, upscaler: Any
    ) -> tuple[dict[pathlib.Path, Picture], list[str]]:
        """The references for one photograph, and what to say about the choice.

        Args:
          source: the photograph's file. A reference with the same content is left out.
          rgb: (h, w, 3) the photograph.
          upscaler: has `match_scores(rgb, references)`.
        """
        own = digest(source)
        same = [path for path, other in self._digests.items() if other == own]
        lines = [f"note: reference left out, because it is the photograph itself: {path}" for path in same]
        chosen = {path: picture for path, picture in self._files.items() if path not in same}
        others = [path for path in self._candidates if path not in same]
        if others:
            small = reduced(rgb, SIDE // SCALE_FACTOR)
            scores = upscaler.match_scores(small, [self._candidates[path] for path in others])
            ranked = sorted(zip(scores, others, strict=True), key=lambda pair: -pair[0])[:BEST]
            chosen |= {path: self._read(path) for _, path in ranked}
            named = ", ".join(f"{path} ({score:.2f})" for score, path in ranked)
            lines.append(f"best of {len(others)} candidates, by match score: {named}")
        return chosen, lines


def reduced(rgb: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) float to at most `side` pixels a side; smaller ones stay as they are."""
    h, w = rgb.shape[:2]
    if max(h, w) <= side:
        return rgb
    size = max(1, round(w * side / max(h, w))), max(1, round(h * side / max(h, w)))
    channels = [Image.fromarray(rgb[..., i]).resize(size, Image.Resampling.BICUBIC) for i in range(3)]
    return np.stack([np.asarray(channel) for channel in channels], -1)
