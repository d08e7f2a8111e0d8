"""SRNTT (Zhang et al., CVPR 2019): super-resolution by neural texture transfer."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import SCALES, as_references
from rrsr_jax.models.encoders import IMAGENET_MEAN, IMAGENET_STD, VGG
from rrsr_jax.models.layers import BatchNorm, conv3x3, depth_to_space, normal_init
from rrsr_jax.models.matching import PATCH
from rrsr_jax.models.resampling import bicubic_downsample, bicubic_upsample
from rrsr_jax.models.search import match_references
from rrsr_jax.models.transfer import coverage, transfer


class SRNTT(nn.Module):
    """Super-resolves an image by 4 with reference images. 4,383,494 trained parameters with the defaults.

    The running statistics of its batch normalisation, 11,776 numbers more, are parameters without a gradient, see `BatchNorm`;
    `vgg` is pretrained and frozen. Intermediates, with `mutable=["intermediates"]`: `match_reference`, `match_index` and
    `match_score`, (N, h - 2, w - 2), the index row-major over the top left corners in its reference; `transferred_{1,2,4}x`, the
    maps that are pasted together of matched patches; and `upscale`, the result of the content extractor alone, in [0, 1].

    Attributes:
      features: channels of the trained part.
      context_blocks: residual blocks of the content extractor.
      blocks: residual blocks at 1x, 2x and 4x.
      vgg_channels: widths of the encoder at 4x, 2x and 1x.
      vgg_mean, vgg_std: see `VGG`. The defaults suit torchvision's weights; the authors have MatConvNet's, with
        `encoders.MATCONVNET_MEAN` and `MATCONVNET_STD`.
      match_tile: see `match_patches`.
      axis_name: see `BatchNorm`.
    """

    pretrained: ClassVar[tuple[str, ...]] = ("vgg",)  # modules that start from files of weights
    frozen: ClassVar[tuple[str, ...]] = ("vgg",)  # modules that the published run does not train
    features: int = 64
    context_blocks: int = 16
    blocks: tuple[int, int, int] = (16, 8, 4)
    vgg_channels: tuple[int, int, int] = (64, 128, 256)
    vgg_mean: tuple[float, float, float] = IMAGENET_MEAN
    vgg_std: tuple[float, float, float] = IMAGENET_STD
    match_tile: int = 2**22
    axis_name: str | None = None

    pads_itself = True  # other padding could be matched

    @nn.compact
    def __call__(
        self,
        lr: jax.Array,
        ref: jax.Array | Sequence[jax.Array],
        valid_ref: jax.Array | Sequence[jax.Array] | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Super-resolves a batch.

        Args:
          lr: (N, h, w, 3) in [0, 1], h and w at least 3.
          ref: (N, H, W, 3) in [0, 1], H and W at least 12, cut at the right and bottom to multiples of 4; or a sequence of these,
            of any sizes, of which each patch takes the best.
          valid_ref: (N, 2) height and width of the part of `ref` that is not padding, in its pixels, or a sequence of these for
            several: no patch outside is matched; None if nothing is padding.
          train: whether to normalise by the statistics of the batch. New running ones are then in the collection `batch_stats`,
            by the paths that the old ones have among the parameters, if that is mutable.

        Returns:
          (N, 4h, 4w, 3) in [0, 1].

        Raises:
          ValueError: images of a wrong rank, channel count, dtype, size or number.
        """
        refs, valid_refs = as_references(lr, ref, valid_ref)
        maps = self._transfer(lr, refs, valid_refs)
        content = ContentExtractor(self.features, self.context_blocks, self.axis_name, name="content")
        x, upscale = content(lr, train)
        self.sow("intermediates", "upscale", upscale)
        return TextureTransfer(self.features, self.blocks, self.axis_name, name="texture")(x, maps, train)

    def _transfer(self, lr, refs, valid_refs) -> list[jax.Array]:
        """Matched patches of the references' features on the grid of the input, averaged where they overlap, at `SCALES`.

        They have a gradient to `ref`; the choice of patches is an argmax, without one.
        """
        vgg = VGG("relu3_1", self.vgg_channels, mean=self.vgg_mean, std=self.vgg_std, name="vgg")
        refs = [_cut(ref) for ref in refs]
        keys = [vgg(bicubic_upsample(bicubic_downsample(ref)))["relu3_1"] for ref in refs]
        which, index, score = match_references(
            vgg(bicubic_upsample(lr))["relu3_1"],
            keys,
            normalise=False,
            valid_refs=None if valid_refs is None else [valid // SCALE_FACTOR for valid in valid_refs],
            tile=self.match_tile,
        )
        # No patch is centred at the cells of the border.
        places = [
            jnp.pad(
                jnp.where(which == k, _centre(index, key.shape[2]), -1), ((0, 0), (1, 1), (1, 1)), constant_values=-1
            )
            for k, key in enumerate(keys)
        ]
        values = [vgg(ref) for ref in refs]
        count = coverage(*lr.shape[1:3], border=1)[None]
        maps = []
        for level, scale in zip((3, 2, 1), SCALES, strict=True):
            pasted = [
                transfer(value[f"relu{level}_1"], place, scale) for value, place in zip(values, places, strict=True)
            ]
            maps.append(sum(pasted[1:], pasted[0]) / count.repeat(scale, 1).repeat(scale, 2))
        named = {f"transferred_{scale}x": value for scale, value in zip(SCALES, maps, strict=True)}
        for name, value in dict(match_reference=which, match_index=index, match_score=score, **named).items():
            self.sow("intermediates", name, value)
        return maps


def _cut(ref):
    h, w = (size - size % SCALE_FACTOR for size in ref.shape[1:3])
    return ref[:, :h, :w]


def _centre(corner, width):
    """The cell at the centre of a patch, row-major over `width` columns, given the index of its top left corner."""
    row, column = corner // (width - PATCH + 1), corner % (width - PATCH + 1)
    return (row + 1) * width + column + 1


def _scale_init(key, shape, dtype=jnp.float32, out_sharding=None):
    return 1 + normal_init(key, shape, dtype, out_sharding)


def _norm(axis_name: str | None, name: str) -> BatchNorm:
    return BatchNorm(in_params=True, unbiased=False, scale_init=_scale_init, axis_name=axis_name, name=name)


class Trunk(nn.Module):
    """Residual blocks x + norm(conv(relu(norm(conv x)))), then norm(conv x); (N, H, W, features) to the same."""

    features: int
    blocks: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(x, name):
            x = conv3x3(self.features, use_bias=False, name=f"{name}conv")(x)
            return _norm(self.axis_name, f"{name}norm")(x, train)

        for i in range(self.blocks):
            x = x + layer(nn.relu(layer(x, f"block_{i}_first_")), f"block_{i}_second_")
        return layer(x, "")


class ContentExtractor(nn.Module):
    """Features of the input, and a result without any reference."""

    features: int
    blocks: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, lr: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(N, h, w, 3) in [0, 1] to (N, h, w, features), and (N, 4h, 4w, 3) in [0, 1]."""
        head = nn.relu(conv3x3(self.features, name="head")(2 * lr - 1))
        x = y = Trunk(self.features, self.blocks, self.axis_name, name="trunk")(head, train) + head
        for name in ("up_1x", "up_2x"):
            y = nn.relu(depth_to_space(conv3x3(4 * self.features, name=name)(y)))
        return x, _image(y)


class TextureTransfer(nn.Module):
    """Merges the maps of matched patches into the features of the input, scale by scale."""

    features: int
    blocks: tuple[int, int, int]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, maps: list[jax.Array], train: bool) -> jax.Array:
        """(N, h, w, features), and maps at `SCALES`, to (N, 4h, 4w, 3) in [0, 1]."""
        for scale, blocks, pasted in zip(SCALES, self.blocks, maps, strict=True):
            y = nn.relu(conv3x3(self.features, name=f"merge_{scale}x")(jnp.concatenate([x, pasted], -1)))
            y = Trunk(self.features, blocks, self.axis_name, name=f"trunk_{scale}x")(y, train) + x
            if scale < SCALE_FACTOR:
                x = nn.relu(depth_to_space(conv3x3(4 * self.features, name=f"up_{scale}x")(y)))
        return _image(conv3x3(self.features // 2, name="tail")(y))


def _image(x):
    """The last layer of each part: features to [0, 1]."""
    return (nn.tanh(nn.Conv(3, (1, 1), kernel_init=normal_init, name="last")(x)) + 1) / 2
