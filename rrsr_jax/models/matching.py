"""Patch matching between features of input and reference, and the pre-offsets that follow from it.

Nothing here has a gradient, because a match is an argmax.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

PATCH = 3


def match_patches(
    features_in: jax.Array,
    features_ref: jax.Array,
    *,
    normalise: bool = True,
    valid_ref: jax.Array | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    tile: int = 2**22,
) -> tuple[jax.Array, jax.Array]:
    """The best reference patch for every 3x3 patch of the input, by normalised correlation; the first one wins a tie.

    Pixels are L2-normalised over channels. The score of two patches is the sum of nine pixel products along a diagonal. So the
    pixel products of a tile are computed once and nine shifted copies of them are added, which takes a ninth of the operations
    of unfolded patches. It needs memory for one normalised copy of the features and for a tile, 8 to 12 bytes per product.

    Args:
      features_in: (N, H, W, C), H and W at least 3.
      features_ref: (N, Hr, Wr, C), Hr and Wr at least 3.
      normalise: whether to L2-normalise pixels first; patches always are.
      valid_ref: (N, 2) height and width of the part of `features_ref` that is not padding; None if nothing is padding. Only
        patches inside it can win, and rows that are padding in the whole batch are skipped.
      dtype: of the factors of the pixel products; sums and norms are float32.
      tile: number of pixel products in memory at a time, at least those of nine pairs of rows, 9 N W Wr. The result does not
        depend on it if features are finite.

    Returns:
      The index of the best reference patch, row-major over the (Hr - 2, Wr - 2) top left corners, int32, and its score,
      both (N, H - 2, W - 2). Where no patch is valid they are 0 and minus infinity.

    Raises:
      ValueError: an image smaller than a patch.
    """
    _check_sizes(features_in, features_ref)
    a, b = (jax.lax.stop_gradient(f) for f in (features_in, features_ref))
    if normalise:
        a, b = _normalise(a), _normalise(b)
    (n, h, w, _), (_, hr, wr, _) = a.shape, b.shape
    norm_in, norm_ref = (_patch_norm(f) + 1e-5 for f in (a, b))
    a, b = a.astype(dtype), b.astype(dtype)
    rows_in, rows_ref = _tile_rows(tile // (n * w * wr), h - 2, hr - 2)
    ref_blocks = -(-(hr - 2) // rows_ref)
    allowed = None
    if valid_ref is not None:
        allowed = _inside(valid_ref - (PATCH - 1), hr - 2, wr - 2)
        ref_blocks = jnp.clip(-(-(valid_ref[:, 0].max() - 2) // rows_ref), 1, ref_blocks)

    def search(start_in):
        block = jax.lax.dynamic_slice_in_dim(a, start_in, rows_in + 2, 1)

        def visit(i, best):
            start_ref = jnp.minimum(i * rows_ref, hr - 2 - rows_ref)
            other = jax.lax.dynamic_slice_in_dim(b, start_ref, rows_ref + 2, 1)
            norms, allow = jax.tree.map(
                lambda rows: jax.lax.dynamic_slice_in_dim(rows, start_ref, rows_ref, 1), (norm_ref, allowed)
            )
            index, score = _best_in_block(block, other, norms, allow)
            better = score > best[1]  # strictly: blocks are visited in order, and the first one wins a tie
            return jnp.where(better, index + start_ref * (wr - 2), best[0]), jnp.where(better, score, best[1])

        shape = (n, rows_in, w - 2)
        start = (jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))
        return jax.lax.fori_loop(0, ref_blocks, visit, start)

    blocks = -(-(h - 2) // rows_in)
    # The last block starts early instead of crossing the edge, and its first rows are dropped.
    starts = jnp.minimum(jnp.arange(blocks) * rows_in, h - 2 - rows_in)
    index, score = jax.lax.map(search, starts)

    def assemble(parts):
        head = rearrange(parts[:-1], "block n row w -> n (block row) w")
        return jnp.concatenate([head, parts[-1][:, blocks * rows_in - (h - 2) :]], axis=1)

    return assemble(index), assemble(score) / norm_in


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
    _check_sizes(features_in, features_ref)
    if factor < 2:
        raise ValueError(f"coarse-to-fine matching: a factor of at least 2 expected, got {factor}")
    (n, h, w, c), (_, hr, wr, _) = features_in.shape, features_ref.shape
    exhaustive = functools.partial(match_patches, dtype=dtype, tile=tile)
    window = 3 * factor + PATCH - 1
    if min(h, w, hr, wr) < window:
        return exhaustive(features_in, features_ref, valid_ref=valid_ref)
    a, b = (_normalise(jax.lax.stop_gradient(f)) for f in (features_in, features_ref))
    coarse_valid = None if valid_ref is None else jnp.maximum(valid_ref // factor, PATCH)
    coarse, _ = exhaustive(_cells(a, factor), _cells(b, factor), valid_ref=coarse_valid)
    norm_in, norm_ref = (_patch_norm(f) + 1e-5 for f in (a, b))
    allowed = None if valid_ref is None else _inside(valid_ref - (PATCH - 1), hr - 2, wr - 2)
    # The centre of the coarse patch around a cell gives the cell's own place in the reference: the top left of its window.
    flow = flow_from_match(coarse, wr // factor)[:, : 1 - PATCH, : 1 - PATCH].astype(jnp.int32)
    rows, columns = (math.ceil((size - 2) / factor) for size in (h, w))
    cell_y, cell_x = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
    near = flow[:, jnp.clip(cell_y - 1, 0, flow.shape[1] - 1), jnp.clip(cell_x - 1, 0, flow.shape[2] - 1)]
    # The last cells start early instead of crossing the edge.
    start = [jnp.minimum(cell_y * factor, h - 2 - factor), jnp.minimum(cell_x * factor, w - 2 - factor)]
    start = jnp.stack(start, -1)[None]
    room = jnp.array([[hr, wr]]) if valid_ref is None else valid_ref
    corner = jnp.clip(start + near * factor - factor, 0, jnp.maximum(room - window, 0)[:, None, None])
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
        index, score = _best_in_block(block[None], other[None], norms, allow)
        y, x = index[0] // (window - 2) + corner[0], index[0] % (window - 2) + corner[1]
        return y * (wr - 2) + x, score[0]

    cells = (image, jnp.broadcast_to(start, corner.shape), corner)
    cells = jax.tree.map(lambda x: x.reshape(n * rows * columns, *x.shape[3:]), cells)
    batch = max(1, tile // (window**2 * max((factor + 2) ** 2, c)))
    index, score = jax.lax.map(search, cells, batch_size=batch)
    index = jnp.where(score == -jnp.inf, 0, index)

    def assemble(parts):
        parts = rearrange(parts, "(n rows columns) y x -> n (rows y) (columns x)", rows=rows, columns=columns)
        y, x = (_overlapping(size - 2, factor) for size in (h, w))
        return parts[:, y][:, :, x]

    return assemble(index), assemble(score) / norm_in


def _cells(features, factor):
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
    match = functools.partial(match_patches_coarse_to_fine, factor=coarse) if coarse else match_patches
    best, best_score = match(features_in, features_refs[0], valid_ref=valid[0], dtype=dtype, tile=tile)
    which = jnp.zeros_like(best)
    for number in range(1, len(features_refs)):
        index, score = match(features_in, features_refs[number], valid_ref=valid[number], dtype=dtype, tile=tile)
        better = score > best_score
        which, best, best_score = (
            jnp.where(better, new, old) for new, old in ((number, which), (index, best), (score, best_score))
        )
    return which, best, best_score


def _check_sizes(features_in, features_ref):
    for name, features in (("input", features_in), ("reference", features_ref)):
        if any(size < PATCH for size in features.shape[1:3]):
            raise ValueError(
                f"{name}: at least {PATCH}x{PATCH} feature pixels (an image of {4 * PATCH}x{4 * PATCH}) expected to match a "
                f"patch, got {features.shape[1]}x{features.shape[2]}"
            )


def _inside(size, height, width):
    """Which pixels lie in the first `size` (N, 2) rows and columns: (N, height, width), bool."""
    rows, columns = jnp.arange(height)[None] < size[:, :1], jnp.arange(width)[None] < size[:, 1:]
    return rows[:, :, None] & columns[:, None]


def _best_in_block(block, other, norms, allowed=None):
    """The best patch of `other` for each patch of `block`: its flat index in `norms`, and its score times the input's norm.

    Patches that are False in `allowed`, which has the shape of `norms`, cannot win.
    """
    products = jnp.einsum(
        "nywc,nrsc->nywrs", block, other, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    n, rows_in, w, rows_ref, wr = products.shape
    rows_in, w, rows_ref, wr = rows_in - 2, w - 2, rows_ref - 2, wr - 2
    scores = sum(
        products[:, i : i + rows_in, j : j + w, i : i + rows_ref, j : j + wr]
        for i in range(PATCH)
        for j in range(PATCH)
    )
    scores = scores / norms[:, None, None]
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, -jnp.inf)
    scores = scores.reshape(n, rows_in, w, rows_ref * wr)
    best = scores.max(-1)
    # The first of the best, as `argmax` would give it; that one is not vectorised on a CPU.
    last = rows_ref * wr - 1
    where = jnp.where(scores == best[..., None], jax.lax.broadcasted_iota(jnp.int32, scores.shape, 3), last)
    return where.min(-1), best


def _tile_rows(row_pairs: int, rows_in: int, rows_ref: int) -> tuple[int, int]:
    """Patch rows (input, reference) of a tile of about `row_pairs` pairs of pixel rows; near square, as both need two more."""
    if not isinstance(
        row_pairs, int
    ):  # symbolic sizes of `jax.export`, which have no root: a reference of 16 rows or more
        return jax.core.min_dim(rows_in, jax.core.max_dim(1, row_pairs // 16 - 2)), 14
    side = max(3, math.isqrt(max(row_pairs, 9)))
    ref = min(rows_ref, side - 2)
    return min(rows_in, max(1, row_pairs // (ref + 2) - 2)), ref


def _normalise(features):
    norm = jnp.sqrt((features**2).sum(-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)


def _patch_norm(features):
    squares = (features**2).sum(-1)
    h, w = squares.shape[1] - 2, squares.shape[2] - 2
    return jnp.sqrt(sum(squares[:, i : i + h, j : j + w] for i in range(PATCH) for j in range(PATCH)))


def flow_from_match(index: jax.Array, ref_width: int | jax.Array, top: int | jax.Array = 0) -> jax.Array:
    """Match index (N, H - 2, W - 2) to flow (N, H, W, 2), (dy, dx) in 1x pixels, zero in the last two rows and columns.

    Args:
      index: of the matched patches, row-major over the top left corners in the reference.
      ref_width: width of the reference, or (N, H - 2, W - 2) if it differs from match to match.
      top: first row of the reference on a canvas, likewise.
    """
    rows = ref_width - (PATCH - 1)
    y, x = jnp.arange(index.shape[1])[None, :, None], jnp.arange(index.shape[2])[None, None]
    flow = jnp.stack([top + index // rows - y, index % rows - x], axis=-1).astype(jnp.float32)
    return jnp.pad(flow, ((0, 0), (0, PATCH - 1), (0, PATCH - 1), (0, 0)))


def pre_offsets(flow: jax.Array, scale: int) -> jax.Array:
    """Nine offsets per pixel from one flow map: each tap follows the match of one of the nine patches that cover the pixel.

    Args:
      flow: (N, H, W, 2), (dy, dx) in 1x pixels.
      scale: 1, 2 or 4.

    Returns:
      (N, scale H, scale W, 9, 2), (dy, dx) in pixels of that scale; tap 3i + j is the flow shifted down by i and right by j.
    """
    flow = flow.repeat(scale, 1).repeat(scale, 2) * scale
    _, h, w, _ = flow.shape
    margin = (PATCH - 1) * scale
    padded = jnp.pad(flow, ((0, 0), (margin, 0), (margin, 0), (0, 0)))
    taps = [
        padded[:, margin - i * scale :][:, :h, margin - j * scale :][:, :, :w]
        for i in range(PATCH)
        for j in range(PATCH)
    ]
    return jnp.stack(taps, axis=3)
