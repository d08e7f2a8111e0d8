"""RankSRGAN (Zhang et al., ICCV 2019): its generator, which ignores the reference, and the Ranker that it learns from."""

import functools

import flax.linen as nn
import jax

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.discriminator import VGGStyleTrunk
from rrsr_jax.models.layers import ResidualBlock, conv3x3, default_inits, he_init, pixel_shuffle


class RankSRGAN(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 1,554,499 parameters with the defaults.

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
        head = x = conv(self.features, name="head")(lr)
        for i in range(self.blocks):
            x = ResidualBlock(self.features, kernel_init=he_init(0.1), name=f"block_{i}")(x)
        x = head + conv3x3(self.features, **default_inits(9 * self.features), name="body")(x)
        for name in ("up_1x", "up_2x"):
            x = nn.relu(pixel_shuffle(conv(4 * self.features, name=name)(x)))
        return conv(3, name="tail2")(nn.relu(conv(self.features, name="tail1")(x)))


class Ranker(nn.Module):
    """Learns the order that NIQE gives images: a lower score is better. 13,734,281 trained parameters with the defaults.

    Attributes:
      features, axis_name: see `VGGStyleTrunk`.
      hidden: width of the layer before the last.
    """

    features: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 100
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, S, S, 3) in [0, 1] to scores (N,); `train` as in `Discriminator`. Square images of any size, as the authors'."""
        x = VGGStyleTrunk(self.features, biases=True, axis_name=self.axis_name, name="trunk")(image, train).mean((1, 2))
        x = nn.leaky_relu(nn.Dense(self.hidden, **default_inits(x.shape[-1]), name="linear1")(x), 0.2)
        return nn.Dense(1, **default_inits(self.hidden), name="linear2")(x)[:, 0]
