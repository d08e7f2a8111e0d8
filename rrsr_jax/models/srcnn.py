"""SRCNN: three convolutions on the bicubic image (Dong et al., TPAMI 2016), a baseline without reference."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.contract import check_images
from rrsr_jax.models.layers import normal_init
from rrsr_jax.models.resampling import bicubic_upsample


class SRCNN(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 69,251 parameters with the defaults: the paper's 9-5-5, on RGB.

    Attributes:
      features: channels after the first and the second convolution.
      kernels: sides of the three kernels, odd.
    """

    features: tuple[int, int] = (64, 32)
    kernels: tuple[int, int, int] = (9, 5, 5)

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped; without a gradient to `lr`."""
        check_images(lr=lr, ref=ref)
        # The paper's convolutions have no padding. The border that they remove is added in advance.
        margin = sum(side // 2 for side in self.kernels)
        x = bicubic_upsample(lr, SCALE_FACTOR)
        x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        layers = zip((*self.features, 3), self.kernels, strict=True)
        for i, (features, side) in enumerate(layers, start=1):
            x = nn.Conv(features, (side, side), padding="VALID", kernel_init=normal_init, name=f"conv{i}")(
                nn.relu(x) if i > 1 else x
            )
        return x
