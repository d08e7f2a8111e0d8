"""EnhanceNet, ENet for short (Sajjadi et al., ICCV 2017): single-image super-resolution; ignores the reference."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import ResidualBlock, conv3x3, nearest_upsample
from rrsr_jax.models.resampling import bicubic

MEAN = (0.47614917, 0.45001204, 0.40904046)  # RGB, of the authors' training images, subtracted from the input
xavier = nn.initializers.xavier_uniform()


class ENet(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 852,867 parameters with the defaults.

    Attributes:
      features: channels of the trunk.
      blocks: residual blocks.
      half_pixel: whether the bicubic image that the residual is added to lies where it should. The published weights were trained
        with TensorFlow 1's, which lies 1.5 pixels of the result too far to the lower right.
    """

    features: int = 64
    blocks: int = 10
    half_pixel: bool = False

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped."""
        check_images(lr=lr, ref=ref)
        conv = functools.partial(conv3x3, kernel_init=xavier)
        x = nn.relu(conv(self.features, name="head")(lr - jnp.array(MEAN).reshape(1, 1, 1, 3)))
        for i in range(self.blocks):
            x = ResidualBlock(self.features, kernel_init=xavier, name=f"block_{i}")(x)
        for name in ("up_2x", "up_4x"):
            x = nn.relu(conv(self.features, name=name)(nearest_upsample(x)))
        x = conv(3, name="tail2")(nn.relu(conv(self.features, name="tail1")(x)))
        return x + bicubic(lr, SCALE_FACTOR, self.half_pixel)
