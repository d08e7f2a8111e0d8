"""RCAN (Zhang et al. 2018): deep single-image super-resolution with channel attention, a baseline without reference."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.edsr import DIV2K_MEAN, Upsampler
from rrsr_jax.models.layers import conv3x3, mean_of_valid, normal_init


class ChannelAttention(nn.Module):
    """Scales every channel by a factor computed from the means of all channels; (N, H, W, C) to the same.

    Attributes:
      reduction: the means go through C / reduction channels.
    """

    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        squeezed = nn.Dense(channels // self.reduction, kernel_init=normal_init, name="down")(mean_of_valid(x, valid))
        excited = nn.Dense(channels, kernel_init=normal_init, name="up")(nn.relu(squeezed))
        return x * nn.sigmoid(excited)[:, None, None]


class RCAB(nn.Module):
    """conv - ReLU - conv - channel attention + identity."""

    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        y = nn.relu(conv3x3(x.shape[-1], name="conv1")(x))
        y = conv3x3(x.shape[-1], name="conv2")(y)
        return x + ChannelAttention(self.reduction, name="attention")(y, valid)


class RCAN(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 15,592,355 parameters with the defaults.

    The published 15,592,379 include the 24 constants that subtract and add the mean colour.

    Attributes:
      features: channels of the trunk.
      groups: residual groups.
      blocks: RCABs in each group.
      reduction: see `ChannelAttention`.
    """

    features: int = 64
    groups: int = 10
    blocks: int = 20
    reduction: int = 16

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped; `valid` as in `RRSR`."""
        check_images(lr=lr, ref=ref)
        mean = jnp.array(DIV2K_MEAN).reshape(1, 1, 1, 3)
        head = x = conv3x3(self.features, name="head")(lr - mean)
        for g in range(self.groups):
            group = x
            for b in range(self.blocks):
                x = RCAB(self.reduction, name=f"group_{g}_block_{b}")(x, valid)
            x = group + conv3x3(self.features, name=f"group_{g}_last")(x)
        x = head + conv3x3(self.features, name="body")(x)
        return Upsampler(name="upsampler")(x) + mean
