"""Terms of the objectives of the other methods of the paper's Table 1, each a small pure function, as those of `losses.py`."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from rrsr_jax.models.resampling import bicubic, bicubic_downsample_matlab
from rrsr_jax.training import losses

CELLS = 16  # pixels a side of the patches of a map whose Gram matrices are compared


def mse(target: jax.Array, prediction: jax.Array) -> jax.Array:
    """Mean squared difference, of SRGAN's first stage and ENet-E."""
    return ((target - prediction) ** 2).mean()


def charbonnier(target: jax.Array, prediction: jax.Array) -> jax.Array:
    """Mean of sqrt(d^2 + 1e-6), of CrossNet (there a sum over each image) and SSEN."""
    return jnp.sqrt((target - prediction) ** 2 + 1e-6).mean()


def perceptual(
    features_sr: Mapping[str, jax.Array],
    features_hr: Mapping[str, jax.Array],
    layer_weights: Mapping[str, float],
    criterion: str,
    normalise: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """Differences of features, weighted by layer and added.

    Args:
      features_sr, features_hr: (N, H, W, C) by layer.
      layer_weights: of the layers to look at.
      criterion: `l1` (ESRGAN, RankSRGAN) or `mse` (SRGAN, ENet, SRNTT, TTSR), means over all values; `frobenius` (RRSR), the norm
        over the whole batch.
      normalise: whether each image's map is divided by its mean first (ENet).
      axis_name: of the devices that share the batch, if any.
    """
    total = 0.0
    for layer, weight in layer_weights.items():
        pair = features_sr[layer], features_hr[layer]
        if normalise:
            pair = _mean_one(pair[0]), _mean_one(pair[1])
        if criterion == "frobenius":
            total += weight * losses.perceptual(*pair, axis_name=axis_name)
        else:
            total += weight * {"l1": losses.l1, "mse": mse}[criterion](*pair)
    return jnp.asarray(total)


def texture(
    features_sr: Mapping[str, jax.Array], features_hr: Mapping[str, jax.Array], layer_weights: Mapping[str, float]
) -> jax.Array:
    """ENet's texture loss: mean squared differences of Gram matrices of `CELLS` x `CELLS` patches, weighted by layer and added.

    Each image's map is divided by its mean first. Arguments as in `perceptual`; sides are multiples of `CELLS`.
    """

    def grams(x):
        n, h, w, c = x.shape
        patches = _mean_one(x).reshape(n, h // CELLS, CELLS, w // CELLS, CELLS, c)
        return jnp.einsum("nyixjc,nyixjd->nyxcd", patches, patches)

    terms = [weight * mse(grams(features_sr[k]), grams(features_hr[k])) for k, weight in layer_weights.items()]
    return sum(terms[1:], terms[0])


def _mean_one(x: jax.Array) -> jax.Array:
    return x / x.mean((1, 2, 3), keepdims=True)


def transferal(transferred: Sequence[jax.Array], features: Sequence[jax.Array]) -> jax.Array:
    """TTSR's transferal perceptual loss: mean squared differences, a mean over maps; arguments as in `texture_transfer`."""
    terms = [mse(a, b) for a, b in zip(transferred, features, strict=True)]
    return sum(terms[1:], terms[0]) / len(terms)


def texture_transfer(
    transferred: Sequence[jax.Array], features: Sequence[jax.Array], weights: Sequence[jax.Array] | None = None
) -> jax.Array:
    """SRNTT's texture loss: squared differences of Gram matrices, a mean over maps (eq. 4 of its paper).

    Args:
      transferred: maps of matched patches, (N, H, W, C) each: `transferred_{1,2,4}x`.
      features: of the result, at the same layers of the same network.
      weights: of `texture_weights`; None for the same weight everywhere.
    """

    def gram(x):
        pixels = x.reshape(len(x), -1, x.shape[-1])
        return jnp.einsum("npc,npd->ncd", pixels, pixels)

    weights = weights or [jnp.ones((*x.shape[:3], 1)) for x in features]
    terms = [
        ((gram(a * w) - gram(b * w)) ** 2).mean() / (2.0 * b[0].size) ** 2
        for a, b, w in zip(transferred, features, weights, strict=True)
    ]
    return sum(terms[1:], terms[0]) / len(terms)


def texture_weights(score: jax.Array) -> list[jax.Array]:
    """Weights of the three maps, (N, k h, k w, 1), from `match_score` (N, h - 2, w - 2): less where the match is good."""
    score = jnp.pad(score, ((0, 0), (1, 1), (1, 1)), mode="edge")[..., None]
    enlarged = [score, *(bicubic(score, scale, half_pixel=False) for scale in (2, 4))]
    return [jax.nn.sigmoid(-20 * x + 0.65) for x in enlarged]


def ranking(first: jax.Array, second: jax.Array, label: jax.Array) -> jax.Array:
    """What RankSRGAN's Ranker minimises: mean of max(0, 0.5 - label (first - second)), of scores clipped to [-5, 5].

    Args:
      first, second: scores (N,) of two images.
      label: (N,), 1 where the first one's should be the larger, the worse, else -1.
    """
    first, second = (jnp.clip(scores, -5, 5) for scores in (first, second))
    return jnp.maximum(0, 0.5 - label * (first - second)).mean()


def back_projection(lr: jax.Array, sr: jax.Array) -> jax.Array:
    """Mean absolute difference between `lr` (N, h, w, 3) and the reduced `sr` (N, 4h, 4w, 3)."""
    return jnp.abs(bicubic_downsample_matlab(sr, sr.shape[1] // lr.shape[1]) - lr).mean()


def blurred_l1(target: jax.Array, prediction: jax.Array) -> jax.Array:
    """DCSR's mean absolute difference of images after a 3x3 blur, with two pixels of reflected border."""

    def blur(image):
        x = jnp.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        h, w = x.shape[1] - 2, x.shape[2] - 2
        return sum(_BLUR[abs(i) + abs(j)] * x[:, 1 + i :, 1 + j :][:, :h, :w] for i in _STEPS for j in _STEPS)

    return jnp.abs(blur(target) - blur(prediction)).mean()


_STEPS = (-1, 0, 1)
_BLUR = (0.1663067, 0.12075024, 0.08767308)  # by distance from the middle, along y plus along x


def contextual(x: jax.Array, y: jax.Array, axis_name: str | None = None) -> jax.Array:
    """DCSR's contextual loss: how well each pixel of `x` is found among those of `y`, which may lie anywhere.

    Args:
      x, y: features (N, H, W, C) and (N, Hy, Wy, C), of VGG-19's relu3_4.
      axis_name: of the devices that share the batch, if any: all of it has one mean.
    """
    mean = y.mean((0, 1, 2), keepdims=True)
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    def one(x, y):
        """(P, C) and (Q, C)."""
        x, y = (f * jax.lax.rsqrt(jnp.maximum((f**2).sum(-1, keepdims=True), 1e-24)) for f in (x, y))
        distance = 1 - x @ y.T
        relative = distance / (distance.min(1, keepdims=True) + 1e-5)
        weight = jax.nn.softmax((1 - relative) / 0.5, 1)
        best = weight.argmax(0)[None]
        found, apart = (jnp.take_along_axis(a, best, 0)[0] for a in (weight, distance))
        importance = jnp.exp((1 - apart) / 0.5)
        return -jnp.log((found * importance).sum() / importance.sum() + 1e-5)

    def flat(f):
        return (f - mean).reshape(len(f), -1, f.shape[-1])

    return jax.vmap(one)(flat(x), flat(y)).mean()
