"""The image encoders: VGG for reference features, matching and the perceptual loss; the context encoder for the input."""

import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rrsr_jax.models.layers import ResidualBlock, conv3x3, leaky_relu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of MatConvNet's VGG-19, which takes values up to 255 and does not divide them.
MATCONVNET_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
MATCONVNET_STD = (1 / 255, 1 / 255, 1 / 255)
CONVS_PER_LEVEL = (2, 2, 4, 4, 4)  # of VGG-19
VGG16_CONVS_PER_LEVEL = (2, 2, 3, 3, 3)  # the same network up to conv3_3


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of 2 x 2 pixels: (N, H, W, C) to (N, H // 2, W // 2, C)."""
    return nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))


def layer_names() -> list[str]:
    """The layers of VGG-19, from first to last: `conv1_1`, `relu1_1`, ..., `pool5`."""
    names = []
    for level, convs in enumerate(CONVS_PER_LEVEL, start=1):
        for i in range(1, convs + 1):
            names += [f"conv{level}_{i}", f"relu{level}_{i}"]
        names.append(f"pool{level}")
    return names


class VGG(nn.Module):
    """VGG up to a named layer (Simonyan & Zisserman 2015; torchvision weights).

    Attributes:
      last: the layer to stop after, for example `relu3_1`, `conv3_1` for the same without its activation, or `pool3`.
      channels: widths of the five levels; the published networks have the default.
      dtype: of the computation.
      mean, std: of the colours, subtracted and divided by; weights that are not torchvision's may need others.
      others: layers before `last` to give as well, besides the first activation of each level.
      convs_per_level: VGG-19's, or `VGG16_CONVS_PER_LEVEL`.
      pool: ends each level.
    """

    last: str
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    dtype: DTypeLike = jnp.float32
    others: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    convs_per_level: tuple[int, ...] = CONVS_PER_LEVEL
    pool: Callable[[jax.Array], jax.Array] = max_pool

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """(N, H, W, 3) RGB in [0, 1] to the first activation of each level, `others` and the last layer, by name.

        Level k has (H // 2^(k-1), W // 2^(k-1)) pixels and `channels[k-1]` channels; `pool{k}` has half the sides.

        Raises:
          ValueError: VGG has no layer called `last`.
        """
        mean, std = (jnp.array(values).reshape(1, 1, 1, 3) for values in (self.mean, self.std))
        x = (image - mean) / std
        features = {}
        wanted = {self.last, *self.others, *(f"relu{level}_1" for level in range(1, len(self.convs_per_level) + 1))}
        for name, layer in self._layers():
            x = layer(x)
            if name in wanted:
                features[name] = x
            if name == self.last:
                return features
        raise ValueError(f"VGG has no layer {self.last!r}")

    def _layers(self) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        conv = functools.partial(conv3x3, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        for level, (convs, channels) in enumerate(zip(self.convs_per_level, self.channels, strict=False), start=1):
            for i in range(1, convs + 1):
                yield f"conv{level}_{i}", conv(channels, name=f"conv{level}_{i}")
                yield f"relu{level}_{i}", nn.relu
            yield f"pool{level}", self.pool


class ContextEncoder(nn.Module):
    """The paper's content extractor: (N, h, w, 3) to (N, h, w, features)."""

    features: int = 64
    blocks: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lr: jax.Array) -> jax.Array:
        x = leaky_relu(conv3x3(self.features, dtype=self.dtype, name="conv_first")(lr))
        for i in range(self.blocks):
            x = ResidualBlock(self.features, self.dtype, name=f"block_{i}")(x)
        return x
