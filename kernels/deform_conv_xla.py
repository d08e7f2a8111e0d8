"""Modulated deformable convolution in plain JAX, for CPUs, TPUs, and GPUs on which the kernels do not run.

A `scan` works on one tap at a time, forward and backward. The sampled columns of a tap (as large as the features) live only until
they are multiplied by the tap's weights, so the nine columns never exist together. The backward pass samples again instead of
storing them. Corners are fetched as rows of a matrix with C / G columns, one row per pixel and group. A border of one zero pixel
stands for everything outside the image; `x` has it from `sample_and_multiply` on.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class _Grid(NamedTuple):
    """Static sizes of the operation."""

    n: int
    height: int  # of the features
    width: int
    out_height: int
    out_width: int
    groups: int
    stride: int
    padding: int
    dilation: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Distances in rows from the top left corner to all four, in the order of `_weights`."""
        down = (self.width + 2) * self.groups
        return (0, self.groups, down, down + self.groups)


class _Tap(NamedTuple):
    """Where one tap samples; every array has one row per output pixel and group, (N * Ho * Wo * G, 1)."""

    row: jax.Array  # of the top left corner, (N * Ho * Wo * G,)
    fy: jax.Array  # fractions in [0, 1)
    fx: jax.Array
    inside: jax.Array  # 1 if any corner can touch the image, else 0
    mask: jax.Array


def sample_and_multiply(
    x: jax.Array,
    offset: jax.Array,
    mask: jax.Array,
    weight: jax.Array,
    *,
    stride: int,
    padding: int,
    dilation: int,
    bordered: bool = False,
) -> jax.Array:
    """`modulated_deform_conv` without the bias, in float32; see there for shapes."""
    if not bordered:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    (n, height, width, _), (_, out_height, out_width, groups, _, _) = x.shape, offset.shape
    grid = _Grid(n, height - 2, width - 2, out_height, out_width, groups, stride, padding, dilation)
    return _sample_and_multiply(grid, x, offset, mask, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample_and_multiply(grid, x, offset, mask, weight):
    rows = _to_rows(grid, x)
    taps = weight.reshape(9, *weight.shape[2:]).astype(jnp.float32)

    def step(out, k):
        tap = _tap(grid, offset, mask, k)
        column = _interpolate(_fetch(grid, rows, tap), _weights(tap.fy, tap.fx)) * (tap.inside * tap.mask)
        return out + column.reshape(out.shape[0], -1) @ taps[k], None

    pixels = grid.n * grid.out_height * grid.out_width
    out, _ = jax.lax.scan(step, jnp.zeros((pixels, weight.shape[-1]), jnp.float32), jnp.arange(9))
    return out.reshape(grid.n, grid.out_height, grid.out_width, -1)


def _forward(grid, x, offset, mask, weight):
    return _sample_and_multiply(grid, x, offset, mask, weight), (x, offset, mask, weight)


def _backward(grid, residuals, d_out):
    x, offset, mask, weight = residuals
    rows = _to_rows(grid, x)
    channels = rows.shape[1]
    taps = weight.reshape(9, *weight.shape[2:]).astype(jnp.float32)
    d_out = d_out.reshape(-1, d_out.shape[-1])
    # A sum over the few channels of a group is much faster as a matrix product than as a reduction over the minor axis.
    group_sum = jnp.repeat(jnp.eye(grid.groups, dtype=jnp.float32), channels, axis=0)

    def sum_channels(a):
        return a.reshape(-1, channels * grid.groups) @ group_sum

    def step(carry, k):
        # The carry brings the geometry of the tap, computed one step ahead. Otherwise XLA fuses it into each gather and computes
        # it again for every channel.
        d_rows, tap = carry
        corners = _fetch(grid, rows, tap)
        a, b, c, d = corners
        weights = _weights(tap.fy, tap.fx)
        sampled = _interpolate(corners, weights) * tap.inside
        d_column = (d_out @ taps[k].T).reshape(-1, channels)
        masked = (tap.inside * tap.mask).reshape(-1, grid.groups)
        d_mask = sum_channels(sampled * d_column)
        d_y = sum_channels(((c - a) * (1 - tap.fx) + (d - b) * tap.fx) * d_column) * masked
        d_x = sum_channels(((b - a) * (1 - tap.fy) + (d - c) * tap.fy) * d_column) * masked
        d_weight = (sampled * tap.mask).reshape(-1, channels * grid.groups).T @ d_out
        for corner, w in zip(grid.corners, weights, strict=True):
            update = d_column * (w * tap.inside * tap.mask)
            d_rows = d_rows.at[tap.row + corner].add(update, mode="promise_in_bounds")
        return (d_rows, _tap(grid, offset, mask, (k + 1) % 9)), (jnp.stack([d_y, d_x], -1), d_mask, d_weight)

    start = (jnp.zeros(rows.shape, jnp.float32), _tap(grid, offset, mask, 0))
    (d_rows, _), (d_offset, d_mask, d_weight) = jax.lax.scan(step, start, jnp.arange(9))
    lead = (9, *mask.shape[:4])
    return (
        _from_rows(grid, d_rows).astype(x.dtype),
        jnp.moveaxis(d_offset.reshape(*lead, 2), 0, 4).astype(offset.dtype),
        jnp.moveaxis(d_mask.reshape(lead), 0, 4).astype(mask.dtype),
        d_weight.reshape(weight.shape).astype(weight.dtype),
    )


_sample_and_multiply.defvjp(_forward, _backward)


def _to_rows(grid, x):
    return x.reshape(-1, x.shape[-1] // grid.groups)


def _from_rows(grid, rows):
    return rows.reshape(grid.n, grid.height + 2, grid.width + 2, -1)


def _tap(grid, offset, mask, k) -> _Tap:
    """Positions of tap `k` in the image with its border; `inside` is 0 for samples that cannot touch the image."""
    shift = jax.lax.dynamic_index_in_dim(offset, k, 4, keepdims=False).astype(jnp.float32)
    rows = jnp.arange(grid.out_height) * grid.stride - grid.padding + k // 3 * grid.dilation
    columns = jnp.arange(grid.out_width) * grid.stride - grid.padding + k % 3 * grid.dilation
    y, x = shift[..., 0] + rows[None, :, None, None], shift[..., 1] + columns[None, None, :, None]
    inside = (y > -1) & (y < grid.height) & (x > -1) & (x < grid.width)  # False for NaN
    y, x = jnp.where(inside, y, 0), jnp.where(inside, x, 0)
    top, left = jnp.floor(y), jnp.floor(x)
    image = jnp.arange(grid.n)[:, None, None, None]
    pixel = (image * (grid.height + 2) + top.astype(jnp.int32) + 1) * (grid.width + 2) + left.astype(jnp.int32) + 1
    row = pixel * grid.groups + jnp.arange(grid.groups)[None, None, None]
    tap_mask = jax.lax.dynamic_index_in_dim(mask, k, 4, keepdims=False)
    fy, fx, inside, tap_mask = (a.astype(jnp.float32).reshape(-1, 1) for a in (y - top, x - left, inside, tap_mask))
    return _Tap(row.reshape(-1), fy, fx, inside, tap_mask)


def _fetch(grid, rows, tap):
    return [rows.at[tap.row + corner].get(mode="promise_in_bounds").astype(jnp.float32) for corner in grid.corners]


def _weights(fy, fx):
    return ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)


def _interpolate(corners, weights):
    return sum(c * w for c, w in zip(corners, weights, strict=True))
