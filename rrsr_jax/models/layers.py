"""Building blocks that several parts of the network share.

`dtype` is that of a module's computation and output; parameters are float32, and sums within a convolution too.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

# "Every conv and linear N(0, 0.02), bias 0" (the authors' release).
normal_init = nn.initializers.normal(0.02)
conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=normal_init)


def leaky_relu(x: jax.Array) -> jax.Array:
    """LeakyReLU with slope 0.1, the network's activation outside residual blocks."""
    return nn.leaky_relu(x, 0.1)


class ResidualBlock(nn.Module):
    """conv - ReLU - conv + identity, without normalisation; (N, H, W, features) to the same."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(conv3x3(self.features, dtype=self.dtype, name="conv1")(x))
        return x + conv3x3(self.features, dtype=self.dtype, name="conv2")(y)


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """(N, H, W, C * factor^2), channels ordered (c, dy, dx), to (N, H * factor, W * factor, C)."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * factor, w * factor, c // factor**2)
