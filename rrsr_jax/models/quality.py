"""How different two images look: distances in the features of VGG-16, with weights that were fitted to judgements of people."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.encoders import VGG, VGG16_CONVS_PER_LEVEL

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
CHANNELS = (64, 128, 256, 512, 512)
SMALLEST = 16  # pixels a side: then the last of `LAYERS` has one pixel
_VGG16 = functools.partial(VGG, LAYERS[-1], others=LAYERS[:-1], convs_per_level=VGG16_CONVS_PER_LEVEL)


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018), version 0.1 with VGG-16; 0 for equal images.

    At each layer, the features of a pixel are divided by their length. The squared differences are weighted by channel, and
    averaged over the image. The result is the sum over the layers.

    Attributes:
      channels: of VGG-16; the published network has the default.
    """

    channels: tuple[int, ...] = CHANNELS

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Two batches (N, H, W, 3) in [0, 1] of one shape, at least `SMALLEST` pixels a side, to (N,)."""
        features = _both(_VGG16(channels=self.channels, name="vgg"), a, b)
        total = jnp.zeros(len(a))
        for number, layer in enumerate(LAYERS):
            x, y = (f / (jnp.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in features[layer])
            weighted = nn.Conv(1, (1, 1), use_bias=False, name=f"linear_{number}")((x - y) ** 2)
            total += weighted.mean((1, 2, 3))
        return total


class DISTS(nn.Module):
    """Deep image structure and texture similarity (Ding et al., TPAMI 2022); 0 for equal images.

    Eq. 6: one minus the weighted similarity of the means (`alpha`) and of the structure (`beta`) of every channel, of the image
    itself and of five layers of VGG-16, whose poolings are smooth. Images are not made smaller first.

    Attributes:
      channels: of VGG-16; the published network has the default.
    """

    channels: tuple[int, ...] = CHANNELS

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Two batches (N, H, W, 3) in [0, 1] of one shape, at least `SMALLEST` pixels a side, to (N,)."""
        features = _both(_VGG16(channels=self.channels, pool=l2_pool, name="vgg"), a, b)
        pairs = [(a, b), *(features[layer] for layer in LAYERS)]
        means, structures = zip(*(_similarities(x, y) for x, y in pairs), strict=True)
        shape = (1, 1, 1, 3 + sum(self.channels))
        alpha, beta = (self.param(name, nn.initializers.constant(0.1), shape)[0, 0] for name in ("alpha", "beta"))
        similarity = (alpha * jnp.concatenate(means, 1) + beta * jnp.concatenate(structures, 1)).sum(1)
        return 1 - similarity / (alpha.sum() + beta.sum())


def l2_pool(x: jax.Array) -> jax.Array:
    """Square root of the squares blurred by a 3 x 3 Hanning window, at every second pixel: (N, H, W, C) to half the size, up."""
    x = jnp.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for axis in (1, 2):
        half = (x.shape[axis] - 1) // 2
        left, middle, right = (jax.lax.slice_in_dim(x, i, i + 2 * half - 1, 2, axis) for i in range(3))
        x = (left + 2 * middle + right) / 4
    return jnp.sqrt(x + 1e-12)


def _both(vgg: VGG, a: jax.Array, b: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The features of two batches."""
    check_images(a=a, b=b)
    if a.shape != b.shape or min(a.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"two batches of one shape, at least {SMALLEST} x {SMALLEST} pixels, expected, got {a.shape} and {b.shape}"
        )
    features = vgg(jnp.concatenate([a, b]))
    return {name: (value[: len(a)], value[len(a) :]) for name, value in features.items()}


def _similarities(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the means and of the structure of each channel: two maps (N, H, W, C) to twice (N, C)."""
    mx, my = (z.mean((1, 2)) for z in (x, y))
    vx, vy = (((z - m[:, None, None]) ** 2).mean((1, 2)) for z, m in ((x, mx), (y, my)))
    covariance = ((x - mx[:, None, None]) * (y - my[:, None, None])).mean((1, 2))
    return (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6), (2 * covariance + 1e-6) / (vx + vy + 1e-6)
