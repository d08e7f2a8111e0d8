"""The bicubic resamplings of the field: Pillow's, PyTorch's and TensorFlow 1's. They differ."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def bicubic_upsample(lr: jax.Array, factor: int = 4) -> jax.Array:
    """Pillow's bicubic for 8-bit images, bit for bit: (N, h, w, C) in [0, 1] to (N, factor h, factor w, C); without gradient.

    The correspondence net gets the same images as in the published pipeline, so that matches agree.
    """
    return _pillow_bicubic(lr, lr.shape[1] * factor, lr.shape[2] * factor)


def bicubic_downsample(image: jax.Array, factor: int = 4) -> jax.Array:
    """Pillow's bicubic for 8-bit images, antialiased, bit for bit; without gradient, as for all rounding to 8 bits.

    (N, H, W, C) in [0, 1], H and W multiples of `factor`, to (N, H // factor, W // factor, C).
    """
    return _pillow_bicubic(image, image.shape[1] // factor, image.shape[2] // factor)


def _pillow_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """As Pillow does it: first along rows, then along columns, in fixed point, both rounded to 8 bits."""
    # A reference may be the output of a model, which can leave [0, 1].
    x = jnp.clip(jnp.round(jax.lax.stop_gradient(image) * 255), 0, 255).astype(jnp.int32)
    for axis, size in ((2, width), (1, height)):
        taps, coefficients = _taps_between(image.shape[axis], size)
        shape = [1] * 4
        shape[axis] = -1
        total = sum(
            jnp.take(x, taps[:, k], axis) * coefficients[:, k].reshape(shape) for k in range(coefficients.shape[1])
        )
        x = jnp.clip((total + (1 << (_PRECISION - 1))) >> _PRECISION, 0, 255)
    return x.astype(jnp.float32) / 255


_PRECISION = 22  # fractional bits of Pillow's coefficients for 8-bit images


def _taps_between(size, new_size):
    """`_bicubic_taps`, also for a symbolic size (of at least 6 pixels, enlarged by a whole factor), for `jax.export`.

    The weights repeat from pixel to pixel but for two pixels at each end, so those of a small image are enough.
    """
    if isinstance(size, int):
        return _bicubic_taps(size, new_size)
    factor, small = int(new_size // size), 6
    taps, coefficients = _bicubic_taps(small, factor * small)
    row = jnp.arange(new_size)
    pixel = row // factor  # of the image; `like` is one of the small image with the same weights
    like = jnp.where(pixel < 2, pixel, jnp.where(pixel < size - 2, 2, pixel - size + small))
    known = like * factor + row % factor
    return jnp.asarray(taps)[known] + (pixel - like)[:, None], jnp.asarray(coefficients)[known]


def _bicubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels and fixed-point weights, both (new_size, taps): Keys' kernel, a = -0.5, half-pixel centres.

    To shrink an image, the kernel is stretched by the factor, against aliasing. Weights outside the image are dropped and the
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


def bicubic(x: jax.Array, factor: int, half_pixel: bool = True) -> jax.Array:
    """PyTorch's bicubic interpolation, (N, H, W, C) to (N, factor H, factor W, C); without `half_pixel`, TensorFlow 1's.

    Keys' kernel with a = -0.75, clamped borders, no antialiasing. Pillow and `jax.image.resize` have a = -0.5 and drop what is
    outside the image. Pixel i of the result lies at (i + 0.5) / factor - 0.5 of `x`, without `half_pixel` at i / factor.
    Computed with dense matrices, as `jax.image.resize` does. Adding weighted slices is faster forward, but half as fast with the
    gradient (CPU, 80x80x64 by 2).
    """
    shift = 0.5 if half_pixel else 0.0
    return _interpolate(x, *((np.arange(factor * size) + shift) / factor - shift for size in x.shape[1:3]))


def bicubic_aligned(x: jax.Array, factor: int) -> jax.Array:
    """As `bicubic`, but with the corner pixels of `x` and of the result at the same places.

    Pixel i of n lies at i (m - 1) / (n - 1) of the m pixels of `x`.
    """
    return _interpolate(x, *(np.arange(factor * m) * (m - 1) / (factor * m - 1) for m in x.shape[1:3]))


def _interpolate(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    rows, columns = (
        _bicubic_matrix(position, size) for position, size in zip((rows, columns), x.shape[1:3], strict=True)
    )
    x = jnp.einsum("nhwc,yh->nywc", x, rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("nywc,xw->nyxc", x, columns, precision=jax.lax.Precision.HIGHEST)


def _bicubic_matrix(position: np.ndarray, size: int) -> np.ndarray:
    """Weights of `size` input pixels for output pixels at these positions, (positions, size)."""
    taps = np.floor(position).astype(int)[:, None] + np.arange(-1, 3)
    t = np.abs(position[:, None] - taps)
    near = (1.25 * t - 2.25) * t * t + 1
    far = ((-0.75 * t + 3.75) * t - 6) * t + 3
    matrix = np.zeros((len(position), size), np.float32)
    np.add.at(matrix, (np.arange(len(position))[:, None], taps.clip(0, size - 1)), np.where(t < 1, near, far))
    return matrix


def resized(image: jax.Array, height: int, width: int) -> jax.Array:
    """(N, H, W, C) to (N, height, width, C), by JAX's antialiased cubic interpolation; as it is if it has that size."""
    shape = (image.shape[0], height, width, image.shape[3])
    return image if image.shape == shape else jax.image.resize(image, shape, "cubic")


def bicubic_downsample_matlab(x: jax.Array, factor: int = 4) -> jax.Array:
    """MATLAB's bicubic, antialiased, in floating point: (N, H, W, C) to (N, H // factor, W // factor, C), with a gradient.

    Keys' kernel with a = -0.5, stretched by the factor, as Pillow's, but the image is continued by its mirror image.
    """
    rows, columns = (_matlab_matrix(size, factor) for size in x.shape[1:3])
    x = jnp.einsum("nhwc,yh->nywc", x, rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("nywc,xw->nyxc", x, columns, precision=jax.lax.Precision.HIGHEST)


def _matlab_matrix(size: int, factor: int) -> np.ndarray:
    """Weights of the input pixels for each output pixel, (size // factor, size)."""
    centre = (np.arange(size // factor) + 0.5) * factor - 0.5
    taps = np.floor(centre).astype(int)[:, None] + np.arange(1 - 2 * factor, 2 * factor + 1)
    t = np.abs(centre[:, None] - taps) / factor
    weights = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, np.where(t < 2, ((-0.5 * t + 2.5) * t - 4) * t + 2, 0))
    taps = taps % (2 * size)
    matrix = np.zeros((size // factor, size), np.float32)
    rows = np.arange(size // factor)[:, None]
    np.add.at(matrix, (rows, np.minimum(taps, 2 * size - 1 - taps)), weights / weights.sum(1, keepdims=True))
    return matrix
