"""Transfer of matched reference patches, for TTSR, MASA, SRNTT and DCSR: 3x3 cells at 1x, 6x6 and 12x12 pixels at 2x and 4x.

Unlike `matching`, this has gradients: features are learnt through what is transferred and through how well it matches. A cell
is one pixel at 1x, and scale x scale pixels of a map at another scale. A match is the index of the reference cell at the centre
of a patch, row-major over the cells of the reference.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from einops import rearrange

from rrsr_jax.models.layers import depth_to_space


def transfer(features: jax.Array, index: jax.Array, scale: int) -> jax.Array:
    """Pastes the matched patch of the reference around every cell of the input, and adds patches where they overlap.

    The same as unfolding the reference into patches, gathering, and folding them. A cell of the result is the sum of one cell
    from each of up to nine patches, so nine gathers of whole cells are enough and no patch is laid out in memory. On a CPU at
    40x40 cells this is 14 to 36 times as fast as with patches, and 18 to 60 times with the gradient.

    Args:
      features: (N, scale Hr, scale Wr, C) of the reference; zero outside.
      index: (M, h, w) matches, M a multiple of N: the first M // N grids belong to the first reference, and so on. Where it is
        -1, no patch is pasted.
      scale: 1, 2 or 4.

    Returns:
      (M, scale h, scale w, C), not yet divided by the number of patches (see `coverage`).
    """
    cells = _pad(_to_cells(features, scale))
    at = _cell(index, cells.shape)
    sources = [_covering(at, index < 0, i, j, cells.shape[2]) for i, j in _TAPS]
    return depth_to_space(functools.reduce(operator.add, gather(cells, sources)), scale)


def transfer_cells(features: jax.Array, index: jax.Array, scale: int) -> jax.Array:
    """Pastes the matched cell alone at every cell of the input; arguments and result as those of `transfer`, without -1."""
    cells = _pad(_to_cells(features, scale))
    return depth_to_space(gather(cells, [_cell(index, cells.shape)])[0], scale)


def coverage(h: int, w: int, border: int = 0) -> jax.Array:
    """How many patches cover each cell of an (h, w) grid: (h, w, 1).

    One patch is centred at every cell that is at least `border` cells away from the edge; 9 then cover the inner cells.
    """

    def along(size):
        distance = jnp.arange(size)[:, None] - jnp.arange(border, size - border)[None]
        return (jnp.abs(distance) <= 1).sum(1).astype(jnp.float32)

    return (along(h)[:, None] * along(w)[None])[..., None]


def similarity(features_in: jax.Array, features_ref: jax.Array, index: jax.Array) -> jax.Array:
    """Normalised correlation of every patch of the input with its match: the score of the search, with a gradient.

    Args:
      features_in: (N, h + 2, w + 2, C), with a border, because patches reach one cell further than their centres.
      features_ref: (N, Hr + 2, Wr + 2, C), likewise.
      index: (N, h, w) matches.

    Returns:
      (N, h, w) in [-1, 1].
    """
    ref = jnp.asarray(features_ref)
    h, w = index.shape[1:]
    at = _cell(index, ref.shape)
    own = [features_in[:, 1 + i :, 1 + j :][:, :h, :w] for i, j in _TAPS]
    matched = gather(ref, [at + i * ref.shape[2] + j for i, j in _TAPS])
    products = sum((a * b).sum(-1) for a, b in zip(own, matched, strict=True))
    squares_ref = gather(_pad(_patch_squares(ref)), [at])[0][..., 0]
    squares = _patch_squares(features_in)[..., 0] * squares_ref
    known = squares > 1e-24  # a patch of zeros has no direction: its similarity is 0, without gradient
    return jnp.where(known, products, 0) * jax.lax.rsqrt(jnp.where(known, squares, 1))


_TAPS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]  # the cells of a patch, from its centre


def _pad(cells):
    """Adds a border of one cell of zeros, for patches that reach over the edge. Cell 0 of the batch is then zero."""
    return jnp.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _to_cells(x, scale):
    return rearrange(x, "n (h dy) (w dx) c -> n h w (dy dx c)", dy=scale, dx=scale)


def _cell(index, padded_shape):
    """Flat indices of the matched cells among the padded reference cells of the whole batch."""
    n, hp, wp, _ = padded_shape
    image = jnp.arange(index.shape[0]) // (index.shape[0] // n)
    return (image[:, None, None] * hp + index // (wp - 2) + 1) * wp + index % (wp - 2) + 1


def _covering(at, missing, i, j, padded_width):
    """For each cell, the reference cell of the patch centred at distance (i, j); a cell of zeros where no such patch is."""
    h, w = at.shape[1:]
    at = jnp.pad(jnp.where(missing, 0, at - i * padded_width - j), ((0, 0), (1, 1), (1, 1)))
    return at[:, 1 + i :, 1 + j :][:, :h, :w]


@jax.custom_vjp
def gather(cells: jax.Array, places: list[jax.Array]) -> list[jax.Array]:
    """The cells (N, H, W, C) at each of several maps of flat indices, (..., C); indices count through the whole batch.

    The gradient is scattered into one array. JAX would allocate one for each map and add them, 3 to 8 times as slow on a CPU.
    """
    flat = cells.reshape(-1, cells.shape[-1])
    return [flat.at[at].get(mode="promise_in_bounds") for at in places]


def _gather_backward(saved, cotangents):
    cells, places = saved
    total = jnp.zeros_like(cells).reshape(-1, cells.shape[-1])
    for at, cotangent in zip(places, cotangents, strict=True):
        total = total.at[at].add(cotangent, mode="promise_in_bounds")
    return total.reshape(cells.shape), None


gather.defvjp(lambda cells, places: (gather(cells, places), (cells, places)), _gather_backward)


def _patch_squares(features):
    """Squared norms of all 3x3 patches, (N, H, W, C) to (N, H - 2, W - 2, 1)."""
    squares = (features**2).sum(-1, keepdims=True)
    h, w = squares.shape[1] - 2, squares.shape[2] - 2
    return functools.reduce(operator.add, [squares[:, 1 + i :, 1 + j :][:, :h, :w] for i, j in _TAPS])
