"""Correspondence between input and reference: the contrastive network (CCN), patch matching, and pre-offsets.

Nothing here has a gradient: the network is pretrained, and a match is an argmax.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax.models.encoders import VGG

PATCH = 3


class CorrespondenceNet(nn.Module):
    """Two VGG branches up to conv3_1, without the activation after it (C2-Matching, Jiang et al. 2021).

    Attributes:
      channels: widths of the three stages; the last is the size of a descriptor.
    """

    channels: tuple[int, ...] = (64, 128, 256)

    @nn.compact
    def __call__(self, lr_up: jax.Array, ref: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`lr_up` (N, 4h, 4w, 3) and `ref` (N, H, W, 3) to descriptors (N, h, w, C) and (N, H // 4, W // 4, C)."""
        branches = [VGG("conv3_1", self.channels, name=name) for name in ("branch_lr", "branch_ref")]
        return tuple(branch(image)["conv3_1"] for branch, image in zip(branches, (lr_up, ref), strict=True))


def untrained(params: Mapping) -> dict:
    """Random parameters of `CorrespondenceNet` that match usefully without training.

    Both branches get the same filters, or their descriptors would have nothing in common. All but the last layer only blur
    (a binomial window, random over channels) with a bias that keeps the activation mostly linear, so that a sharp reference
    looks like the blurred input; the last layer's filters have zero mean over their window, so that descriptors tell
    structure rather than brightness. On crops of four photographs, shifted, warped and relit as in `images.random_view`,
    61 % of the matches are then right to 0.75 pixels at 1x (widths 16, 32, 64; mean of five seeds); with filters as they
    come, 26 %.
    """
    window = jnp.outer(jnp.array([1.0, 2.0, 1.0]), jnp.array([1.0, 2.0, 1.0]))[:, :, None, None] / 16
    branch = {}
    for name, layer in params["branch_ref"].items():
        kernel, bias = layer["kernel"], layer["bias"]
        if name == "conv3_1":
            branch[name] = {"kernel": kernel - kernel.mean((0, 1), keepdims=True), "bias": bias}
        else:
            branch[name] = {"kernel": kernel.sum((0, 1), keepdims=True) * window, "bias": bias + 1}
    return {"branch_lr": branch, "branch_ref": jax.tree.map(jnp.copy, branch)}


def bicubic_upsample(lr: jax.Array, factor: int = 4) -> jax.Array:
    """What Pillow's bicubic gives for the 8-bit image: (N, h, w, C) in [0, 1] to (N, factor h, factor w, C), bit for bit.

    The correspondence net so sees the images it was trained on, and matches agree with those of the published pipeline.
    """
    return _pillow_bicubic(lr, lr.shape[1] * factor, lr.shape[2] * factor)


