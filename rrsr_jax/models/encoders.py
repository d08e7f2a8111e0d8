"""The image encoders: VGG for reference features, matching and perceptual loss; the context encoder for the input."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rrsr_jax.models.layers import ResidualBlock, conv3x3, leaky_relu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# VGG-16 and VGG-19 are the same network up to conv3_3, and nothing here goes further with VGG-16.
CONVS_PER_STAGE = (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """VGG up to a named layer (Simonyan & Zisserman 2015; torchvision weights).

    Attributes:
      last: the layer to stop after, `relu3_1` or, without its activation, `conv3_1`.
      channels: width of each of the five stages; the published networks have the default.
    """

    last: str
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """(N, H, W, 3) RGB in [0, 1] to the first activation of each stage and the last layer, by name.

        Stage s has (H // 2^(s-1), W // 2^(s-1)) pixels and `channels[s-1]` channels.
        """
        x = (image - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
        features = {}
        conv = functools.partial(conv3x3, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        for stage, convs in enumerate(CONVS_PER_STAGE, start=1):
            if stage > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for i in range(1, convs + 1):
                x = conv(self.channels[stage - 1], name=f"conv{stage}_{i}")(x)
                if self.last == f"conv{stage}_{i}":
                    return features | {self.last: x}
                x = nn.relu(x)
                if i == 1:
                    features[f"relu{stage}_1"] = x
                if self.last == f"relu{stage}_{i}":
                    return features | {self.last: x}
        raise ValueError(f"VGG has no layer {self.last!r}")


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
