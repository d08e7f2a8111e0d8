"""Patch matching between features of input and reference, and the pre-offsets that follow from it.

Nothing here has a gradient, because a match is an argmax.
"""

import math

import jax
import jax.numpy as jnp
from einops import rearrange

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
    check_sizes(features_in, features_ref)
    a, b = (jax.lax.stop_gradient(f) for f in (features_in, features_ref))
    if normalise:
        a, b = normalised(a), normalised(b)
    (n, h, w, _), (_, hr, wr, _) = a.shape, b.shape
    norm_in, norm_ref = (patch_norm(f) + 1e-5 for f in (a, b))
    a, b = a.astype(dtype), b.astype(dtype)
    rows_in, rows_ref = _tile_rows(tile // (n * w * wr), h - 2, hr - 2)
    ref_blocks = -(-(hr - 2) // rows_ref)
    allowed = None
    if valid_ref is not None:
        allowed = inside(valid_ref - (PATCH - 1), hr - 2, wr - 2)
        ref_blocks = jnp.clip(-(-(valid_ref[:, 0].max() - 2) // rows_ref), 1, ref_blocks)

    def search(start_in):
        block = jax.lax.dynamic_slice_in_dim(a, start_in, rows_in + 2, 1)

        def visit(i, best):
            start_ref = jnp.minimum(i * rows_ref, hr - 2 - rows_ref)
            other = jax.lax.dynamic_slice_in_dim(b, start_ref, rows_ref + 2, 1)
            norms, allow = jax.tree.map(
                lambda rows: jax.lax.dynamic_slice_in_dim(rows, start_ref, rows_ref, 1), (norm_ref, allowed)
            )
            index, score = best_in_block(block, other, norms, allow)
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


def check_sizes(features_in: jax.Array, features_ref: jax.Array) -> None:
    """Raises ValueError if an image is smaller than a patch."""
    for name, features in (("input", features_in), ("reference", features_ref)):
        if any(size < PATCH for size in features.shape[1:3]):
            raise ValueError(
                f"{name}: at least {PATCH}x{PATCH} feature pixels (an image of {4 * PATCH}x{4 * PATCH}) expected to match a "
                f"patch, got {features.shape[1]}x{features.shape[2]}"
            )


def inside(size: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels lie in the first `size` (N, 2) rows and columns: (N, height, width), bool."""
    rows, columns = jnp.arange(height)[None] < size[:, :1], jnp.arange(width)[None] < size[:, 1:]
    return rows[:, :, None] & columns[:, None]


def best_in_block(
    block: jax.Array, other: jax.Array, norms: jax.Array, allowed: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
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


def normalised(features: jax.Array) -> jax.Array:
    """Each pixel of (N, H, W, C) to unit length over the channels."""
    norm = jnp.sqrt((features**2).sum(-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)


def patch_norm(features: jax.Array) -> jax.Array:
    """Norms of the 3x3 patches of (N, H, W, C) by top left corner: (N, H - 2, W - 2)."""
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
