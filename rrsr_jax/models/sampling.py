"""Sampling of images and features between pixels."""

import jax
import jax.numpy as jnp

from rrsr_jax.models.transfer import gather


def bilinear(x: jax.Array, rows: jax.Array, columns: jax.Array, double_edge: bool = False) -> jax.Array:
    """Bilinear samples of `x`, continued by its border pixels; with gradients to all three.

    Args:
      x: (N, H, W, C).
      rows, columns: (N, h, w), in pixels of `x`. There is no gradient to a position outside.
      double_edge: a quirk of DCSR's release, which its weights were trained with: beyond the first pixel of an axis, and from the
        last one on, both neighbours are the border pixel and both have weight 1, so that the value doubles.

    Returns:
      (N, h, w, C).
    """
    n, height, width, _ = x.shape
    ys, xs = (_neighbours(p, size, double_edge) for p, size in ((rows, height), (columns, width)))
    image = jnp.arange(n).reshape(n, 1, 1) * height
    corners = [
        (((image + y) * width + x), (weight_y * weight_x)[..., None]) for y, weight_y in ys for x, weight_x in xs
    ]
    values = gather(jnp.asarray(x), [place for place, _ in corners])
    first, *others = (weight * value for value, (_, weight) in zip(values, corners, strict=True))
    return sum(others, first)


def _neighbours(position, size, double_edge):
    """The two pixels beside a position along one axis, and their weights."""
    inside = jnp.clip(position, 0, size - 1)
    first = jnp.floor(position if double_edge else inside)
    low, high = (jnp.clip(pixel, 0, size - 1) for pixel in (first, first + 1))
    weights = (1 + low - inside, 1 + inside - high) if double_edge else (1 + first - inside, inside - first)
    return [(pixel.astype(jnp.int32), weight) for pixel, weight in zip((low, high), weights, strict=True)]
