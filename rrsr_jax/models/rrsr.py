"""RRSR: the whole network (Fig. 2, bottom), and by its fields the paper's ablations of it."""

import flax.linen as nn
import jax

from rrsr_jax.models import correspondence
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.encoders import VGG, ContextEncoder
from rrsr_jax.models.layers import conv3x3, leaky_relu, pixel_shuffle
from rrsr_jax.models.pfas import FAS

SCALES = (1, 2, 4)
SCALE_FACTOR = 4


class RRSR(nn.Module):
    """Super-resolves an image by 4 with a reference image. 22,594,651 trained parameters with the defaults.

    Parameter collections under `params`: `vgg` and `correspondence` are pretrained and frozen in the paper, the rest is
    trained. Intermediates, with `mutable=["intermediates"]`: `match_index`, `match_score`, `flow`,
    `pre_offset_{1,2,4}x`, and per FAS block `fas_{scale}x_{i}` its `aligned` features, `align/offset`, `align/mask` and
    `select/routing` weights.

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
    """

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

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Super-resolves a batch.

        Args:
          lr: (N, h, w, 3) in [0, 1], h and w at least 3.
          ref: (N, H, W, 3) in [0, 1], H and W at least 12, of any size. The paper's protocol pads input and reference to a
            common size first and gives `valid`; without that padding only matches and edges at the padding differ.
          valid: (N, 2) height and width of the part of `lr` that is not padding, in its pixels; all of it if None.

        Returns:
          (N, 4h, 4w, 3), not clipped.

        Raises:
          ValueError: images of a wrong rank, channel count, dtype or size.
        """
        check_images(lr=lr, ref=ref)
        ref_features = VGG("relu3_1", self.vgg_channels, name="vgg")(ref)
        flow = self._match(lr, ref)
        x = ContextEncoder(self.features, self.context_blocks, name="context_encoder")(lr)
        for stage, scale in enumerate(SCALES):
            pre_offset = correspondence.pre_offsets(flow, scale)
            self.sow("intermediates", f"pre_offset_{scale}x", pre_offset)
            ref_scale = ref_features[f"relu{len(SCALES) - stage}_1"]
            valid_scale = None if valid is None else valid * scale
            for i in range(self.alignments[stage]):
                x = FAS(scale, self.blocks[stage], self.experts, self.groups, self.gate, name=f"fas_{scale}x_{i}")(
                    x, ref_scale, pre_offset, valid_scale
                )
            if scale < SCALE_FACTOR:
                x = leaky_relu(pixel_shuffle(conv3x3(self.features * 4, name=f"up_{scale}x")(x)))
        x = leaky_relu(conv3x3(self.features // 2, name="tail1")(x))
        x = conv3x3(3, name="tail2")(x)
        n, h, w, _ = lr.shape
        return x + jax.image.resize(lr, (n, h * SCALE_FACTOR, w * SCALE_FACTOR, 3), "linear")

    def _match(self, lr: jax.Array, ref: jax.Array) -> jax.Array:
        """Flow from input to reference, (N, h, w, 2), (dy, dx) in 1x pixels; no gradient."""
        lr_up = correspondence.bicubic_upsample(lr, SCALE_FACTOR)
        net = CorrespondenceNet(self.correspondence_channels, name="correspondence")
        features_in, features_ref = net(jax.lax.stop_gradient(lr_up), jax.lax.stop_gradient(ref))
        index, score = correspondence.match_patches(features_in, features_ref, tile=self.match_tile)
        flow = correspondence.flow_from_match(index, features_ref.shape[2])
        for name, value in dict(match_index=index, match_score=score, flow=flow).items():
            self.sow("intermediates", name, value)
        return flow


def check_images(**images: jax.Array) -> None:
    """Raises ValueError unless every image is a (N, H, W, 3) float batch, all with one N."""
    sizes = set()
    for name, image in images.items():
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"{name}: a batch of RGB images (N, H, W, 3) expected, got shape {image.shape}")
        if not jax.numpy.issubdtype(image.dtype, jax.numpy.floating):
            raise ValueError(
                f"{name}: floating point in [0, 1] expected, got {image.dtype}; divide 8-bit images by 255"
            )
        sizes.add(image.shape[0])
    if len(sizes) > 1:
        raise ValueError(f"batches of one size expected, got { ({k: v.shape[0] for k, v in images.items()}) }")
