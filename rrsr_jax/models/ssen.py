"""SSEN (Shim et al., CVPR 2020): similarity search and extraction network, by deformable convolutions with estimated offsets.

Its authors published no code. What the paper does not say is a choice of this project, see docs/differences.md.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels import modulated_deform_conv
from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import (
    ResidualBlock,
    UpConv,
    default_conv,
    default_inits,
    leaky_relu,
    pad_to_multiple,
    pixel_shuffle,
)
from rrsr_jax.models.resampling import resized

SIDES = 8  # the offset estimator halves features three times
LEVELS = 3
TAPS = 9


class SSEN(nn.Module):
    """Super-resolves an image by 4 with a reference image. 3,286,617 parameters with the defaults, all trained.

    Intermediates, with `mutable=["intermediates"]`: `features_ref`, and `offset_{i}`, (N, h, w, 18), (dy, dx) of each tap, and
    `aligned_{i}`, (N, h, w, features), of each alignment i = 1, 2, ..., all for the padded input.

    Attributes:
      features: channels throughout.
      encoder_blocks: residual blocks of the extractor that input and reference share.
      alignments: deformable convolutions in a row.
      blocks: residual blocks of the reconstruction.
      attention_tile: number of pairs of pixels that a non-local block has in memory at a time.
      deform_conv: implementation of the deformable convolution, see `kernels.modulated_deform_conv`; empty for the default.
    """

    features: int = 64
    encoder_blocks: int = 5
    alignments: int = 3
    blocks: int = 16
    attention_tile: int = 2**22
    deform_conv: str = ""

    pads_itself = True  # other padding would take part in the attention

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """Super-resolves a batch.

        `lr` is extended to multiples of 8 by repeating the last row and column, `ref` by four times as much, and the result is
        cropped.

        Args:
          lr: (N, h, w, 3) in [0, 1].
          ref: (N, H, W, 3) in [0, 1]; resized to (4h, 4w) if it has another size.

        Returns:
          (N, 4h, 4w, 3), not clipped.

        Raises:
          ValueError: images of a wrong rank, channel count or dtype.
        """
        check_images(lr=lr, ref=ref)
        height, width = (SCALE_FACTOR * size for size in lr.shape[1:3])
        lr, ref = pad_to_multiple(lr, SIDES), pad_to_multiple(resized(ref, height, width), SCALE_FACTOR * SIDES)
        for i in (1, 2):
            ref = leaky_relu(default_conv(ref, self.features, strides=2, name=f"ref_down{i}"))
        extractor = Blocks(self.features, self.encoder_blocks, name="extractor")
        x = extractor(leaky_relu(default_conv(lr, self.features, name="head")))
        aligned = extractor(ref)
        self.sow("intermediates", "features_ref", aligned)
        for i in range(1, self.alignments + 1):
            aligned = self._aligned(x, aligned, i)
        merged = default_conv(jnp.concatenate([x, aligned], -1), self.features, name="merge")
        x = x + Blocks(self.features, self.blocks, name="reconstruction")(merged)
        for name in ("up_1x", "up_2x"):
            x = pixel_shuffle(default_conv(x, 4 * self.features, name=name))
        return default_conv(x, 3, name="last")[:, :height, :width]

    def _aligned(self, x, ref, number):
        """`ref` aligned to `x`, both (N, h, w, features), by a deformable convolution without masks."""
        estimator = OffsetEstimator(self.features, self.attention_tile, name=f"estimator_{number}")
        offset = estimator(jnp.concatenate([x, ref], -1))
        self.sow("intermediates", f"offset_{number}", offset)
        aligned = DeformableConv(self.features, self.deform_conv, name=f"align_{number}")(ref, offset)
        self.sow("intermediates", f"aligned_{number}", aligned)
        return aligned


class Blocks(nn.Module):
    """Residual blocks; (N, H, W, features) to the same."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = ResidualBlock(self.features, **default_inits(9 * self.features), name=f"block_{i}")(x)
        return x


class DeformableConv(nn.Module):
    """A deformable convolution without masks, with one deform group (Dai et al. 2017)."""

    features: int
    implementation: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, offset: jax.Array) -> jax.Array:
        """(N, H, W, C), and (N, H, W, 18), (dy, dx) of each tap in pixels, to (N, H, W, features)."""
        inits, channels = default_inits(TAPS * x.shape[-1]), x.shape[-1]
        kernel = self.param("kernel", inits["kernel_init"], (3, 3, channels, self.features))
        bias = self.param("bias", inits["bias_init"], (self.features,))
        lead = (*offset.shape[:3], 1, TAPS)
        offset, ones = offset.reshape(*lead, 2), jnp.ones(lead)
        return modulated_deform_conv(x, offset, ones, kernel, bias, implementation=self.implementation)


class OffsetEstimator(nn.Module):
    """The dynamic offset estimator: an hourglass with a non-local block before each of its upsamplings. Offsets start at zero."""

    features: int
    attention_tile: int = 2**22

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C), sides multiples of 8, to (N, H, W, 18), (dy, dx) of each tap."""
        levels = []
        for i in range(LEVELS):
            x = leaky_relu(default_conv(x, self.features, strides=2, name=f"down_{i}"))
            levels.append(x)
        for i, level in enumerate(reversed(levels)):
            found = NonLocal(self.features // 2, self.attention_tile, name=f"non_local_{i}")(x)
            up = UpConv(self.features, default_bias=True, name=f"up_{i}")
            x = leaky_relu(up(jnp.concatenate([found, level], -1)))
        zeros = nn.initializers.zeros_init()
        return nn.Conv(2 * TAPS, (3, 3), padding=1, kernel_init=zeros, name="head")(x)


class NonLocal(nn.Module):
    """x plus a projection of what each pixel finds by attention over the image (embedded Gaussian); starts as the identity.

    Attributes:
      features: channels of queries, keys and values.
      tile: number of pairs of pixels in memory at a time, at least those of one query per image.
    """

    features: int
    tile: int = 2**22

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to the same."""
        n, h, w, channels = x.shape
        q, k, v = (
            default_conv(x, self.features, size=1, name=name).reshape(n, h * w, self.features)
            for name in ("theta", "phi", "g")
        )

        def attend(queries):
            """(N, C) queries, one for each image."""
            return jnp.einsum("nl,nlc->nc", nn.softmax(jnp.einsum("nc,nlc->nl", queries, k)), v)

        together = max(1, self.tile // (n * h * w))
        if together >= h * w:
            found = jnp.einsum("nql,nlc->nqc", nn.softmax(jnp.einsum("nqc,nlc->nql", q, k)), v)
        else:
            found = jax.lax.map(attend, q.swapaxes(0, 1), batch_size=together).swapaxes(0, 1)
        project = nn.Conv(channels, (1, 1), kernel_init=nn.initializers.zeros_init(), name="out")
        return x + project(found.reshape(n, h, w, self.features))
