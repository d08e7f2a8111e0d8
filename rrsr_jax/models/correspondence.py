"""What is compared to find correspondences: the contrastive network (CCN), and the upsampled image it sees.

Pretrained, and without a gradient in the paper.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rrsr_jax.models.encoders import VGG


class CorrespondenceNet(nn.Module):
    """Two VGG branches up to conv3_1, without the activation after it (C2-Matching, Jiang et al. 2021).

    Attributes:
      channels: widths of the three stages; the last is the size of a descriptor.
    """

    channels: tuple[int, ...] = (64, 128, 256)

    @nn.compact
    def __call__(self, lr_up: jax.Array, *refs: jax.Array) -> tuple[jax.Array, ...]:
        """`lr_up` (N, 4h, 4w, 3) and each of `refs` (N, H, W, 3) to descriptors (N, h, w, C) and (N, H // 4, W // 4, C)."""
        branch_lr, branch_ref = (VGG("conv3_1", self.channels, name=name) for name in ("branch_lr", "branch_ref"))
        return branch_lr(lr_up)["conv3_1"], *(branch_ref(ref)["conv3_1"] for ref in refs)


def untrained(params: Mapping) -> dict:
    """Random parameters of `CorrespondenceNet` that match usefully without training.

    Both branches get the same filters, or their descriptors would have nothing in common. All but the last layer only blur
    (a binomial window, random over channels) with a bias that keeps the activation mostly linear, so that a sharp reference
    looks like the blurred input; the last layer's filters have zero mean over their window, so that descriptors tell
    structure rather than brightness. On crops of four photographs, shifted, warped and relit as in `images.random_view`,
    61 % of the matches are then right to 0.75 pixels at 1x (widths 16, 32, 64; mean of five seeds); with filters as they
    come, 26 %.
    """
    window = jnp.outer(jnp.array([1.0, 2.0, 1.0]), jnp.array([1.0, 2.0, 1.0]))[:, :, None, None] / 16
    branch = {}
    for name, layer in params["branch_ref"].items():
        kernel, bias = layer["kernel"], layer["bias"]
        if name == "conv3_1":
            branch[name] = {"kernel": kernel - kernel.mean((0, 1), keepdims=True), "bias": bias}
        else:
            branch[name] = {"kernel": kernel.sum((0, 1), keepdims=True) * window, "bias": bias + 1}
    return {"branch_lr": branch, "branch_ref": jax.tree.map(jnp.copy, branch)}


def bicubic_upsample(lr: jax.Array, factor: int = 4) -> jax.Array:
    """What Pillow's bicubic gives for the 8-bit image: (N, h, w, C) in [0, 1] to (N, factor h, factor w, C), bit for bit.

    The correspondence net so sees the images it was trained on, and matches agree with those of the published pipeline.
    """
    return _pillow_bicubic(lr, lr.shape[1] * factor, lr.shape[2] * factor)


def bicubic_downsample(image: jax.Array, factor: int = 4) -> jax.Array:
    """Pillow's bicubic, antialiased: (N, H, W, C) in [0, 1], sides multiples of `factor`, to (N, H // factor, W // factor, C).

    Bit for bit for 8-bit images. Rounding to 8 bits has no gradient, and neither has this.
    """
    return _pillow_bicubic(image, image.shape[1] // factor, image.shape[2] // factor)


def _pillow_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """Like Pillow: first along rows, then along columns, in fixed point, each rounded to 8 bits."""
    # A reference may be a model's own output, which no 8-bit image can exceed.
    x = jnp.clip(jnp.round(jax.lax.stop_gradient(image) * 255), 0, 255).astype(jnp.int32)
    for axis, size in ((2, width), (1, height)):
        taps, coefficients = _bicubic_taps(image.shape[axis], size)
        shape = [1] * 4
        shape[axis] = -1
        total = sum(
            jnp.take(x, taps[:, k], axis) * coefficients[:, k].reshape(shape) for k in range(coefficients.shape[1])
        )
        x = jnp.clip((total + (1 << (_PRECISION - 1))) >> _PRECISION, 0, 255)
    return x.astype(jnp.float32) / 255


_PRECISION = 22  # fractional bits of Pillow's coefficients for 8-bit images


def _bicubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels and fixed-point weights, both (new_size, taps): Keys' kernel, a = -0.5, half-pixel centres.

    Shrinking stretches the kernel by the factor, against aliasing. Weights that fall outside the image are dropped and the
    others normalised.
    """
    scale = size / new_size
    stretch = max(scale, 1.0)
    centre = (np.arange(new_size) + 0.5) * scale - 0.5
    reach = math.ceil(2 * stretch)
    taps = np.floor(centre).astype(np.int32)[:, None] + np.arange(1 - reach, reach + 1)
    t = np.abs(centre[:, None] - taps) / stretch
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0)) * ((taps >= 0) & (taps < size))
    fixed = weights / weights.sum(1, keepdims=True) * (1 << _PRECISION)
    return np.clip(taps, 0, size - 1), np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)
