"""The terms of the objective (paper, eq. 6), each a small pure function; the step weighs and adds them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def l1(target: jax.Array, prediction: jax.Array) -> jax.Array:
    """Mean absolute difference: L_rec (eq. 1) of (hr, sr) and L_RTRR (eq. 3) of (ref_p, sr_p)."""
    return jnp.abs(target - prediction).mean()


def perceptual(features_sr: jax.Array, features_hr: jax.Array) -> jax.Array:
    """Frobenius norm of the difference of relu5_1 features (N, H, W, C), over the whole batch (L_per)."""
    return jnp.sqrt(((features_sr - features_hr) ** 2).sum())


def gradient_penalty(
    discriminate: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """WGAN-GP (Gulrajani et al. 2017, eq. 3) without its weight: mean (|gradient| - 1)^2 at alpha real + (1 - alpha) fake.

    Args:
      discriminate: function of (N, H, W, 3) images, giving (N,).
      real, fake: (N, H, W, 3).
      alpha: (N, 1, 1, 1) in [0, 1].

    Returns:
      The penalty and the gradient norms (N,).
    """
    mixed = alpha * real + (1 - alpha) * fake
    gradient = jax.grad(lambda images: discriminate(images).sum())(mixed)
    norm = jnp.sqrt((gradient**2).sum((1, 2, 3)))
    return ((norm - 1) ** 2).mean(), norm
