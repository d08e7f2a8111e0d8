"""Progressive feature alignment and selection (PFAS): the paper's section 3.2."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kernels import modulated_deform_conv
from rrsr_jax.models.layers import ResidualBlock, conv3x3, leaky_relu, mean_of_valid, normal_init

TAPS = 9


class OffsetBranch(nn.Module):
    """Residual offsets and masks from the features of the input and of the unaligned reference. Residuals start at zero.

    `config.learning_rates` names this branch by its scale: `offset_1x`, `offset_2x`, `offset_4x`.
    """

    features: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, ref: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Two of (N, H, W, .) to offsets (N, H, W, G, 9, 2), (dy, dx), and masks (N, H, W, G, 9) in (0, 1), float32."""
        y = leaky_relu(conv3x3(self.features, dtype=self.dtype, name="conv1")(jnp.concatenate([x, ref], -1)))
        y = leaky_relu(conv3x3(self.features, dtype=self.dtype, name="conv2")(y))
        zeros = nn.initializers.zeros_init()
        y = conv3x3(self.groups * TAPS * 3, dtype=self.dtype, kernel_init=zeros, name="head")(y).astype(jnp.float32)
        split = self.groups * TAPS * 2
        lead = (*y.shape[:3], self.groups, TAPS)
        return y[..., :split].reshape(*lead, 2), nn.sigmoid(y[..., split:]).reshape(lead)


class Alignment(nn.Module):
    """Aligns reference features to the input by pre-offsets from matching plus learnt residuals (MDCN).

    Attributes:
      scale: 1, 2 or 4.
      groups: deform groups G.
      dtype: of the computation.
      implementation: of the deformable convolution, see `kernels.modulated_deform_conv`; empty for the default.
    """

    scale: int
    groups: int = 8
    dtype: DTypeLike = jnp.float32
    implementation: str = ""

    @nn.compact
    def __call__(
        self, x: jax.Array, ref: jax.Array, pre_offset: jax.Array, beside: jax.Array | None = None
    ) -> jax.Array:
        """Aligned reference features on the grid of the input.

        Args:
          x: (N, H, W, features) input features.
          ref: (N, Hr, Wr, C) reference features, of any size.
          pre_offset: (N, H, W, 9, 2), (dy, dx) in pixels of this scale.
          beside: (N, H, W, C) reference features at the place of `x`, where `x` is a tile of an image. `ref` then has a border of
            one pixel of zeros, see `kernels.modulated_deform_conv`, so that no tile copies it. None: `x` is a whole image.

        Returns:
          (N, H, W, C).
        """
        features, bordered = ref.shape[-1], beside is not None
        branch = OffsetBranch(features, self.groups, self.dtype, name=f"offset_{self.scale}x")
        residual, mask = branch(x, _fit(ref, x.shape[1], x.shape[2]) if beside is None else beside)
        weight = self.param("kernel", normal_init, (3, 3, features, features))
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        offset = residual + pre_offset[:, :, :, None]
        self.sow("intermediates", "offset", offset)
        self.sow("intermediates", "mask", mask)
        weight = weight.astype(self.dtype)
        return leaky_relu(
            modulated_deform_conv(
                ref, offset, mask, weight, bias, implementation=self.implementation, bordered=bordered
            )
        )


class ReferenceAwareSelection(nn.Module):
    """A convolution whose kernel is a mixture of K experts, weighted by what input and reference show (eqs. 4 and 5).

    Attributes:
      features: output channels.
      experts: K.
      gate: multiply by a squeeze-and-excitation gate. The authors' release has it, the paper does not mention it.
      dtype: of the convolution and the result; routing and gate are float32.
    """

    features: int = 64
    experts: int = 16
    gate: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, merged: jax.Array, valid: jax.Array | None = None, mean: jax.Array | None = None) -> jax.Array:
        """`merged` (N, H, W, C) to (N, H, W, features).

        Args:
          merged: input and aligned reference features, concatenated.
          valid: (N, 2) height and width of the part that is not padding, in pixels of this scale; None if nothing is padding.
          mean: (N, C) of the whole image, where `merged` is a tile of it; None: computed from `merged`.
        """
        channels = merged.shape[-1]
        mean = mean_of_valid(merged, valid) if mean is None else mean
        routing = nn.sigmoid(nn.Dense(self.experts, kernel_init=normal_init, name="router")(mean))
        self.sow("intermediates", "routing", routing)
        experts = self.param("experts", normal_init, (self.experts, 3, 3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.experts, self.features))
        kernel = jnp.einsum("nk,kyxio->nyxio", routing, experts)
        selected = _conv_per_image(merged, kernel.astype(self.dtype)) + (routing @ bias)[:, None, None]
        if self.gate:
            squeezed = nn.Conv(channels, (1, 1), kernel_init=normal_init, name="gate1")(mean[:, None, None])
            excited = nn.Conv(self.features, (1, 1), kernel_init=normal_init, name="gate2")(nn.relu(squeezed))
            selected = selected * nn.sigmoid(excited)
        return selected.astype(self.dtype)