def bicubic_downsample(image: jax.Array, factor: int = 4) -> jax.Array:
    """Pillow's bicubic, antialiased: (N, H, W, C) in [0, 1], sides multiples of `factor`, to (N, H // factor, W // factor, C).

    Bit for bit for 8-bit images. Rounding to 8 bits has no gradient, and neither has this.
    """
    return _pillow_bicubic(image, image.shape[1] // factor, image.shape[2] // factor)


def _pillow_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """Like Pillow: first along rows, then along columns, in fixed point, each rounded to 8 bits."""
    # A reference may be a model's own output, which no 8-bit image can exceed.
    x = jnp.clip(jnp.round(jax.lax.stop_gradient(image) * 255), 0, 255).astype(jnp.int32)
    for axis, size in ((2, width), (1, height)):
        taps, coefficients = _bicubic_taps(image.shape[axis], size)
        shape = [1] * 4
        shape[axis] = -1
        total = sum(
            jnp.take(x, taps[:, k], axis) * coefficients[:, k].reshape(shape) for k in range(coefficients.shape[1])
        )
        x = jnp.clip((total + (1 << (_PRECISION - 1))) >> _PRECISION, 0, 255)
    return x.astype(jnp.float32) / 255


_PRECISION = 22  # fractional bits of Pillow's coefficients for 8-bit images


def _bicubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels and fixed-point weights, both (new_size, taps): Keys' kernel, a = -0.5, half-pixel centres.

    Shrinking stretches the kernel by the factor, against aliasing. Weights that fall outside the image are dropped and the
    others normalised.
    """
    scale = size / new_size
    stretch = max(scale, 1.0)
    centre = (np.arange(new_size) + 0.5) * scale - 0.5
    reach = math.ceil(2 * stretch)
    taps = np.floor(centre).astype(np.int32)[:, None] + np.arange(1 - reach, reach + 1)
    t = np.abs(centre[:, None] - taps) / stretch
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0)) * ((taps >= 0) & (taps < size))
    fixed = weights / weights.sum(1, keepdims=True) * (1 << _PRECISION)
    return np.clip(taps, 0, size - 1), np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


def match_patches(
    features_in: jax.Array, features_ref: jax.Array, *, normalise: bool = True, tile: int = 2**22
) -> tuple[jax.Array, jax.Array]:
    """The best reference patch for every 3x3 patch of the input (normalised correlation; the first one wins a tie).

    Pixels are L2-normalised over channels. The score of two patches is the sum of nine pixel products along a diagonal,
    so the pixel products of a tile are computed once and nine shifted copies of them added: a ninth of the operations
    of unfolded patches.

    Args:
      features_in: (N, H, W, C), H and W at least 3.
      features_ref: (N, Hr, Wr, C), Hr and Wr at least 3.
      normalise: whether pixels are L2-normalised first; patches always are.
      tile: pixel products in memory at a time, at least nine pairs of rows; memory depends on it, the result does not.

    Returns:
      Index of the best reference patch, row-major over the (Hr - 2, Wr - 2) top-left corners, int32, and its score,
      both (N, H - 2, W - 2).

    Raises:
      ValueError: an image smaller than a patch.
    """
    for name, features in (("input", features_in), ("reference", features_ref)):
        if min(features.shape[1:3]) < PATCH:
            raise ValueError(
                f"{name}: {PATCH}x{PATCH} feature pixels (an image of at least {4 * PATCH}x{4 * PATCH}) are needed to match "
                f"a patch, got {features.shape[1]}x{features.shape[2]}"
            )
    a, b = (jax.lax.stop_gradient(f) for f in (features_in, features_ref))
    if normalise:
        a, b = _normalise(a), _normalise(b)
    (n, h, w, _), (_, hr, wr, _) = a.shape, b.shape
    norm_in, norm_ref = (_patch_norm(f) + 1e-5 for f in (a, b))
    rows_in, rows_ref = _tile_rows(tile // (n * w * wr), h - 2, hr - 2)

    def search(start_in):
        block = jax.lax.dynamic_slice_in_dim(a, start_in, rows_in + 2, 1)

        def visit(i, best):
            start_ref = jnp.minimum(i * rows_ref, hr - 2 - rows_ref)
            other = jax.lax.dynamic_slice_in_dim(b, start_ref, rows_ref + 2, 1)
            norms = jax.lax.dynamic_slice_in_dim(norm_ref, start_ref, rows_ref, 1)
            index, score = _best_in_block(block, other, norms)
            better = score > best[1]  # strictly: blocks are visited in order, and the first one wins a tie
            return jnp.where(better, index + start_ref * (wr - 2), best[0]), jnp.where(better, score, best[1])

        shape = (n, rows_in, w - 2)
        start = (jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))
        return jax.lax.fori_loop(0, math.ceil((hr - 2) / rows_ref), visit, start)

    blocks = math.ceil((h - 2) / rows_in)
    # The last block starts early rather than run over the edge; its first rows are then dropped.
    starts = jnp.minimum(jnp.arange(blocks) * rows_in, h - 2 - rows_in)
    index, score = jax.lax.map(search, starts)

    def assemble(parts):
        head = jnp.moveaxis(parts[:-1], 0, 1).reshape(n, -1, w - 2)
        return jnp.concatenate([head, parts[-1][:, blocks * rows_in - (h - 2) :]], axis=1)

    return assemble(index), assemble(score) / norm_in


def _best_in_block(block, other, norms):
    """Best patch of `other` for each patch of `block`: index into (rows, columns) of `norms`, score times the input's norm."""
    products = jnp.einsum("nywc,nrsc->nywrs", block, other, precision=jax.lax.Precision.HIGHEST)
    n, rows_in, w, rows_ref, wr = products.shape
    rows_in, w, rows_ref, wr = rows_in - 2, w - 2, rows_ref - 2, wr - 2
    scores = sum(
        products[:, i : i + rows_in, j : j + w, i : i + rows_ref, j : j + wr]
        for i in range(PATCH)
        for j in range(PATCH)
    )
    scores = (scores / norms[:, None, None]).reshape(n, rows_in, w, rows_ref * wr)
    return jnp.argmax(scores, -1).astype(jnp.int32), scores.max(-1)


def _tile_rows(row_pairs: int, rows_in: int, rows_ref: int) -> tuple[int, int]:
    """Patch rows of a tile of about `row_pairs` pixel-row pairs, near square since each side pays for two more rows."""
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


def flow_from_match(index: jax.Array, ref_width: int) -> jax.Array:
    """Match index (N, H - 2, W - 2) to flow (N, H, W, 2), (dy, dx) in 1x pixels, zero in the last two rows and columns."""
    rows = ref_width - (PATCH - 1)
    y, x = jnp.arange(index.shape[1])[:, None], jnp.arange(index.shape[2])[None]
    flow = jnp.stack([index // rows - y, index % rows - x], axis=-1).astype(jnp.float32)
    return jnp.pad(flow, ((0, 0), (0, PATCH - 1), (0, PATCH - 1), (0, 0)))


def pre_offsets(flow: jax.Array, scale: int) -> jax.Array:
    """Nine offsets per pixel from one flow map: each tap follows another of the nine patches that cover the pixel.

    Args:
      flow: (N, H, W, 2), (dy, dx) in 1x pixels.
      scale: 1, 2 or 4.

    Returns:
      (N, scale H, scale W, 9, 2), (dy, dx) in pixels of that scale; tap 3i + j is the flow moved down by i and right by j.
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
