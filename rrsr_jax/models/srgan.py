"""SRGAN's generator, SRResNet (Ledig et al., CVPR 2017): single-image super-resolution; ignores the reference."""

import flax.linen as nn
import jax

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import BatchNorm, PReLU, conv3x3, he_init, pixel_shuffle


class SRResNet(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 1,547,350 trained parameters with the defaults.

    The running statistics of its batch normalisation, 4,224 numbers more, are parameters without a gradient, see `BatchNorm`.

    Attributes:
      features: channels of the trunk.
      blocks: residual blocks.
      axis_name: see `BatchNorm`.
    """

    features: int = 64
    blocks: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, train: bool = False) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped.

        With `train` it is normalised by the statistics of the batch; new running ones are in the collection `batch_stats`, by the
        paths that the old ones have among the parameters, if that is mutable.
        """
        check_images(lr=lr, ref=ref)

        def conv(x, features, name, bias=True):
            return conv3x3(features, kernel_init=he_init(), use_bias=bias, name=name)(x)

        def norm(x, name):
            return BatchNorm(in_params=True, axis_name=self.axis_name, name=name)(x, train)

        def wide_conv(x, features, name):
            return nn.Conv(features, (9, 9), padding=4, kernel_init=he_init(), name=name)(x)

        head = x = PReLU(name="head_prelu")(wide_conv(lr, self.features, "head"))
        for i in range(self.blocks):
            y = norm(conv(x, self.features, f"block_{i}_conv1", bias=False), f"block_{i}_norm1")
            y = conv(PReLU(name=f"block_{i}_prelu")(y), self.features, f"block_{i}_conv2", bias=False)
            x = x + norm(y, f"block_{i}_norm2")
        x = head + norm(conv(x, self.features, "body", bias=False), "body_norm")
        for name in ("up_1x", "up_2x"):
            x = PReLU(name=f"{name}_prelu")(pixel_shuffle(conv(x, 4 * self.features, name)))
        return wide_conv(x, 3, "tail")
