"""NIQE, image quality without a reference (Mittal et al., IEEE Signal Processing Letters 2013): lower is better.

It measures how far statistics of an image's blocks are from those of pristine photographs. These, `niqe_pristine.npz`, are from
the authors' release; see `niqe_notice.txt` for its copyright notice, and how to cite it.
"""

import functools
import math
import pathlib

import numpy as np

BLOCK = 96  # pixels a side
_ALPHAS = np.arange(0.2, 10.0005, 0.001)  # shapes of a distribution that are tried
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns) between the pixels of a product


def niqe(image: np.ndarray, border: int = 4, block: int = BLOCK) -> float:
    """NIQE of an image (H, W, 3) uint8, RGB.

    Args:
      image: what is left of it without the border is cut to multiples of `block`, and has to be two blocks or more.
      border: pixels left out at each edge.
      block: pixels a side, even. With another number than `BLOCK` the order of small images is still of use, not the value.

    Raises:
      ValueError: another kind of image, one that is too small, or one with fewer than two blocks that are not flat.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an RGB image (H, W, 3) uint8 expected, got {image.shape} {image.dtype}")
    grey = _rounded_luma(image)[border : image.shape[0] - border, border : image.shape[1] - border]
    rows, columns = (max(size, 0) // block for size in grey.shape)
    if rows * columns < 2:
        raise ValueError(
            f"NIQE compares blocks of {block} x {block} pixels: two or more expected in the image without a border of {border}, "
            f"got {image.shape[0]} x {image.shape[1]} pixels"
        )
    grey = grey[: rows * block, : columns * block]
    features = np.concatenate([block_features(grey, block), block_features(halve(grey), block // 2)], 1)
    features = features[np.isfinite(features).all(1)]
    if len(features) < 2:
        raise ValueError(f"NIQE needs two blocks that are not of one colour, got {len(features)} of {rows * columns}")
    mean, covariance = _pristine()
    difference = features.mean(0) - mean
    inverse = np.linalg.pinv((np.cov(features, rowvar=False) + covariance) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def _rounded_luma(image: np.ndarray) -> np.ndarray:
    """`metrics.luma`, rounded; from whole numbers, so that halves are halves, and go up."""
    return np.floor(16.5 + image.astype(np.int64) @ np.array([65_481, 128_553, 24_966]) / 255_000)


def block_features(grey: np.ndarray, block: int) -> np.ndarray:
    """18 numbers for each block, (H, W) to (B, 18), row by row; not finite where a block is flat.

    They describe the image normalised by its surroundings, and products of neighbours in it.
    """
    mean = _blur(grey)
    normalised = (grey - mean) / (np.sqrt(np.abs(_blur(grey**2) - mean**2)) + 1)
    rows, columns = (size // block for size in grey.shape)
    blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(-1, block, block)
    alpha, left, right = asymmetric_gaussian(blocks.reshape(len(blocks), -1))
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        products = blocks * np.roll(blocks, shift, (1, 2))
        alpha, left, right = asymmetric_gaussian(products.reshape(len(blocks), -1))
        features += [alpha, (right - left) * _gamma(2 / alpha) / _gamma(1 / alpha), left, right]
    return np.stack(features, 1)


def asymmetric_gaussian(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric generalised Gaussians by moments, one for each row of (B, n): shape alpha, scales left and right, (B,) each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (np.sqrt(np.where(side, values**2, 0).sum(1) / side.sum(1)) for side in (values < 0, values > 0))
        ratio = left / right
        moments = np.abs(values).mean(1) ** 2 / (values**2).mean(1)
        wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table = _ratios()
    above = np.clip(np.searchsorted(table, wanted), 1, len(table) - 1)  # the ratio grows with alpha
    nearest = np.where(wanted - table[above - 1] <= table[above] - wanted, above - 1, above)
    alpha = np.where(np.isfinite(wanted), _ALPHAS[nearest], 1)
    scale = np.sqrt(_gamma(1 / alpha) / _gamma(3 / alpha))
    return alpha, left * scale, right * scale


def halve(grey: np.ndarray) -> np.ndarray:
    """MATLAB's `imresize` to half the size, (H, W) to (H // 2, W // 2), even: bicubic, a = -0.5, antialiased, edges mirrored."""
    t = np.abs(np.arange(8) - 3.5) / 2
    weights = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)
    return _convolved(np.pad(grey, 3, "symmetric"), weights, 2)


def sharpness(image: np.ndarray) -> float:
    """Mean local deviation of the grey values, 0 to 255, of an image (H, W, 3) uint8; RankSRGAN leaves out what is flat by it."""
    grey = _rounded_luma(image)
    return float(np.sqrt(np.abs(_blur((grey - _blur(grey)) ** 2))).mean())


def _blur(grey: np.ndarray) -> np.ndarray:
    """7 x 7 Gaussian, sigma 7/6, edges replicated."""
    weights = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    return _convolved(np.pad(grey, 3, "edge"), weights, 1)


def _convolved(padded: np.ndarray, weights: np.ndarray, stride: int) -> np.ndarray:
    """A filter along rows and columns, where it fits; `weights` are divided by their sum."""
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
        padded = (windows[::stride] if axis == 0 else windows[:, ::stride]) @ (weights / weights.sum())
    return padded


_gamma = np.vectorize(math.gamma, otypes=[np.float64])


@functools.cache
def _ratios() -> np.ndarray:
    """Squared mean absolute value over mean square of a generalised Gaussian, for each of `_ALPHAS`."""
    return _gamma(2 / _ALPHAS) ** 2 / (_gamma(1 / _ALPHAS) * _gamma(3 / _ALPHAS))


@functools.cache
def _pristine() -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs."""
    with np.load(pathlib.Path(__file__).with_name("niqe_pristine.npz")) as arrays:
        return arrays["mean"], arrays["covariance"]
