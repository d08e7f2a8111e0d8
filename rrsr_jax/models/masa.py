"""MASA: matching acceleration and spatial adaptation for reference-based super-resolution (Lu et al. 2021)."""

import functools
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import SCALES, check_images
from rrsr_jax.models.layers import ResidualBlock, UpConv, conv3x3, default_init, pad_to_multiple
from rrsr_jax.models.matching import PATCH, match_patches
from rrsr_jax.models.resampling import bicubic, bicubic_downsample
from rrsr_jax.models.transfer import coverage, similarity, transfer

conv = functools.partial(conv3x3, kernel_init=default_init)
BLOCK = 8  # side of a block of the input; all its patches are matched within one window of the reference
SPACINGS = (1, 2, 3)  # of the points around a block's centre, by which its window is found
_REACH = max(SPACINGS)


class MASA(nn.Module):
    """Super-resolves an image by 4 with a reference image. 4,028,291 parameters with the defaults, all trained.

    Intermediates, with `mutable=["intermediates"]`: `match_index` (N, h, w), row-major over the cells of the reference,
    `match_score` (N, h, w), and `transferred_{1,2,4}x`, all for the padded input.

    Attributes:
      features: channels throughout.
      encoder_blocks: residual blocks of each of the encoder's levels.
      decoder_blocks: residual blocks where the decoder joins each of the input's levels.
      blocks: residual blocks at 1x, 2x and 4x.
      match_tile: see `match_patches`.
    """

    features: int = 64
    encoder_blocks: int = 4
    decoder_blocks: int = 2
    blocks: tuple[int, int, int] = (12, 8, 4)
    match_tile: int = 2**22

    pads_itself = True  # other padding would change the statistics and the windows

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """Super-resolves a batch.

        Images are extended to multiples of 8 (`lr`) and 16 (`ref`) by repeating the last row and column, and the result is
        cropped. Statistics over the image include the extension.

        Args:
          lr: (N, h, w, 3) in [0, 1].
          ref: (N, H, W, 3) in [0, 1], of any size.

        Returns:
          (N, 4h, 4w, 3), not clipped.

        Raises:
          ValueError: images of a wrong rank, channel count or dtype.
        """
        check_images(lr=lr, ref=ref)
        h, w = lr.shape[1:3]
        lr, ref = pad_to_multiple(lr, BLOCK), pad_to_multiple(ref, 4 * SCALE_FACTOR)
        encoder = Encoder(self.features, self.encoder_blocks, name="encoder")
        levels, ref_levels = encoder(lr), encoder(ref)
        transferred = self._transfer(levels[0], encoder(bicubic_downsample(ref), levels=1)[0], ref_levels)
        x = self._decode(levels)
        adapt = SpatialAdaptation(self.features, name="adapt")
        x = ResidualTrunk(self.features, self.blocks[0], name="merge_1x")(_concat(adapt(x, transferred[0]), x))
        for i in (1, 2):
            detail = adapt(_double(x), transferred[i])
            x = DualResidual(self.features, name=f"merge_{SCALES[i]}x")(x, detail)
            for k in range(self.blocks[i]):
                x = ResidualBlock(self.features, name=f"block_{SCALES[i]}x_{k}")(x)
        return (conv(3, name="last")(x) + bicubic(lr, SCALE_FACTOR))[:, : SCALE_FACTOR * h, : SCALE_FACTOR * w]

    def _transfer(self, features_in, features_ref, ref_levels) -> list[jax.Array]:
        """Reference features at 1x, 2x and 4x on the grid of the input, weighted by how well they match.

        The choice of patches is an argmax, without gradient. The transferred features have a gradient to the encoder and to the
        reference, the score to the encoder only: it compares an 8-bit resampling of the reference, which has no gradient.
        """
        h, w = features_in.shape[1:3]
        index = match_blocks(features_in, features_ref, self.match_tile)
        index_map = _from_blocks(index[..., None], h, w)[..., 0]
        bordered = jnp.pad(features_ref, ((0, 0), (1, 1), (1, 1), (0, 0)))
        score = similarity(_pad_edge(features_in), bordered, index_map)
        transferred = []
        for scale, features in zip(SCALES, reversed(ref_levels), strict=True):
            side = BLOCK * scale
            weight = _to_blocks(score[..., None])
            weight = jax.image.resize(weight, (weight.shape[0], side, side, 1), "linear")
            weight = weight / coverage(BLOCK, BLOCK).repeat(scale, 0).repeat(scale, 1)[None]
            transferred.append(_from_blocks(transfer(features, index, scale) * weight, h * scale, w * scale))
        named = {f"transferred_{scale}x": t for scale, t in zip(SCALES, transferred, strict=True)}
        for name, value in dict(match_index=index_map, match_score=score, **named).items():
            self.sow("intermediates", name, value)
        return transferred

    def _decode(self, levels):
        """Merges the levels of the input, from quarter to full size: (N, h, w, features)."""
        x = ResidualTrunk(self.features, self.decoder_blocks, name="decoder_3")(levels[2])
        for level in (2, 1):
            merged = _concat(_double(x), levels[level - 1])
            x = ResidualTrunk(self.features, self.decoder_blocks, name=f"decoder_{level}")(merged)
        return x


