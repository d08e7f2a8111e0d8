"""DCSR (Wang et al., ICCV 2021): dual-camera super-resolution with aligned attention modules."""

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from rrsr_jax.models.contract import SCALES, as_references
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.layers import ResidualBlock, default_conv, default_inits, pad_to_multiple
from rrsr_jax.models.resampling import bicubic, bicubic_aligned
from rrsr_jax.models.sampling import bilinear
from rrsr_jax.models.search import cell_means, match_references
from rrsr_jax.models.transfer import similarity, transfer_cells

LARGEST_FACTOR = 3.0  # of what the affine head gives
ANGLE = 1.0472  # radians for one unit of its third output


class DCSR(nn.Module):
    """Super-resolves an image with reference images. 4,719,359 parameters with the defaults, all trained.

    Its authors published it for a factor of 2, with 3,193,372 parameters. The one for 4 follows what they say of theirs, see
    docs/differences.md.

    Parameters: `vgg` is the encoder that matches, initialised from VGG-19. Intermediates, with `mutable=["intermediates"]`:
    `match_reference`, `match_index`, row-major over the cells of its reference, and `match_score`, (N, h, w); `affine_image` and
    `affine_{2,4}x`, (N, h, w, 3), and what they align: `high_frequencies` and `aligned_{1,2,4}x`.

    Attributes:
      scale: 2 or 4. The rest of this project needs 4.
      features: channels of the trunk.
      encoder_blocks: residual blocks for the input.
      ref_encoder_blocks: residual blocks at each scale of the reference.
      blocks: residual blocks after what each scale adds, from 1x on.
      align_features: channels of the alignments.
      match_features: channels of what is matched.
      vgg_channels: widths of the encoder that matches.
      match_tile: see `match_patches`.
    """

    pretrained: ClassVar[tuple[str, ...]] = ("vgg",)  # modules that start from files of weights
    scale: int = 4
    features: int = 64
    encoder_blocks: int = 8
    ref_encoder_blocks: int = 4
    blocks: tuple[int, ...] = (8, 4, 4)
    align_features: int = 32
    match_features: int = 16
    vgg_channels: tuple[int, int, int] = (64, 128, 256)
    match_tile: int = 2**22

    pads_itself = True  # other padding could be matched

    @nn.compact
    def __call__(
        self,
        lr: jax.Array,
        ref: jax.Array | Sequence[jax.Array],
        valid_ref: jax.Array | Sequence[jax.Array] | None = None,
    ) -> jax.Array:
        """Super-resolves a batch.

        Args:
          lr: (N, h, w, 3) in [0, 1].
          ref: (N, H, W, 3) in [0, 1], of any size, extended to multiples of `scale` by repeating the last row and column; or a
            sequence of these, of which each cell takes the best.
          valid_ref: (N, 2) height and width of the part of `ref` that is not padding, in its pixels, or a sequence of these for
            several: no patch outside is matched; None if nothing is padding.

        Returns:
          (N, scale h, scale w, 3), not clipped.

        Raises:
          ValueError: a scale other than 2 or 4, or images of a wrong rank, channel count, dtype or number.
        """
        if self.scale not in (2, 4):
            raise ValueError(f"scale: 2 or 4 expected, got {self.scale}")
        refs, valid_refs = as_references(lr, ref, valid_ref)
        refs = [pad_to_multiple(ref, self.scale) for ref in refs]
        scales = SCALES[: int(math.log2(self.scale)) + 1]
        warp, score = self._match(lr, refs, valid_refs)
        high, aligned = self._align(lr, refs, warp, scales)
        x = _leaky_relu(default_conv(lr, self.features, name="head"))
        x = Body(self.features, self.encoder_blocks, name="encoder")(x)
        for i, scale in enumerate(scales, 1):
            if scale > 1:
                x, score = bicubic(x, 2), bicubic(score, 2)
            detail = ConvPair(self.features, self.features, (5, 3), name=f"fusion_{i}")(_concat(aligned[i - 1], x))
            weight = ConvPair(16, self.features, (7, 3), name=f"attention_{i}")(score)
            x = Body(self.features, self.blocks[i - 1], name=f"decoder_{i}")(weight * detail + x)
        tail = default_conv(_leaky_relu(default_conv(x, self.features // 2, name="tail1")), 3, name="tail2")
        weight = ConvPair(32, 3, (7, 3), name=f"attention_{len(scales) + 1}")(_concat(score, high))
        return tail + weight * high

    def _match(self, lr, refs, valid_refs):
        """How to bring maps of the references to the grid of the input, and how well they match there, (N, h, w, 1).

        The choice of cells is an argmax, without gradient. The score has a gradient to the encoder and to both images.
        """
        last = {2: "relu2_1", 4: "conv3_1"}[self.scale]
        levels = {2: 2, 4: 3}[self.scale]
        vgg = VGG(last, self.vgg_channels[:levels], name="vgg")
        inits = default_inits(self.vgg_channels[levels - 1])
        reduce = nn.Conv(self.match_features, (1, 1), **inits, name="match_reduce")

        def describe(image):
            """An image of the input's resolution to features with a border of one cell."""
            return _reflect(_leaky_relu(reduce(vgg(bicubic_aligned(image, self.scale))[last])))

        query, keys = describe(lr), [describe(cell_means(ref, self.scale)) for ref in refs]
        which, index, _ = match_references(
            query,
            keys,
            normalise=False,
            valid_refs=None if valid_refs is None else [valid // self.scale + 1 for valid in valid_refs],
            tile=self.match_tile,
        )
        places = [jnp.where(which == k, index, 0) for k in range(len(refs))]

        def choose(values):
            """Of one map for each reference, (N, h, w) or (N, k h, k w, C), what belongs to the matched one."""
            chosen = values[0]
            for k, value in enumerate(values[1:], 1):
                own = which == k
                if value.ndim == 4:
                    times = value.shape[1] // own.shape[1]
                    own = own.repeat(times, 1).repeat(times, 2)[..., None]
                chosen = jnp.where(own, value, chosen)
            return chosen

        def warp(maps, scale):
            """Maps of each reference, cells of `scale` x `scale` pixels, to (N, scale h, scale w, C)."""
            return choose([transfer_cells(x, place, scale) for x, place in zip(maps, places, strict=True)])

        score = choose([similarity(query, key, place) for key, place in zip(keys, places, strict=True)])
        for name, value in dict(match_reference=which, match_index=index, match_score=score).items():
            self.sow("intermediates", name, value)
        return warp, score[..., None]

    def _align(self, lr, refs, warp, scales):
        """High frequencies of the references, (N, scale h, scale w, 3), and features at each of `scales`, all aligned."""
        levels = [refs]
        for i in range(1, len(scales) + 1):
            pair = ConvPair(self.features, self.features, strides=1 if i == 1 else 2, name=f"ref_encoder_{i}")
            body = Body(self.features, self.ref_encoder_blocks, name=f"ref_body_{i}")
            levels.append([body(pair(x)) for x in levels[-1]])
        features = levels[:0:-1]  # from 1x on

        def align(maps, scale, name):
            means = [cell_means(ref, self.scale // scale) for ref in refs]
            module = Alignment(scale, self.align_features, name=f"align_{name}")
            aligned, affine = module(lr, warp(means, scale), warp(maps, scale))
            self.sow("intermediates", f"affine_{name}", affine)
            return aligned

        detail = [ref - bicubic(cell_means(ref, self.scale), self.scale) for ref in refs]
        high = align(detail, self.scale, "image")
        aligned = [warp(features[0], 1)]
        aligned += [align(maps, scale, f"{scale}x") for maps, scale in zip(features[1:], scales[1:], strict=True)]
        named = {f"aligned_{scale}x": value for scale, value in zip(scales, aligned, strict=True)}
        for name, value in dict(high_frequencies=high, **named).items():
            self.sow("intermediates", name, value)
        return high, aligned


class Alignment(nn.Module):
    """Samples each matched cell of the reference along an affine map that is estimated for it.

    Attributes:
      scale: side of a cell in pixels.
      features: channels of the estimate.
    """

    scale: int
    features: int = 32

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Aligned `x`, of the same shape, and the maps (N, h, w, 3): factors along y and x, and 1 for no rotation.

        Args:
          lr: (N, h, w, 3).
          ref: (N, scale h, scale w, 3), matched cells of the reference.
          x: (N, scale h, scale w, C), of anything made from the reference.
        """
        stem = Stem(self.features, name="image")
        both = _concat(stem(ref), stem(bicubic(lr, self.scale)))
        estimate = default_conv(Stem(self.features, self.scale, name="head")(both), 3, size=1, name="affine")
        affine = jnp.clip(1 + estimate, -LARGEST_FACTOR, LARGEST_FACTOR)
        return bilinear(_reflect(x), *_positions(affine, self.scale), double_edge=True), affine


def _positions(affine, scale):
    """Rows and columns, (N, scale h, scale w) each, at which to sample a map with a border of one pixel."""
    _, h, w, _ = affine.shape
    middle = (scale - 1) / 2
    factor_y, factor_x, turn = (affine[..., k].reshape(-1, h, w, 1, 1) for k in range(3))
    from_middle = jnp.arange(scale) - middle
    u, v = from_middle.reshape(1, 1, 1, scale, 1) * factor_y, from_middle.reshape(1, 1, 1, 1, scale) * factor_x
    sin, cos = jnp.sin(ANGLE * (turn - 1)), jnp.cos(ANGLE * (turn - 1))
    top, left = jnp.arange(h).reshape(1, h, 1, 1, 1) * scale, jnp.arange(w).reshape(1, 1, w, 1, 1) * scale
    to_image = functools.partial(rearrange, pattern="n h w dy dx -> n (h dy) (w dx)")
    return to_image(top + 1 + middle + u * cos - v * sin), to_image(left + 1 + middle + u * sin + v * cos)


class Stem(nn.Module):
    """A 5x5 convolution and a residual block, each with LeakyReLU: (N, H, W, C) to (N, H / strides, W / strides, features)."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _leaky_relu(default_conv(x, self.features, size=5, strides=self.strides, name="conv"))
        return _leaky_relu(_block(self.features, "block")(x))


class ConvPair(nn.Module):
    """Two convolutions of these sizes, the first with `strides`, each with LeakyReLU: (N, H, W, C) to (N, ., ., features)."""

    hidden: int
    features: int
    sizes: tuple[int, int] = (3, 3)
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _leaky_relu(default_conv(x, self.hidden, size=self.sizes[0], strides=self.strides, name="conv1"))
        return _leaky_relu(default_conv(x, self.features, size=self.sizes[1], name="conv2"))


class Body(nn.Module):
    """x plus a convolution of what residual blocks make of it; (N, H, W, features) to the same."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i in range(self.blocks):
            y = _block(self.features, f"block_{i}")(y)
        return x + default_conv(y, self.features, name="conv")


def _block(features, name):
    return ResidualBlock(features, activation=_leaky_relu, **default_inits(9 * features), name=name)


def _leaky_relu(x):
    return nn.leaky_relu(x, 0.2)


def _reflect(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")


def _concat(*maps):
    return jnp.concatenate(maps, -1)
