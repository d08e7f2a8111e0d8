"""How well candidates match a photograph, from small copies of them: which of an album are worth being references."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.errors import InputError
from rrsr_jax.inference.references import SIDE


def match_scores(
    model: nn.Module, params: Mapping[str, Any], rgb: np.ndarray, candidates: Sequence[np.ndarray]
) -> list[float]:
    """The mean, over the patches of the photograph, of the cosine similarity to the best patch of each candidate.

    Args:
      model, params: see `weights.released.Released`.
      rgb: (h, w, 3) float in [0, 1], of at most SIDE / 4 pixels a side.
      candidates: (H, W, 3) float in [0, 1], of at most SIDE pixels a side.

    Raises:
      InputError: the model does not search for matches.
    """
    if "valid_ref" not in inspect.signature(type(model).__call__).parameters:
        raise InputError(
            f"candidates are chosen by their matches, and a model {type(model).__name__} gives none; "
            "name the references one by one, not their folder"
        )
    lr, (h, w) = _padded(rgb, SIDE // SCALE_FACTOR), np.maximum(rgb.shape[:2], 3)  # the least that has a patch
    scores = []
    for candidate in candidates:
        valid = np.maximum([candidate.shape[:2]], 3 * SCALE_FACTOR).astype(np.int32)
        score = _scores(model, params, lr, _padded(candidate, SIDE), valid)
        scores.append(float(score[0, : h - 2, : w - 2].mean()))
    return scores


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, lr, ref, valid_ref):
    """(1, h - 2, w - 2) scores of the matches. What follows them in the model is not compiled."""
    _, found = model.apply({"params": params}, lr, ref, valid_ref=[valid_ref], mutable=["intermediates"])
    (score,) = found["intermediates"]["match_score"]
    return score


def _padded(image: np.ndarray, side: int) -> jax.Array:
    """(1, side, side, 3): one size for all, and so one compilation."""
    (h, w), image = image.shape[:2], np.clip(image, 0, 1)
    return jnp.asarray(np.pad(image, ((0, side - h), (0, side - w), (0, 0)), "edge")[None], jnp.float32)
