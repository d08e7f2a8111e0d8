"""The terms of the objective (paper, eq. 6), each a small pure function; the step weighs and adds them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def l1(target: jax.Array, prediction: jax.Array) -> jax.Array:
    """Mean absolute difference: L_rec (eq. 1) of (hr, sr) and L_RTRR (eq. 3) of (ref_p, sr_p)."""
    return jnp.abs(target - prediction).mean()


def perceptual(features_sr: jax.Array, features_hr: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Frobenius norm of the difference of relu5_1 features (N, H, W, C), over the whole batch (L_per).

    `axis_name` is that of the devices that share the batch, if any.
    """
    squares = ((features_sr - features_hr) ** 2).sum()
    return _root(squares if axis_name is None else jax.lax.psum(squares, axis_name))


def gradient_penalty(
    discriminate: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
    alpha: jax.Array,
    axes: tuple[int, ...] = (1, 2, 3),
    span: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """WGAN-GP (Gulrajani et al. 2017, eq. 3) without its weight: mean (|gradient| - 1)^2 at alpha real + (1 - alpha) fake.

    Args:
      discriminate: function of (N, H, W, 3) images, giving (N,).
      real, fake: (N, H, W, 3).
      alpha: (N, 1, 1, 1) in [0, 1].
      axes: that the norm is taken over. SRNTT's release has (3,): a norm for each pixel.
      span: of the colours, 1 from 0 to 1. With 2 the norm is that of images from -1 to 1.

    Returns:
      The penalty, and the gradient norms, (N,) with the default axes.
    """
    mixed = alpha * real + (1 - alpha) * fake
    gradient = jax.grad(lambda images: discriminate(images).sum())(mixed)
    norm = _root(((gradient / span) ** 2).sum(axes))
    return ((norm - 1) ** 2).mean(), norm


def triplet(
    first: jax.Array,
    second: jax.Array,
    target: jax.Array,
    used: jax.Array,
    margin: float = 1.0,
    safe_radius: int = 4,
    fewest: int = 128,
    number: jax.Array | None = None,
) -> jax.Array:
    """Hinge loss of corresponding descriptors against their hardest negatives: mean of max(0, margin + d_pos - d_neg).

    Distances are d = 2 - 2 <a, b>. The first descriptor of a pair has as its negatives the descriptors of `second` at the
    positions of the other pairs; the second one has all descriptors of `first`. Cells within `safe_radius` do not count.

    Args:
      first, second: (N, h, w, C) descriptors of unit length.
      target: (N, h, w, 2) the cell (y, x) of `second` that each cell of `first` corresponds to.
      used: (N, h, w), which of them count.
      margin: see above.
      safe_radius: in cells, in the larger of y and x.
      fewest: images with fewer positions in use are left out.
      number: of images that are not left out, where these are a share of a batch; see `_mean_of_sufficient`.

    Returns:
      The mean over positions, then over images; 0 without any image.
    """

    def one(first, second, target, used):
        cells, target, used = _grid(*used.shape), target.reshape(-1, 2), used.ravel()
        own, at = first.reshape(-1, first.shape[-1]), second[target[:, 0], target[:, 1]]
        positive = 2 - 2 * (own * at).sum(-1)
        far = _beyond(target, target, safe_radius) & used[None]
        in_second = jnp.where(far, 2 - 2 * own @ at.T, jnp.inf).min(1)
        in_first = jnp.where(_beyond(cells, cells, safe_radius), 2 - 2 * at @ own.T, jnp.inf).min(1)
        hinge = jnp.maximum(margin + positive - jnp.minimum(in_second, in_first), 0)
        return jnp.where(used, hinge, 0).sum() / jnp.maximum(used.sum(), 1)

    return _mean_of_sufficient(jax.vmap(one)(first, second, target, used), used, fewest, number)


def distillation(
    student: tuple[jax.Array, jax.Array],
    teacher: tuple[jax.Array, jax.Array],
    target: jax.Array,
    used: jax.Array,
    temperature: float = 0.15,
    fewest: int = 128,
    number: jax.Array | None = None,
) -> jax.Array:
    """KL divergence of the student's correlations from the teacher's, each position of the first image with those of the second.

    Args:
      student, teacher: descriptors of the first and the second image, (N, h, w, C) each, of unit length.
      target, used, fewest, number: see `triplet`.
      temperature: divides correlations before the softmax.

    Returns:
      The mean over positions, then over images; 0 without any image.
    """

    def one(student, teacher, target, used):
        target, used = target.reshape(-1, 2), used.ravel()
        columns = used[None]

        def log_softmax(first, second):
            correlation = first.reshape(-1, first.shape[-1]) @ second[target[:, 0], target[:, 1]].T
            return jax.nn.log_softmax(jnp.where(columns, correlation / temperature, -jnp.inf), where=columns)

        p, q = log_softmax(*teacher), log_softmax(*student)
        divergence = jnp.where(columns, jnp.exp(p) * (p - q), 0).sum(1)
        return jnp.where(used, divergence, 0).sum() / jnp.maximum(used.sum(), 1)

    return _mean_of_sufficient(jax.vmap(one)(student, teacher, target, used), used, fewest, number)


def info_nce(
    first: jax.Array,
    second: jax.Array,
    position: jax.Array,
    used: jax.Array,
    temperature: float = 0.07,
    fewest: int = 128,
    number: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of finding the correspondence of a descriptor among all others (InfoNCE, van den Oord et al. 2018).

    It is taken from the first image to the second and back, and averaged. Correspondences lie between cells; the descriptor
    there is interpolated, so that the peak of the score learns to be between cells, too. Not in the paper.

    Args:
      first, second: (N, h, w, C) descriptors of unit length.
      position: (N, h, w, 2), (y, x) in cells of `second` that each cell of `first` corresponds to.
      used, fewest, number: see `triplet`.
      temperature: divides correlations before the softmax.

    Returns:
      The mean over positions, then over images; 0 without any image.
    """

    def one(first, second, position, used):
        used = used.ravel()
        position = jnp.where(used[:, None], position.reshape(-1, 2), 0)
        own, at = first.reshape(-1, first.shape[-1]), _between_cells(second, position)
        correlation = jnp.where(used[None] & used[:, None], own @ at.T / temperature, -1e9)
        both = (jax.nn.log_softmax(correlation, axis) for axis in (0, 1))
        found = sum(jnp.diagonal(log) for log in both) / 2
        return -jnp.where(used, found, 0).sum() / jnp.maximum(used.sum(), 1)

    return _mean_of_sufficient(jax.vmap(one)(first, second, position, used), used, fewest, number)


def _root(squares: jax.Array) -> jax.Array:
    """The square root, with a gradient of 0 at 0: equal features, and a saturated discriminator, are there."""
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _between_cells(descriptors: jax.Array, position: jax.Array) -> jax.Array:
    """Descriptors (h, w, C) at `position` (P, 2), (y, x) inside, interpolated bilinearly and of unit length: (P, C)."""
    last = jnp.array([descriptors.shape[:2]]) - 1
    corner = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, last)
    part = position - corner
    total = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            cell = jnp.minimum(corner + jnp.array([[dy, dx]]), last)
            share = jnp.abs(1 - dy - part[:, :1]) * jnp.abs(1 - dx - part[:, 1:])
            total += share * descriptors[cell[:, 0], cell[:, 1]]
    return total * jax.lax.rsqrt(jnp.maximum((total**2).sum(-1, keepdims=True), 1e-12))


def _grid(height: int, width: int) -> jax.Array:
    """(height * width, 2) positions (y, x), row by row."""
    return jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).reshape(-1, 2)


def _beyond(a: jax.Array, b: jax.Array, radius: int) -> jax.Array:
    """(A, B): whether two positions are more than `radius` cells apart, in y or in x."""
    return jnp.abs(a[:, None] - b[None]).max(-1) > radius


def sufficient(used: jax.Array, fewest: int = 128) -> jax.Array:
    """Which images have at least `fewest` positions in use: (N,) of (N, h, w)."""
    return used.sum((1, 2)) >= fewest


def _mean_of_sufficient(values: jax.Array, used: jax.Array, fewest: int, number: jax.Array | None) -> jax.Array:
    """Mean over the images that are `sufficient`; 0 if there are none.

    Where a batch has several shares, each divides by `number`, the mean number of such images in a share: the mean over the
    shares is then the mean over the images of the whole batch, however they are shared out.
    """
    counted = sufficient(used, fewest)
    number = counted.sum() if number is None else number
    return jnp.where(counted, values, 0).sum() / jnp.where(number > 0, number, 1)
