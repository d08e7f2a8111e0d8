"""The discriminators. All are called as `(image, train)`; RRSR's gives values in (0, 1), the others logits or plain values."""

import functools

import flax.linen as nn
import jax

from rrsr_jax.models.layers import BatchNorm, conv3x3, default_inits, he_init, normal_init


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


# Initialisation of a layer, by its number of inputs.
_INITS = {"default": default_inits, "he": lambda fan_in: {"kernel_init": he_init()}}


def _flat(x: jax.Array) -> jax.Array:
    """(N, H, W, C) to (N, C H W), ordered (c, y, x) as in PyTorch."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


class SRGANDiscriminator(nn.Module):
    """SRGAN's (Ledig et al. 2017, Fig. 4): eight convolutions and two linear layers; 23,563,649 trained parameters at 96 x 96.

    Attributes:
      features: channels of each pair of convolutions; the second of a pair has stride 2.
      hidden: width of the first linear layer.
      axis_name: see `BatchNorm`.
    """

    features: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int = 1024
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, 3) in [0, 1], of the size it was initialised with, to logits (N,); `train` as in `Discriminator`."""
        x = image
        for block, features in enumerate(self.features, start=1):
            for i, stride in enumerate((1, 2), start=1):
                first, inits, name = block == i == 1, default_inits(9 * x.shape[-1]), f"block{block}_conv{i}"
                x = conv3x3(features, strides=stride, use_bias=first, **inits, name=name)(x)
                if not first:
                    x = BatchNorm(axis_name=self.axis_name, name=f"block{block}_norm{i}")(x, train)
                x = nn.leaky_relu(x, 0.2)
        x = _flat(x)
        x = nn.leaky_relu(nn.Dense(self.hidden, **default_inits(x.shape[-1]), name="linear1")(x), 0.2)
        return nn.Dense(1, **default_inits(self.hidden), name="linear2")(x)[:, 0]


class VGGStyleTrunk(nn.Module):
    """Pairs of convolutions, the second 4x4 with stride 2, each but the first with batch normalisation, and LeakyReLU 0.2.

    Attributes:
      features: channels of each pair.
      biases: whether the convolutions before a normalisation have them.
      initial: `he`, or PyTorch's `default`.
      axis_name: see `BatchNorm`.
    """

    features: tuple[int, ...]
    biases: bool = False
    initial: str = "default"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, 3) to (N, H // 2^k, W // 2^k, C) after k pairs."""
        x = image
        for i, features in enumerate(self.features):
            for j, (side, stride) in enumerate(((3, 1), (4, 2))):
                first, inits = i == j == 0, _INITS[self.initial](side**2 * x.shape[-1])
                conv = functools.partial(nn.Conv, features, (side, side), stride, 1, use_bias=first or self.biases)
                x = conv(**inits, name=f"conv{i}_{j}")(x)
                if not first:
                    x = BatchNorm(axis_name=self.axis_name, name=f"norm{i}_{j}")(x, train)
                x = nn.leaky_relu(x, 0.2)
        return x


class VGGStyleDiscriminator(nn.Module):
    """ESRGAN's and RankSRGAN's: 14,499,401 trained parameters at 128 x 128, 17,827,401 at 296 x 296.

    Attributes:
      features, axis_name: see `VGGStyleTrunk`.
      hidden: width of the first linear layer.
      initial: `he` (ESRGAN), or PyTorch's `default` (RankSRGAN).
    """

    features: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 100
    initial: str = "he"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, 3) in [0, 1], of the size it was initialised with, to logits (N,); `train` as in `Discriminator`."""
        inits = _INITS[self.initial]
        trunk = VGGStyleTrunk(self.features, initial=self.initial, axis_name=self.axis_name, name="trunk")
        x = _flat(trunk(image, train))
        x = nn.leaky_relu(nn.Dense(self.hidden, **inits(x.shape[-1]), name="linear1")(x), 0.2)
        return nn.Dense(1, **inits(self.hidden), name="linear2")(x)[:, 0]


class ENetDiscriminator(nn.Module):
    """EnhanceNet's (Sajjadi et al. 2017, supplement), without normalisation: 13,102,881 parameters at 128 x 128.

    The authors did not publish it. Slope, padding and initialisation are this project's choice.

    Attributes:
      features: channels of each pair of convolutions; the second of a pair has stride 2.
      hidden: width of the first linear layer.
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    hidden: int = 1024

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, 3) in [0, 1], of the size it was initialised with, to logits (N,); `train` changes nothing."""
        x, xavier = image, nn.initializers.xavier_uniform()
        for i, features in enumerate(self.features):
            for j, stride in enumerate((1, 2)):
                conv = nn.Conv(features, (3, 3), stride, "SAME", kernel_init=xavier, name=f"conv{2 * i + j}")
                x = nn.leaky_relu(conv(x), 0.2)
        x = nn.leaky_relu(nn.Dense(self.hidden, kernel_init=xavier, name="linear1")(_flat(x)), 0.2)
        return nn.Dense(1, kernel_init=xavier, name="linear2")(x)[:, 0]


class SRNTTDiscriminator(nn.Module):
    """SRNTT's (Zhang et al. 2019): ten convolutions with batch normalisation, as in `Discriminator`, and two linear layers.

    Attributes:
      features: channels of each pair of convolutions; the second of a pair has stride 2, with TensorFlow's padding.
      hidden: width of the first linear layer.
      axis_name: see `BatchNorm`.
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    hidden: int = 1024
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, 3) in [0, 1], of the size it was initialised with, to values (N,); `train` as in `Discriminator`."""
        x = 2 * image - 1
        for block, features in enumerate(self.features, start=1):
            for i, stride in enumerate((1, 2), start=1):
                conv = functools.partial(nn.Conv, features, (3, 3), stride, "SAME", use_bias=False)
                x = conv(kernel_init=normal_init, name=f"block{block}_conv{i}")(x)
                norm = BatchNorm(unbiased=False, axis_name=self.axis_name, name=f"block{block}_norm{i}")
                x = nn.leaky_relu(norm(x, train), 0.2)
        x = nn.leaky_relu(nn.Dense(self.hidden, kernel_init=normal_init, name="linear1")(_flat(x)), 0.2)
        return nn.Dense(1, kernel_init=normal_init, name="linear2")(x)[:, 0]


# By the names that `config.discriminator` has.
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "rrsr": Discriminator,
    "srgan": SRGANDiscriminator,
    "vgg_style": VGGStyleDiscriminator,
    "enet": ENetDiscriminator,
    "srntt": SRNTTDiscriminator,
}
# The kinds of their files of weights; those of the others are not published.
DISCRIMINATOR_KINDS = {
    "rrsr": "discriminator",
    "srgan": "srgan_discriminator",
    "vgg_style": "vgg_style_discriminator",
    "enet": "enet_discriminator",
}
