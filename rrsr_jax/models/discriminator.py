"""The image discriminator of the GAN stage."""

import flax.linen as nn
import jax

from rrsr_jax.models.layers import conv3x3, normal_init


class Discriminator(nn.Module):
    """Five blocks of two convolutions with batch normalisation, the second with stride 2; then two 1x1 convolutions.

    Attributes:
      features: channels of the blocks.
      head: channels between the last two convolutions.
      axis_name: mesh axis of the devices that share a batch; batch statistics are taken over all of them.
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    head: int = 1024
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, 3) in [0, 1] to (N,) in (0, 1).

        With `train`, it uses batch statistics and updates the running ones (collection `batch_stats`).
        """
        x = image
        for block, features in enumerate(self.features, start=1):
            for i, stride in enumerate((1, 2), start=1):
                x = conv3x3(features, strides=stride, name=f"block{block}_conv{i}")(x)
                norm = nn.BatchNorm(
                    not train, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name, name=f"block{block}_norm{i}"
                )
                x = nn.leaky_relu(norm(x), 0.2)
        x = x.mean((1, 2), keepdims=True)
        x = nn.leaky_relu(nn.Conv(self.head, (1, 1), kernel_init=normal_init, name="head1")(x), 0.2)
        return nn.sigmoid(nn.Conv(1, (1, 1), kernel_init=normal_init, name="head2")(x))[:, 0, 0, 0]