def match_blocks(features_in: jax.Array, features_ref: jax.Array, tile: int = 2**22) -> jax.Array:
    """Coarse-to-fine matching (MEM): finds a window of the reference for each block, and in it a patch for each cell.

    Args:
      features_in: (N, h, w, C), sides multiples of 8.
      features_ref: (N, Hr, Wr, C), sides at least 3.
      tile: see `match_patches`; also the number of products of block centres in memory at a time, at least those of one block.

    Returns:
      Matches (N h w / 64, 8, 8), blocks row-major, int32: the reference cell at the centre of the patch, row-major.
    """
    features_in, features_ref = jax.lax.stop_gradient((features_in, features_ref))
    (_, h, w, _), (_, hr, wr, _) = features_in.shape, features_ref.shape
    centre = _match_centres(features_in, features_ref, tile)
    block = jnp.broadcast_to(jnp.arange(centre.shape[1]), centre.shape)
    y, x = BLOCK * (block // (w // BLOCK)), BLOCK * (block % (w // BLOCK))
    blocks = _cut(_pad_edge(features_in), y, x, BLOCK + 2, BLOCK + 2)
    height, width = _window(hr, h // BLOCK), _window(wr, w // BLOCK)
    top = jnp.clip(centre // wr - height // 2, 0, hr - height)
    left = jnp.clip(centre % wr - width // 2, 0, wr - width)
    windows = _cut(features_ref, top, left, height, width)
    index, _ = match_patches(blocks, windows, normalise=False, tile=tile)
    top, left = (start.reshape(-1, 1, 1) for start in (top, left))
    return (top + index // (width - 2) + 1) * wr + left + index % (width - 2) + 1


def _match_centres(features_in, features_ref, tile):
    """The reference cell most similar to each block's centre, (N, blocks), by nine points around it at each of three spacings."""
    n, hr, wr, channels = features_ref.shape
    first = BLOCK // 2 - _REACH
    points = [features_in[:, first + y :: BLOCK, first + x :: BLOCK] for d in SPACINGS for y, x in _stencil(d)]
    points = jnp.stack(points, 3).reshape(n, -1, len(SPACINGS), PATCH**2, channels)
    points = points / _norm((points**2).sum((3, 4), keepdims=True))
    ref = jnp.pad(features_ref, ((0, 0), (_REACH, _REACH), (_REACH, _REACH), (0, 0)))
    squares = (ref**2).sum(-1)
    norms = [_norm(sum(squares[:, y : y + hr, x : x + wr] for y, x in _stencil(d))) for d in SPACINGS]

    def search(block):
        products = jnp.einsum("nktc,nyxc->nktyx", block, ref, precision=jax.lax.Precision.HIGHEST)
        scores = []
        for k, d in enumerate(SPACINGS):
            shifted = [products[:, k, tap, y : y + hr, x : x + wr] for tap, (y, x) in enumerate(_stencil(d))]
            scores.append(sum(shifted) / norms[k])
        return functools.reduce(operator.add, scores).reshape(n, -1).argmax(-1)

    together = min(points.shape[1], max(1, tile // (len(SPACINGS) * PATCH**2 * n * hr * wr)))
    return jax.lax.map(search, jnp.moveaxis(points, 1, 0), batch_size=together).T.astype(jnp.int32)


def _stencil(spacing):
    """Nine points (y, x), counted from the top left point of the widest stencil."""
    ticks = (_REACH - spacing, _REACH, _REACH + spacing)
    return [(y, x) for y in ticks for x in ticks]


def _norm(squares):
    return jnp.sqrt(jnp.maximum(squares, 1e-24))


def _window(size: int, blocks: int) -> int:
    """Side of a window in cells: 1.5 times the share of one block, plus a border, but at most the reference's `size`."""
    return min(size, 2 * math.floor(size // (2 * blocks) * 1.5) + 3)


def _cut(x, top, left, height, width):
    """(N, H, W, C) and corners (N, windows) to (N windows, height, width, C)."""

    def one(image, y, x):
        return jax.lax.dynamic_slice(image, (y, x, 0), (height, width, image.shape[-1]))

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(x, top, left).reshape(-1, height, width, x.shape[-1])


def _to_blocks(x):
    return rearrange(x, "n (rows y) (columns x) c -> (n rows columns) y x c", y=BLOCK, x=BLOCK)


def _from_blocks(blocks, h, w):
    rows, columns = h // blocks.shape[1], w // blocks.shape[2]
    return rearrange(blocks, "(n rows columns) y x c -> n (rows y) (columns x) c", rows=rows, columns=columns)


class Encoder(nn.Module):
    """Features at full, half and quarter size; the same encoder for input and reference."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, image: jax.Array, levels: int = 3) -> list[jax.Array]:
        """(N, H, W, 3), sides multiples of 4, to the first `levels` of (N, H, W, features), (N, H / 2, ...), (N, H / 4, ...)."""
        features, x = [], image
        for level in range(1, levels + 1):
            x = ResidualTrunk(self.features, self.blocks, strides=min(level, 2), name=f"level_{level}")(x)
            features.append(x)
        return features


class ResidualTrunk(nn.Module):
    """relu(conv), then residual blocks; (N, H, W, C) to (N, H / strides, W / strides, features)."""

    features: int
    blocks: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(conv(self.features, strides=self.strides, name="conv")(x))
        for i in range(self.blocks):
            x = ResidualBlock(self.features, name=f"block_{i}")(x)
        return x


class SpatialAdaptation(nn.Module):
    """Gives reference features the statistics of the input, per channel and image, plus a learnt correction (SAM)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, ref: jax.Array) -> jax.Array:
        """Two of (N, H, W, features), input and reference, to one of the same shape."""
        s = nn.relu(conv(self.features, name="shared")(_concat(x, ref)))
        centred = ref - ref.mean((1, 2), keepdims=True)
        normalised = centred * jax.lax.rsqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5)
        variance = jnp.maximum(x.var((1, 2), ddof=1, keepdims=True), 1e-12)  # a finite gradient at a constant channel
        spread = jnp.sqrt(variance)
        gamma = conv(self.features, name="gamma")(s) + spread
        return normalised * gamma + conv(self.features, name="beta")(s) + x.mean((1, 2), keepdims=True)


class DualResidual(nn.Module):
    """Merges features with reference features of twice the size; each gets the other's residual (DRAM)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, ref: jax.Array) -> jax.Array:
        """(N, H, W, features) and (N, 2H, 2W, features) to (N, 2H, 2W, features)."""
        down = [conv(self.features, strides=2, name=f"down_{name}") for name in "ab"]
        up = [UpConv(self.features, name=f"up_{name}") for name in "ab"]
        of_ref = nn.relu(up[0](nn.relu(down[0](ref)) - x)) + ref
        of_x = nn.relu(up[1](x - nn.relu(down[1](ref)) + x))
        return nn.relu(conv(self.features, name="merge")(_concat(of_ref, of_x)))


def _double(x):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, 2 * h, 2 * w, c), "linear")


def _pad_edge(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def _concat(*maps):
    return jnp.concatenate(maps, -1)
