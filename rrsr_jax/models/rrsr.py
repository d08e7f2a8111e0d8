"""RRSR: the whole network (Fig. 2, bottom). Its fields also give the paper's ablations."""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.models import matching
from rrsr_jax.models.contract import SCALES, as_references, check_valid
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.encoders import VGG, ContextEncoder
from rrsr_jax.models.layers import conv3x3, leaky_relu, pixel_shuffle
from rrsr_jax.models.pfas import FAS
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.models.search import match_references
from rrsr_jax.models.subpixel import interpolated_offsets, smooth_flow, subpixel_shift

REMAT = ("none", "blocks", "fas")
DTYPES = ("float32", "bfloat16")
# How the flow is prepared, once for the image; and the offsets of each scale from that.
PRE_OFFSETS = {
    "patches": (lambda flow: flow, matching.pre_offsets),
    "smooth": (smooth_flow, interpolated_offsets),
}


class RRSR(nn.Module):
    """Super-resolves an image by 4 with a reference image. 22,594,651 trained parameters with the defaults.

    Of its parameters, `vgg` and `correspondence` are pretrained and frozen in the paper, the others are trained. Intermediates,
    with `mutable=["intermediates"]`: `match_reference`, `match_index`, `match_score`, `flow`, `pre_offset_{1,2,4}x`, and in each
    FAS block `fas_{scale}x_{i}` the `aligned` features, `align/offset`, `align/mask` and `select/routing` weights.

    Attributes:
      features: channels of the trained trunk.
      context_blocks: residual blocks of the context encoder.
      alignments: FAS blocks at 1x, 2x and 4x; (1, 1, 1) switches progressive alignment off.
      blocks: residual blocks in each FAS, at 1x, 2x and 4x.
      experts: K of the reference-aware selection; 0 switches it off.
      gate: see `ReferenceAwareSelection`.
      groups: deform groups.
      vgg_channels, correspondence_channels: widths of the encoders at 4x, 2x and 1x.
      match_tile: see `match_patches`.
      match_dtype: of the products in matching; the correspondence network itself is float32.
      match_coarse: factor of the approximate search, see `match_patches_coarse_to_fine`; 0 for the exact one.
      match_subpixel: whether matches are refined between pixels, see `subpixel_shift`; not in the paper.
      pre_offsets: `patches` (the paper: each tap follows another of the patches that cover the pixel) or `smooth`, see
        `interpolated_offsets`.
      dtype: of the computation, `float32` or `bfloat16`. Parameters, matching, routing, offsets, masks and output are float32.
      deform_conv: implementation of the deformable convolution, see `kernels.modulated_deform_conv`; empty for the default.
      remat: what the backward pass computes again instead of storing: `none`, residual `blocks`, or whole `fas` blocks.
    """

    pretrained: ClassVar[tuple[str, ...]] = ("vgg", "correspondence")  # modules that start from files of weights
    frozen: ClassVar[tuple[str, ...]] = ("vgg", "correspondence")  # modules that the published run does not train
    features: int = 64
    context_blocks: int = 16
    alignments: tuple[int, int, int] = (1, 3, 3)
    blocks: tuple[int, int, int] = (16, 5, 5)
    experts: int = 16
    gate: bool = True
    groups: int = 8
    vgg_channels: tuple[int, int, int] = (64, 128, 256)
    correspondence_channels: tuple[int, int, int] = (64, 128, 256)
    match_tile: int = 2**22
    match_dtype: str = "float32"
    match_coarse: int = 0
    match_subpixel: bool = False
    pre_offsets: str = "patches"
    dtype: str = "float32"
    remat: str = "none"
    deform_conv: str = ""

    @property
    def reach(self) -> int:
        """See `Contract`. The statistics it excepts are the means of the reference-aware selection."""
        per_scale = [
            count * (FAS.reach_of_alignment + self.fas(k).reach_of_selection) + 2
            for k, count in enumerate(self.alignments)
        ]  # then the convolutions before the next scale
        search = 8 + (self.pre_offsets == "smooth")  # upsampling, descriptors, patches
        return (
            self.reach_of_context
            + search
            + math.ceil(sum(pixels / scale for pixels, scale in zip(per_scale, SCALES, strict=True)))
        )

    @property
    def reach_of_context(self) -> int:
        """Pixels of the input around a pixel that change what `context` returns for it."""
        return 1 + 2 * self.context_blocks

    def setup(self) -> None:
        self._check_fields()
        dtype = jnp.dtype(self.dtype)
        self.vgg = VGG("relu3_1", self.vgg_channels, dtype)
        self.correspondence = CorrespondenceNet(self.correspondence_channels)
        self.context_encoder = ContextEncoder(self.features, self.context_blocks, dtype)
        for k, scale in enumerate(SCALES):
            for i in range(self.alignments[k]):
                setattr(self, f"fas_{scale}x_{i}", self.fas(k))
            if scale < SCALE_FACTOR:
                setattr(self, f"up_{scale}x", conv3x3(self.features * 4, dtype=dtype))
        self.tail1 = conv3x3(self.features // 2, dtype=dtype)
        self.tail2 = conv3x3(3, dtype=dtype)

    @nn.nowrap
    def fas(self, k: int) -> FAS:
        """One of the FAS blocks at `SCALES[k]`. They differ in their parameters, `fas_{scale}x_{i}`, only."""
        return (nn.remat(FAS) if self.remat == "fas" else FAS)(
            scale=SCALES[k],
            features=self.features,
            blocks=self.blocks[k],
            experts=self.experts,
            groups=self.groups,
            gate=self.gate,
            dtype=jnp.dtype(self.dtype),
            remat=self.remat == "blocks",
            implementation=self.deform_conv,
        )

    def __call__(
        self,
        lr: jax.Array,
        ref: jax.Array | Sequence[jax.Array],
        valid: jax.Array | None = None,
        valid_ref: jax.Array | Sequence[jax.Array] | None = None,
    ) -> jax.Array:
        """Super-resolves a batch.

        `rrsr_jax/inference` calls the steps one by one, tile by tile: `reference_features`, `input_descriptors`,
        `reference_descriptors`, `context`, each FAS block, `upsampled` and `image`.

        Args:
          lr: (N, h, w, 3) in [0, 1], h and w at least 3.
          ref: (N, H, W, 3) in [0, 1], H and W at least 12; or a sequence of these, of any sizes, of which each patch takes the
            best. The paper's protocol first pads input and reference to a common size, with several references below each
            other on canvases, and gives `valid`. Without that padding, only matches and edges next to it differ.
          valid: (N, 2) height and width of the part of `lr` that is not padding, in its pixels; None if nothing is padding.
          valid_ref: (N, 2) likewise for `ref`, or a sequence of these for several: no patch outside is matched.

        Returns:
          (N, 4h, 4w, 3), not clipped.

        Raises:
          ValueError: images of a wrong rank, channel count, dtype, size or number, or a field with a value unknown here.
        """
        refs, valid_refs = as_references(lr, ref, valid_ref)
        check_valid(lr.shape[0], valid=[] if valid is None else [valid])
        ref_features = [self.reference_features(image) for image in refs]
        flow = self._match(lr, refs, valid_refs)
        prepared, offsets = PRE_OFFSETS[self.pre_offsets]
        prepared = prepared(flow)
        x = self.context(lr)
        for k, scale in enumerate(SCALES):
            pre_offset = offsets(prepared, scale)
            self.sow("intermediates", f"pre_offset_{scale}x", pre_offset)
            ref_scale = _canvas([features[k] for features in ref_features], scale, refs)
            valid_scale = None if valid is None else valid * scale
            for i in range(self.alignments[k]):
                x = getattr(self, f"fas_{scale}x_{i}")(x, ref_scale, pre_offset, valid_scale)
            if scale < SCALE_FACTOR:
                x = self.upsampled(x, scale)
        return self.image(x, lr)

    def reference_features(self, ref: jax.Array) -> list[jax.Array]:
        """(N, H, W, 3) to the features at each of `SCALES`: (N, H // 4, W // 4, .), (N, H // 2, W // 2, .), (N, H, W, .)."""
        features = self.vgg(ref)
        return [features[f"relu{len(SCALES) - k}_1"] for k in range(len(SCALES))]

    def input_descriptors(self, lr: jax.Array) -> jax.Array:
        """What the input is matched by: (N, h, w, 3) to (N, h, w, C), not normalised."""
        return self.correspondence.of_input(bicubic_upsample(jax.lax.stop_gradient(lr), SCALE_FACTOR))

    def reference_descriptors(self, ref: jax.Array) -> jax.Array:
        """What a reference is matched by: (N, H, W, 3) to (N, H // 4, W // 4, C), not normalised."""
        return self.correspondence.of_reference(jax.lax.stop_gradient(ref))

    def context(self, lr: jax.Array) -> jax.Array:
        """(N, h, w, 3) to the features that the FAS blocks start from, (N, h, w, features)."""
        return self.context_encoder(lr)

    def upsampled(self, x: jax.Array, scale: int) -> jax.Array:
        """Features at scale 1 or 2 to the next one: (N, H, W, features) to (N, 2H, 2W, features)."""
        return leaky_relu(pixel_shuffle(getattr(self, f"up_{scale}x")(x)))

    def image(self, x: jax.Array, lr: jax.Array) -> jax.Array:
        """The result of features at 4x, (N, 4h, 4w, features), and the input (N, h, w, 3): (N, 4h, 4w, 3) float32."""
        x = self.tail2(leaky_relu(self.tail1(x))).astype(jnp.float32)
        n, h, w, _ = lr.shape
        return x + jax.image.resize(lr, (n, h * SCALE_FACTOR, w * SCALE_FACTOR, 3), "linear")

    def _check_fields(self):
        choices = {"pre_offsets": tuple(PRE_OFFSETS), "remat": REMAT, "dtype": DTYPES, "match_dtype": DTYPES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: one of {', '.join(known)} expected, got {getattr(self, name)!r}")
        if self.match_coarse < 0 or self.match_coarse == 1:
            raise ValueError(f"match_coarse: 0 (exact) or a factor of at least 2 expected, got {self.match_coarse}")

    def _match(self, lr: jax.Array, refs: Sequence[jax.Array], valid_refs: Sequence[jax.Array] | None) -> jax.Array:
        """Flow from the input to the canvas of references: (N, h, w, 2), (dy, dx) in 1x pixels; without gradient."""
        features_in, features_refs = self.input_descriptors(lr), [self.reference_descriptors(ref) for ref in refs]
        which, index, score = match_references(
            features_in,
            features_refs,
            valid_refs=None if valid_refs is None else [valid // SCALE_FACTOR for valid in valid_refs],
            coarse=self.match_coarse,
            dtype=jnp.dtype(self.match_dtype),
            tile=self.match_tile,
        )
        widths = jnp.array([features.shape[2] for features in features_refs])
        flow = matching.flow_from_match(index, widths[which], jnp.array(_tops(refs))[which])
        if self.match_subpixel:
            for number, features in enumerate(features_refs):
                valid = None if valid_refs is None else valid_refs[number] // SCALE_FACTOR
                shift = subpixel_shift(features_in, features, index, valid)
                shift = jnp.where((which == number)[..., None], shift, 0)
                flow += jnp.pad(shift, ((0, 0), (0, matching.PATCH - 1), (0, matching.PATCH - 1), (0, 0)))
        for name, value in dict(match_reference=which, match_index=index, match_score=score, flow=flow).items():
            self.sow("intermediates", name, value)
        return flow


def _tops(refs: Sequence[jax.Array]) -> list[int]:
    """First row of each reference on the canvas, in 1x pixels, with an empty row after each; then the canvas's height."""
    return [0, *itertools.accumulate(-(-ref.shape[1] // SCALE_FACTOR) + 1 for ref in refs)]


def _canvas(features: Sequence[jax.Array], scale: int, refs: Sequence[jax.Array]) -> jax.Array:
    """Features of several references below each other, with zeros between and beside them; those of one unchanged."""
    if len(features) == 1:
        return features[0]
    tops, width = _tops(refs), max(f.shape[2] for f in features)
    heights = [scale * (end - start) for start, end in itertools.pairwise(tops)]
    padded = [
        jnp.pad(f, ((0, 0), (0, height - f.shape[1]), (0, width - f.shape[2]), (0, 0)))
        for f, height in zip(features, heights, strict=True)
    ]
    return jnp.concatenate(padded, 1)
