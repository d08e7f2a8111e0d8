"""Which search there is for matches: among several references, and coarse-to-fine where images are large."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from rrsr_jax.models.matching import (
    PATCH,
    best_in_block,
    check_sizes,
    flow_from_match,
    inside,
    match_patches,
    normalised,
    patch_norm,
)


def match_patches_coarse_to_fine(
    features_in: jax.Array,
    features_ref: jax.Array,
    *,
    factor: int = 4,
    valid_ref: jax.Array | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    tile: int = 2**22,
) -> tuple[jax.Array, jax.Array]:
    """An approximation of `match_patches` for large images, at about 1 / `factor`^2 of its cost.

    Features are averaged over cells of `factor` x `factor` pixels and matched exhaustively. Then the patches of an input cell
    are compared with those of a window around the reference cell found: the cell and `factor` more patches on each side.
    Detail that the averages do not show is missed.

    Arguments, results and errors are those of `match_patches`, plus ValueError for a factor below 2. Images smaller than a
    window are matched exhaustively.
    """
    check_sizes(features_in, features_ref)
    if factor < 2:
        raise ValueError(f"coarse-to-fine matching: a factor of at least 2 expected, got {factor}")
    (_, h, w, _), (_, hr, wr, _) = features_in.shape, features_ref.shape
    exhaustive = functools.partial(match_patches, dtype=dtype, tile=tile)
    if min(h, w, hr, wr) < window_size(factor):
        return exhaustive(features_in, features_ref, valid_ref=valid_ref)
    a, b = (normalised(jax.lax.stop_gradient(f)) for f in (features_in, features_ref))
    coarse_valid = None if valid_ref is None else jnp.maximum(valid_ref // factor, PATCH)
    coarse, _ = exhaustive(cell_means(a, factor), cell_means(b, factor), valid_ref=coarse_valid)
    room = jnp.array([[hr, wr]]) if valid_ref is None else valid_ref
    start, corner = windows(coarse, wr // factor, (h, w), room, factor)
    index, score = search_windows(a, b, start, corner, factor=factor, valid_ref=valid_ref, dtype=dtype, tile=tile)
    return assemble_windows(index, (h, w), factor), assemble_windows(score, (h, w), factor) / (patch_norm(a) + 1e-5)


def window_size(factor: int) -> int:
    """Side of the part of the reference that a cell is compared with. Images with a smaller side are matched exhaustively."""
    return 3 * factor + PATCH - 1


def windows(
    coarse: jax.Array, ref_width: int, size: tuple[int, int], room: jax.Array, factor: int
) -> tuple[jax.Array, jax.Array]:
    """Where the patches of each cell are, and which part of the reference they are compared with.

    Args:
      coarse: (N, h' - 2, w' - 2) matches between cells, see `match_patches`.
      ref_width: width of the reference, in cells.
      size: height and width of the input in pixels.
      room: (N, 2) or (1, 2) height and width of the reference in pixels.
      factor: side of a cell, in pixels.

    Returns:
      The corner of the cell, (N, rows, columns, 2), and the corner of its window in the reference. The last cells start early
      instead of crossing the edge.
    """
    # The centre of the coarse patch around a cell gives the cell's own place in the reference: the top left of its window.
    flow = flow_from_match(coarse, ref_width)[:, : 1 - PATCH, : 1 - PATCH].astype(jnp.int32)
    starts, cells = [], []
    for axis, pixels in enumerate(size):
        cell = jnp.arange(math.ceil((pixels - 2) / factor))
        starts.append(jnp.minimum(cell * factor, pixels - 2 - factor))
        cells.append(jnp.clip(cell - 1, 0, flow.shape[1 + axis] - 1))
    start = jnp.stack(jnp.meshgrid(*starts, indexing="ij"), -1)[None]
    near = flow[:, cells[0]][:, :, cells[1]]
    limit = jnp.maximum(room - window_size(factor), 0)[:, None, None]
    corner = jnp.clip(start + near * factor - factor, 0, limit)
    return jnp.broadcast_to(start, corner.shape), corner


def search_windows(
    a: jax.Array,
    b: jax.Array,
    start: jax.Array,
    corner: jax.Array,
    *,
    factor: int,
    valid_ref: jax.Array | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    tile: int = 2**22,
) -> tuple[jax.Array, jax.Array]:
    """Compares the patches of cells of the input with those of a window of the reference.

    Args:
      a, b: (N, H, W, C) and (N, Hr, Wr, C), normalised.
      start, corner: (N, rows, columns, 2), see `windows`.
      factor, valid_ref, dtype, tile: see `match_patches_coarse_to_fine`.

    Returns:
      Index and score, (N, rows, columns, factor, factor); the score is not yet divided by the norm of the input's patch.
    """
    (n, rows, columns, _), (_, hr, wr, c) = start.shape, b.shape
    window = window_size(factor)
    norm_ref = patch_norm(b) + 1e-5
    allowed = None if valid_ref is None else inside(valid_ref - (PATCH - 1), hr - 2, wr - 2)
    image = jnp.broadcast_to(jnp.arange(n)[:, None, None], (n, rows, columns))
    a, b = a.astype(dtype), b.astype(dtype)

    def search(cell):
        image, start, corner = cell

        def cut(array, corner, size):
            return jax.lax.dynamic_slice(
                array[image], (*corner, 0)[: array.ndim - 1], (size, size, c)[: array.ndim - 1]
            )

        block, other = cut(a, start, factor + 2), cut(b, corner, window)
        norms, allow = jax.tree.map(lambda x: cut(x, corner, window - 2)[None], (norm_ref, allowed))
        index, score = best_in_block(block[None], other[None], norms, allow)
        y, x = index[0] // (window - 2) + corner[0], index[0] % (window - 2) + corner[1]
        return y * (wr - 2) + x, score[0]

    cells = jax.tree.map(lambda x: x.reshape(n * rows * columns, *x.shape[3:]), (image, start, corner))
    batch = max(1, tile // (window**2 * max((factor + 2) ** 2, c)))
    index, score = jax.lax.map(search, cells, batch_size=batch)
    index = jnp.where(score == -jnp.inf, 0, index)
    shape = (n, rows, columns, factor, factor)
    return index.reshape(shape), score.reshape(shape)


def assemble_windows(parts: jax.Array | np.ndarray, size: tuple[int, int], factor: int) -> jax.Array:
    """Results per cell, (N, rows, columns, factor, factor), as a map of the patches of an input of `size`: (N, H - 2, W - 2)."""
    parts = rearrange(jnp.asarray(parts), "n rows columns y x -> n (rows y) (columns x)")
    y, x = (_overlapping(pixels - 2, factor) for pixels in size)
    return parts[:, y][:, :, x]


def cell_means(features: jax.Array, factor: int) -> jax.Array:
    """Means over whole cells of `factor` x `factor` pixels, without what is left over at the right and bottom."""
    h, w = (size - size % factor for size in features.shape[1:3])
    return reduce(features[:, :h, :w], "n (h y) (w x) c -> n h w c", "mean", y=factor, x=factor)


def _overlapping(size, block):
    """The index of each of `size` rows among blocks of `block` rows, of which the last one starts early."""
    row = np.arange(size)
    return np.where(row < size - block, row, row + math.ceil(size / block) * block - size)


def match_references(
    features_in: jax.Array,
    features_refs: Sequence[jax.Array],
    *,
    normalise: bool = True,
    valid_refs: Sequence[jax.Array] | None = None,
    coarse: int = 0,
    dtype: jax.typing.DTypeLike = jnp.float32,
    tile: int = 2**22,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best patch among several references of any sizes; the first reference wins a tie.

    The same as for all references on one canvas, except that no patch contains canvas or parts of two references.

    Args:
      features_in: (N, H, W, C).
      features_refs: (N, ., ., C) for each reference.
      normalise: see `match_patches`; the approximate search always does.
      valid_refs: `valid_ref` of `match_patches` for each reference.
      coarse: factor of `match_patches_coarse_to_fine`; 0 for the exact search.
      dtype, tile: see `match_patches`.

    Returns:
      The number of the reference, the index in it, and the score, all (N, H - 2, W - 2).

    Raises:
      ValueError: no reference, or another number of `valid_refs`.
    """
    valid: list[jax.Array | None] = [None] * len(features_refs) if valid_refs is None else list(valid_refs)
    if not features_refs or len(valid) != len(features_refs):
        raise ValueError(
            f"at least one reference, and the valid size of each, expected, got {len(features_refs)} and {len(valid)}"
        )
    match = functools.partial(match_patches, normalise=normalise)
    if coarse:
        match = functools.partial(match_patches_coarse_to_fine, factor=coarse)
    best, best_score = match(features_in, features_refs[0], valid_ref=valid[0], dtype=dtype, tile=tile)
    which = jnp.zeros_like(best)
    for number in range(1, len(features_refs)):
        index, score = match(features_in, features_refs[number], valid_ref=valid[number], dtype=dtype, tile=tile)
        better = score > best_score
        which, best, best_score = (
            jnp.where(better, new, old) for new, old in ((number, which), (index, best), (score, best_score))
        )
    return which, best, best_score
