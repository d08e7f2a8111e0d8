"""EDSR in its baseline size (Lim et al. 2017): single-image super-resolution, a baseline without reference."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import ResidualBlock, conv3x3, normal_init, pixel_shuffle

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB, subtracted from the input and added to the result


class Upsampler(nn.Module):
    """The tail of EDSR, RCAN and NLSN: (N, h, w, C) to RGB (N, 4h, 4w, 3) by two pixel shuffles, without activations."""

    kernel_init: Initializer = normal_init
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(conv3x3, kernel_init=self.kernel_init, bias_init=self.bias_init)
        for name in ("up_1x", "up_2x"):
            x = pixel_shuffle(conv(4 * x.shape[-1], name=name)(x))
        return conv(3, name="tail")(x)


class EDSR(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 1,517,571 parameters with the defaults.

    Attributes:
      features: channels of the trunk.
      blocks: residual blocks.
    """

    features: int = 64
    blocks: int = 16

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped."""
        check_images(lr=lr, ref=ref)
        mean = jnp.array(DIV2K_MEAN).reshape(1, 1, 1, 3)
        head = x = conv3x3(self.features, name="head")(lr - mean)
        for i in range(self.blocks):
            x = ResidualBlock(self.features, name=f"block_{i}")(x)
        x = head + conv3x3(self.features, name="body")(x)
        return Upsampler(name="upsampler")(x) + mean
