"""ESRGAN's generator, RRDBNet (Wang et al., ECCV workshops 2018): single-image super-resolution; ignores the reference."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import conv3x3, he_init, nearest_upsample

conv = functools.partial(conv3x3, kernel_init=he_init(0.1))


def _leaky_relu(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """x + 0.2 times the last of five convolutions, each of x and all results before; (N, H, W, C) to the same.

    Attributes:
      growth: channels of the first four convolutions.
    """

    growth: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = [x]
        for i in range(1, 5):
            maps.append(_leaky_relu(conv(self.growth, name=f"conv{i}")(jnp.concatenate(maps, -1))))
        return x + 0.2 * conv(x.shape[-1], name="conv5")(jnp.concatenate(maps, -1))


class RRDB(nn.Module):
    """Residual in residual dense block: x + 0.2 times what three dense blocks in a row make of x."""

    growth: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i in range(1, 4):
            y = DenseBlock(self.growth, name=f"dense_{i}")(y)
        return x + 0.2 * y


class RRDBNet(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 16,697,987 parameters with the defaults.

    Attributes:
      features: channels of the trunk.
      blocks: RRDBs.
      growth: see `DenseBlock`.
    """

    features: int = 64
    blocks: int = 23
    growth: int = 32

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped."""
        check_images(lr=lr, ref=ref)
        head = x = conv(self.features, name="head")(lr)
        for i in range(self.blocks):
            x = RRDB(self.growth, name=f"rrdb_{i}")(x)
        x = head + conv(self.features, name="body")(x)
        for name in ("up_2x", "up_4x"):
            x = _leaky_relu(conv(self.features, name=name)(nearest_upsample(x)))
        return conv(3, name="tail2")(_leaky_relu(conv(self.features, name="tail1")(x)))
