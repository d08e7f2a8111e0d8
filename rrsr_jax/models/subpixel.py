"""Refinement of matches between the pixels of the reference, and offsets that follow them. Not in the paper."""

from typing import Any

import jax
import jax.numpy as jnp

from rrsr_jax.models.matching import PATCH, normalised, patch_norm

_STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def subpixel_shift(
    features_in: jax.Array,
    features_ref: jax.Array,
    index: jax.Array,
    valid_ref: jax.Array | None = None,
    norm_ref: jax.Array | None = None,
) -> jax.Array:
    """The distance from the best reference patch to the best position between pixels, by a parabola through the scores around it.

    A cell at 1x is 4 pixels of the result, so a match that is correct to half a cell can be wrong by 2 pixels. Where there is no
    peak in a direction (at an edge of the reference, or where the features are flat), the shift is 0.

    Args:
      features_in: (N, H, W, C).
      features_ref: (N, Hr, Wr, C).
      index: (N, H - 2, W - 2) of the best patches, see `matching.match_patches`.
      valid_ref: as in `matching.match_patches`.
      norm_ref: `matching.patch_norm` of the reference. Given, both features are already normalised.

    Returns:
      (N, H - 2, W - 2, 2), (dy, dx) in 1x pixels, -0.5 to 0.5.
    """
    a, b = (jax.lax.stop_gradient(f) for f in (features_in, features_ref))
    if norm_ref is None:
        a, b = normalised(a), normalised(b)
        norm_ref = patch_norm(b)
    (n, h, w, _), (_, hr, wr, _) = a.shape, b.shape
    columns = wr - PATCH + 1
    room = jnp.array([[hr, wr]]) if valid_ref is None else valid_ref
    bottom, right = (room[:, axis, None, None] - PATCH for axis in (0, 1))
    top, left = index // columns, index % columns

    def take(values, y, x, width):
        flat = values.reshape(n, -1, values.shape[-1])
        where = (jnp.clip(y, 0, flat.shape[1] // width - 1) * width + jnp.clip(x, 0, width - 1)).reshape(n, -1, 1)
        return jnp.take_along_axis(flat, where, 1).reshape(*index.shape, -1)

    scores: dict[tuple[int, int], Any] = dict.fromkeys(_STEPS, 0.0)
    for v in range(-1, PATCH + 1):  # pixels of the best patch and around it, each gathered once
        for u in range(-1, PATCH + 1):
            pixel = None
            for dy, dx in _STEPS:
                i, j = v - dy, u - dx  # the pixel's place in the patch that is a step away
                if 0 <= i < PATCH and 0 <= j < PATCH:
                    pixel = take(b, top + v, left + u, wr) if pixel is None else pixel
                    scores[dy, dx] += (a[:, i : i + h - 2, j : j + w - 2] * pixel).sum(-1)
    norms = norm_ref[..., None] + 1e-5
    scores = {step: s / take(norms, top + step[0], left + step[1], columns)[..., 0] for step, s in scores.items()}

    def peak(before, after, inside):
        curvature = 2 * scores[0, 0] - before - after
        shift = (after - before) / (2 * jnp.maximum(curvature, 1e-6))
        return jnp.where(inside & (curvature > 1e-6), jnp.clip(shift, -0.5, 0.5), 0)

    return jnp.stack(
        [
            peak(scores[-1, 0], scores[1, 0], (top > 0) & (top < bottom)),
            peak(scores[0, -1], scores[0, 1], (left > 0) & (left < right)),
        ],
        -1,
    )


def smooth_flow(flow: jax.Array) -> jax.Array:
    """The flow of the patch centred at each pixel, (N, H, W, 2) to the same.

    A 3x3 median, of y and of x, removes outliers and keeps a linear flow. Not in the paper.
    """
    _, h, w, _ = flow.shape
    rim = PATCH // 2
    margin = ((0, 0), (rim, rim), (rim, rim), (0, 0))
    centred = jnp.pad(flow[:, : h - 2 * rim, : w - 2 * rim], margin, mode="edge")
    around = jnp.pad(centred, margin, mode="edge")
    patches = [around[:, i : i + h, j : j + w] for i in range(PATCH) for j in range(PATCH)]
    return jnp.median(jnp.stack(patches), 0)


def interpolated_offsets(smooth: jax.Array, scale: int) -> jax.Array:
    """One offset for all nine taps of a pixel: `smooth_flow`, interpolated bilinearly.

    Where the reference is scaled or rotated, the taps of `pre_offsets` are scattered: the tap on the left follows the patch on
    the right. Here the kernel keeps its shape, and moves from pixel to pixel with the flow. Not in the paper.

    Arguments and results as in `pre_offsets`, but for `smooth`.
    """
    n, h, w, _ = smooth.shape
    moved = jax.image.resize(smooth, (n, h * scale, w * scale, 2), "linear") * scale
    return jnp.broadcast_to(moved[:, :, :, None], (n, h * scale, w * scale, PATCH**2, 2))
