"""CrossNet (Zheng et al., ECCV 2018): features of the reference, warped by estimated flow at four scales."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import UpConv, default_conv, leaky_relu, pad_to_multiple
from rrsr_jax.models.resampling import bicubic_upsample, resized
from rrsr_jax.models.sampling import bilinear

SIDES = 64  # the flow net halves images six times
SCALES = (1, 2, 4, 8)  # the parts of full size at which features are warped, from fine to coarse


def _up(features: int, name: str) -> UpConv:
    return UpConv(features, size=4, default_bias=True, name=name)


class CrossNet(nn.Module):
    """Super-resolves an image by 4 with a reference image of the same view. 35,183,841 parameters with the defaults, all trained.

    102,464 of them, `decoder/post_fusion2`, are in the authors' files and change nothing, there as here. Intermediates, with
    `mutable=["intermediates"]`: `flow_{1,2,4,8}`, (N, H / k, W / k, 2), (dx, dy) in pixels of that scale, and `warped_{1,2,4,8}`.

    The authors say that displacements up to about 20 pixels suit it.

    Attributes:
      features: channels of encoder and decoder.
      flow_channels: of the flow net's levels, from half the size to 1/64.
      flow_up_channels: of its upsampled features, from 1/32 of the size to full.
    """

    features: int = 64
    flow_channels: tuple[int, int, int, int, int, int] = (64, 128, 256, 512, 512, 1024)
    flow_up_channels: tuple[int, int, int, int, int, int] = (256, 256, 128, 64, 64, 64)

    pads_itself = True  # other padding would change the flow

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, sisr: jax.Array | None = None) -> jax.Array:
        """Super-resolves a batch.

        Images of the size of the result are extended to multiples of 64 by repeating the last row and column, and the result is
        cropped.

        Args:
          lr: (N, h, w, 3) in [0, 1].
          ref: (N, H, W, 3) in [0, 1]; resized to (4h, 4w) if it has another size.
          sisr: (N, 4h, 4w, 3), the result of a single-image method, whose features the reference's are added to; None for
            Pillow's bicubic interpolation of `lr`, which the flow is always estimated with.

        Returns:
          (N, 4h, 4w, 3), not clipped.

        Raises:
          ValueError: images of a wrong rank, channel count, dtype or, of `sisr`, size.
        """
        check_images(lr=lr, ref=ref)
        up = bicubic_upsample(lr)
        h, w = up.shape[1:3]
        if sisr is None:
            sisr = up
        elif sisr.shape != up.shape:
            raise ValueError(f"sisr: shape {up.shape} expected for lr of shape {lr.shape}, got {sisr.shape}")
        up, sisr, ref = (pad_to_multiple(image, SIDES) for image in (up, sisr, resized(ref, h, w)))
        flows = FlowNet(self.flow_channels, self.flow_up_channels, name="flow_net")(up, ref)
        encoder = Encoder(self.features, name="encoder")
        own, others = encoder(sisr), encoder(ref)
        warped = [warp(features, flow) for features, flow in zip(others, flows, strict=True)]
        for name, maps in (("flow", flows), ("warped", warped)):
            for scale, value in zip(SCALES, maps, strict=True):
                self.sow("intermediates", f"{name}_{scale}", value)
        return Decoder(self.features, name="decoder")(own, warped)[:, :h, :w]


def warp(features: jax.Array, flow: jax.Array) -> jax.Array:
    """Bilinear samples of (N, H, W, C), continued by its border, at each pixel plus its `flow` (N, H, W, 2), (dx, dy)."""
    _, h, w, _ = features.shape
    rows, columns = jnp.arange(h).reshape(1, h, 1), jnp.arange(w).reshape(1, 1, w)
    return bilinear(features, rows + flow[..., 1], columns + flow[..., 0])


class FlowNet(nn.Module):
    """Flow from an image to a reference, by a FlowNetS with a full-size end (Dosovitskiy et al. 2015)."""

    channels: tuple[int, ...]
    up_channels: tuple[int, ...]

    @nn.compact
    def __call__(self, image: jax.Array, ref: jax.Array) -> list[jax.Array]:
        """Two of (N, H, W, 3), sides multiples of 64, to flows at each of `SCALES`: (N, H / k, W / k, 2), (dx, dy)."""
        x, levels = jnp.concatenate([image, ref], -1), []
        for level, features in enumerate(self.channels, 1):
            size = {1: 7, 2: 5, 3: 5}.get(level, 3)
            x = leaky_relu(default_conv(x, features, size=size, strides=2, name=f"conv{level}"))
            if level >= 3:
                x = leaky_relu(default_conv(x, features, name=f"conv{level}_1"))
            levels.append(x)
        flows = [default_conv(x, 2, name="flow6")]
        for level in range(5, 0, -1):
            x = jnp.concatenate([levels[level - 1], *self._doubled(x, flows[-1], level)], -1)
            flows.append(default_conv(x, 2, name=f"flow{level}"))
        x = jnp.concatenate([ref, *self._doubled(x, flows[-1], 0)], -1)
        for i in (1, 2):
            x = nn.selu(default_conv(x, 16, size=7, name=f"full{i}"))
        return [default_conv(x, 2, name="flow_full"), *flows[:-4:-1]]

    def _doubled(self, x, flow, level):
        features = _up(self.up_channels[5 - level], name=f"up{level}")(x)
        return leaky_relu(features), _up(2, name=f"flow{level + 1}_up")(flow)


class Encoder(nn.Module):
    """Features at each of `SCALES`: (N, H, W, 3) to four of (N, H / k, W / k, features)."""

    features: int

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        x, levels = nn.selu(default_conv(image, self.features, size=5, name="head")), []
        for level, scale in enumerate(SCALES, 1):
            strides = 1 if scale == 1 else 2
            x = nn.selu(default_conv(x, self.features, size=5, strides=strides, name=f"conv{level}"))
            levels.append(x)
        return levels


class Decoder(nn.Module):
    """Merges features of the image with warped ones of the reference, from coarse to fine."""

    features: int

    @nn.compact
    def __call__(self, own: list[jax.Array], warped: list[jax.Array]) -> jax.Array:
        """Two lists of features, see `Encoder`, to (N, H, W, 3)."""
        merged = jnp.concatenate([own[3], warped[3]], -1)
        for level in (3, 2, 1):
            coarser = nn.selu(_up(self.features, name=f"up{level + 1}")(merged))
            merged = jnp.concatenate([coarser, own[level - 1], warped[level - 1]], -1)
        x = nn.selu(default_conv(merged, self.features, size=5, name="post_fusion1"))
        default_conv(x[:, :1, :1], self.features, size=5, name="post_fusion2")  # only for its parameters
        return default_conv(x, 3, size=5, name="last")
