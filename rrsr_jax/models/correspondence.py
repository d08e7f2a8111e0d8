"""The contrastive correspondence network (CCN), whose descriptors are compared to find matches.

In the paper it is pretrained and frozen.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models.encoders import VGG

CELL_MIDDLE = (SCALE_FACTOR - 1) / 2  # pixels from the top left pixel of a cell
MARGIN = 10  # pixels at the edge of a warped image in which no correspondence is used


class CorrespondenceNet(nn.Module):
    """Two VGG branches up to conv3_1, without the activation after it (C2-Matching, Jiang et al. 2021).

    Attributes:
      channels: widths of the three levels; the last is the size of a descriptor.
    """

    channels: tuple[int, ...] = (64, 128, 256)

    def setup(self) -> None:
        self.branch_lr, self.branch_ref = (VGG("conv3_1", self.channels) for _ in range(2))

    def __call__(self, lr_up: jax.Array, *refs: jax.Array) -> tuple[jax.Array, ...]:
        """`lr_up` (N, 4h, 4w, 3) and each of `refs` (N, H, W, 3) to descriptors (N, h, w, C) and (N, H // 4, W // 4, C)."""
        return self.of_input(lr_up), *(self.of_reference(ref) for ref in refs)

    def of_input(self, lr_up: jax.Array) -> jax.Array:
        """Descriptors of the upsampled input, by `branch_lr`."""
        return self.branch_lr(lr_up)["conv3_1"]

    def of_reference(self, ref: jax.Array) -> jax.Array:
        """Descriptors of one reference, by `branch_ref`."""
        return self.branch_ref(ref)["conv3_1"]


def untrained(params: Mapping) -> dict:
    """Random parameters of `CorrespondenceNet` that match usefully without training.

    Both branches get the same filters, because descriptors of different filters cannot be compared. All layers except the last
    only blur (a binomial window, random over channels), with a bias that keeps the activation mostly linear, so that a sharp
    reference looks like the blurred input. The filters of the last layer have zero mean over their window, so that descriptors
    depend on structure and not on brightness. On crops of four photographs, shifted, warped and relit as in
    `images.random_view`, 61 % of the matches are then right to 0.75 pixels at 1x (widths 16, 32, 64; mean of five seeds), and
    26 % with the filters unchanged.
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


def descriptors(net: nn.Module, params: Mapping, lr_up: jax.Array, ref: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Descriptors of unit length of two images, the first by `branch_lr`, the second by `branch_ref`.

    Args:
      net: the correspondence net.
      params: its branches; other entries are ignored.
      lr_up, ref: (N, H, W, 3) in [0, 1].

    Returns:
      (N, H // 4, W // 4, C) each.
    """
    branches = {branch: params[branch] for branch in ("branch_lr", "branch_ref")}
    first, second = net.apply({"params": branches}, lr_up, ref)
    return _unit(first), _unit(second)


def _unit(features) -> jax.Array:
    return features * jax.lax.rsqrt(jnp.maximum((features**2).sum(-1, keepdims=True), 1e-12))


def correspondences(homography: jax.Array, height: int, width: int, place: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Where the cells of an image lie in its warp. A cell is a pixel at 1x, that is 4 x 4 pixels of the image.

    Args:
      homography: (N, 3, 3), maps (x, y, 1) in pixels of the image to those of the warp.
      height, width: of the images, in pixels.
      place: what stands for a cell, in pixels from its top left pixel in y and x: that pixel itself (C2-Matching), or
        `CELL_MIDDLE`, which is right for warps that change the scale, too.

    Returns:
      Positions (N, h, w, 2), (y, x) in cells of the warp, not rounded; and whether they lie more than `MARGIN` pixels inside the
      warp, (N, h, w). `h` and `w` are `height` and `width` over 4.
    """
    y, x = jnp.meshgrid(*(jnp.arange(0, n, SCALE_FACTOR, dtype=jnp.float32) for n in (height, width)), indexing="ij")
    pixels = jnp.stack([x + place, y + place, jnp.ones_like(x)], -1)
    warped = jnp.einsum("nij,hwj->nhwi", homography, pixels, precision="highest")
    warped = warped[..., 1::-1] / warped[..., 2:]
    below = (warped[..., 0] < height - MARGIN) & (warped[..., 1] < width - MARGIN)
    inside = (warped > MARGIN).all(-1) & below
    return (warped - place) / SCALE_FACTOR, inside