class FAS(nn.Module):
    """One feature alignment and selection block: `blocks(select(x, align(ref))) + x`.

    Attributes:
      scale: 1, 2 or 4.
      features: channels of `x`.
      blocks: residual blocks at the end.
      experts: K of the selection; 0 for a plain convolution with LeakyReLU instead (C2-Matching, the paper's baseline).
      groups, gate, dtype, implementation: see `Alignment` and `ReferenceAwareSelection`.
      remat: compute the residual blocks again in the backward pass instead of storing their activations.
    """

    scale: int
    features: int
    blocks: int
    experts: int = 16
    groups: int = 8
    gate: bool = True
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    implementation: str = ""

    reach_of_alignment: ClassVar[int] = 3  # pixels of this scale around a pixel that the offset branch sees

    @property
    def reach_of_selection(self) -> int:
        """Pixels of this scale around a pixel that change what `selected` returns for it, the mean apart."""
        return 1 + 2 * self.blocks

    def setup(self) -> None:
        self.align = Alignment(self.scale, self.groups, self.dtype, self.implementation)
        if self.experts:
            self.select = ReferenceAwareSelection(self.features, self.experts, self.gate, self.dtype)
        else:
            self.merge = conv3x3(self.features, dtype=self.dtype)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        self.block = [block(self.features, self.dtype) for _ in range(self.blocks)]

    def __call__(
        self, x: jax.Array, ref: jax.Array, pre_offset: jax.Array, valid: jax.Array | None = None
    ) -> jax.Array:
        """See `Alignment`; `valid` as in `ReferenceAwareSelection`. Returns the shape of `x`."""
        return self.selected(x, self.aligned(x, ref, pre_offset), valid)

    def aligned(
        self, x: jax.Array, ref: jax.Array, pre_offset: jax.Array, beside: jax.Array | None = None
    ) -> jax.Array:
        """The first half of the block, see `Alignment`."""
        aligned = self.align(x, ref, pre_offset, beside)
        self.sow("intermediates", "aligned", aligned)
        return aligned

    def selected(
        self, x: jax.Array, aligned: jax.Array, valid: jax.Array | None = None, mean: jax.Array | None = None
    ) -> jax.Array:
        """The second half; `valid` and `mean` as in `ReferenceAwareSelection`."""
        merged = jnp.concatenate([x, aligned], -1)
        y = self.select(merged, valid, mean) if self.experts else leaky_relu(self.merge(merged))
        for block in self.block:
            y = block(y)
        return x + y


def _fit(features: jax.Array, h: int, w: int) -> jax.Array:
    """Crops or zero-pads (N, H, W, C) at the right and bottom to (N, h, w, C)."""
    features = features[:, :h, :w]
    return jnp.pad(features, ((0, 0), (0, h - features.shape[1]), (0, w - features.shape[2]), (0, 0)))


def _conv_per_image(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution with a kernel of its own for each image: (N, H, W, C), (N, 3, 3, C, Co) to (N, H, W, Co).

    The one place where the choice of program depends on the back end. On a GPU, `vmap` gives one grouped convolution: three calls
    of cuDNN, forward and backward, for a batch of any size. XLA's grouped convolution for CPUs is slow (5 to 26 times at batches
    of 2 and 9, forward and backward, 2 cores), so there every image gets its own. Sums of batched matrix products, one for each
    tap, are slower on the CPU (1.3 to 4.8 times) and take 6 to 7 times the memory on a GPU.
    """

    def one(image, kernel):
        return jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    if jax.default_backend() == "cpu":
        return jnp.stack([one(*pair) for pair in zip(x, kernel, strict=True)])
    return jax.vmap(one)(x, kernel)
