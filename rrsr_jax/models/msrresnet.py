"""BasicSR's SRResNet, without normalisation: the generator of its MSRGAN; ignores the reference."""

import functools

import flax.linen as nn
import jax

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import ResidualBlock, conv3x3, he_init, leaky_relu, pixel_shuffle


class MSRResNet(nn.Module):
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
        conv = functools.partial(conv3x3, kernel_init=he_init(0.1))
        x = leaky_relu(conv(self.features, name="head")(lr))
        for i in range(self.blocks):
            x = ResidualBlock(self.features, kernel_init=he_init(0.1), name=f"block_{i}")(x)
        for name in ("up_1x", "up_2x"):
            x = leaky_relu(pixel_shuffle(conv(4 * self.features, name=name)(x)))
        x = conv(3, name="tail2")(leaky_relu(conv(self.features, name="tail1")(x)))
        n, h, w, _ = lr.shape
        return x + jax.image.resize(lr, (n, h * SCALE_FACTOR, w * SCALE_FACTOR, 3), "linear")
