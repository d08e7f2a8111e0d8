"""TTSR: texture transformer for reference-based super-resolution (Yang et al. 2020)."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import SCALES, check_images
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.layers import ResidualBlock, conv3x3, default_init, pad_to_multiple, pixel_shuffle
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.resampling import bicubic, bicubic_downsample, bicubic_upsample
from rrsr_jax.models.transfer import similarity, transfer

conv = functools.partial(conv3x3, kernel_init=default_init)
conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=default_init)
PATCHES = 9  # overlapping at a cell; the authors divide by it at the border, too, where fewer overlap


class TTSR(nn.Module):
    """Super-resolves an image by 4 with a reference image. 6,729,603 parameters with the defaults, all trained.

    Parameters: `vgg` is the texture extractor, initialised from VGG-19. Intermediates, with `mutable=["intermediates"]`:
    `match_index` and `match_score` (the hard and soft attention), and `transferred_{1,2,4}x`.

    Attributes:
      features: channels of the main network.
      blocks: residual blocks of the head, and of every map in the parts at 1x, 2x and 4x.
      vgg_channels: widths of the texture extractor at 4x, 2x and 1x.
      match_tile: see `match_patches`.
    """

    pretrained: ClassVar[tuple[str, ...]] = ("vgg",)  # modules that start from files of weights
    features: int = 64
    blocks: tuple[int, int, int, int] = (16, 16, 8, 4)
    vgg_channels: tuple[int, int, int] = (64, 128, 256)
    match_tile: int = 2**22

    pads_itself = True  # other padding could be matched

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """Super-resolves a batch.

        Args:
          lr: (N, h, w, 3) in [0, 1].
          ref: (N, H, W, 3) in [0, 1], of any size; extended to multiples of 4 by repeating the last row and column.

        Returns:
          (N, 4h, 4w, 3), clipped to [0, 1].

        Raises:
          ValueError: images of a wrong rank, channel count or dtype.
        """
        check_images(lr=lr, ref=ref)
        transferred, score = self._attend(lr, pad_to_multiple(ref, 4))
        f = nn.relu(conv(self.features, name="head")(2 * lr - 1))
        maps = [f + Body(self.features, self.blocks[0], name="head_body")(f)]
        for i, scale in enumerate(SCALES):
            if scale > 1:
                finer = pixel_shuffle(conv(4 * self.features, name=f"up_{scale}x")(maps[-1]))
                maps.append(nn.relu(finer))
            merged = conv(self.features, name=f"merge_{scale}x")(_concat(maps[-1], transferred[i]))
            maps[-1] += merged * bicubic(score, scale)
            mixed = Exchange(self.features, name=f"exchange_{scale}x")(maps) if scale > 1 else maps
            bodies = [Body(self.features, self.blocks[i + 1], name=f"body_{scale}x_{s}x") for s in SCALES[: i + 1]]
            maps = [own + body(x) for own, body, x in zip(maps, bodies, mixed, strict=True)]
        x = nn.relu(conv(self.features, name="tail_merge")(_concat(maps[2], *self._upsampled(maps[:2]))))
        x = conv1x1(3, name="tail2")(conv(self.features // 2, name="tail1")(x))
        return (jnp.clip(x, -1, 1) + 1) / 2

    def _attend(self, lr: jax.Array, ref: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Reference features on the grid of the input at 1x, 2x and 4x, and how well they match, (N, h, w, 1).

        The choice of patches is an argmax, without gradient. The transferred features have a gradient to the extractor and to
        `ref`, the score to the extractor only: it compares 8-bit resamplings of the images, which have no gradient.
        """
        vgg = VGG("relu3_1", self.vgg_channels, name="vgg")
        queries = vgg(bicubic_upsample(lr))["relu3_1"]
        keys = vgg(bicubic_upsample(bicubic_downsample(ref)))["relu3_1"]
        values = vgg(ref)
        border = ((0, 0), (1, 1), (1, 1), (0, 0))
        queries, keys = (jnp.pad(features, border) for features in (queries, keys))
        index, _ = match_patches(queries, keys, normalise=False, tile=self.match_tile)
        score = similarity(queries, keys, index)[..., None]
        transferred = [transfer(values[f"relu{3 - i}_1"], index, scale) / PATCHES for i, scale in enumerate(SCALES)]
        named = {f"transferred_{scale}x": t for scale, t in zip(SCALES, transferred, strict=True)}
        for name, value in dict(match_index=index, match_score=score, **named).items():
            self.sow("intermediates", name, value)
        return transferred, score

    def _upsampled(self, maps):
        layers = [conv1x1(self.features, name=f"tail_{scale}x") for scale in SCALES[:2]]
        return [_upsample(x, layer, 4 // scale) for x, layer, scale in zip(maps, layers, SCALES, strict=False)]


class Body(nn.Module):
    """Residual blocks, then a convolution; (N, H, W, features) to the same."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = ResidualBlock(self.features, name=f"block_{i}")(x)
        return conv(self.features, name="conv")(x)


class Exchange(nn.Module):
    """Cross-scale feature integration: every map is merged with all others, resampled to its scale."""

    features: int

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """Maps (N, H, W, features) at 1x, 2x, ... to merged maps of the same shapes."""
        scales = SCALES[: len(maps)]
        merged = []
        for own, to in zip(maps, scales, strict=True):
            others = [self._resample(x, scale, to) for x, scale in zip(maps, scales, strict=True) if scale != to]
            merged.append(nn.relu(conv(self.features, name=f"merge_{to}x")(_concat(own, *others))))
        return merged

    def _resample(self, x, scale, to):
        if scale < to:
            return _upsample(x, conv1x1(self.features, name=f"from_{scale}x_to_{to}x"), to // scale)
        for suffix in {2: ("",), 4: ("_1", "_2")}[scale // to]:
            x = nn.relu(conv(self.features, strides=2, name=f"from_{scale}x_to_{to}x{suffix}")(x))
        return x


def _upsample(x, layer, factor):
    """relu(layer(bicubic(x))) for a 1x1 convolution `layer`. The two commute, and the convolution costs less before."""
    return nn.relu(bicubic(layer(x), factor))


def _concat(*maps):
    return jnp.concatenate(maps, -1)
