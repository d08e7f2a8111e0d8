"""Image quality on 8-bit images, as the super-resolution literature computes it."""

import numpy as np
from skimage.metrics import structural_similarity

PEAK = 255.0
SSIM_WINDOW = 11  # pixels a side
GMSD_CONSTANT = 170.0  # T of its paper, in squared grey values


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1], clipped and rounded, to the 8-bit image that is saved and measured."""
    return np.clip(np.rint(np.asarray(image, np.float64) * PEAK), 0, PEAK).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr (ITU-R BT.601, 16 to 235), not rounded: (H, W, 3) uint8 to (H, W) float64."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / PEAK


def psnr(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, after cropping `border` pixels; infinite for equal images.

    Args:
      a, b: (H, W) or (H, W, C), in [0, 255].
      border: pixels left out at each edge (4 in C2-Matching and RRSR, 0 in MASA and TTSR).
    """
    a, b = _crop(a, b, border)
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(PEAK**2 / error))


def ssim(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, averaged where it fits into the image.

    Args:
      a, b: (H, W) in [0, 255].
      border: as in `psnr`.
    """
    a, b = _crop(a, b, border)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=PEAK)
    return float(structural_similarity(a.astype(np.float64), b.astype(np.float64), **options))


def gmsd(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Gradient magnitude similarity deviation (Xue et al., IEEE TIP 2014): 0 for equal images, the lower the better.

    Both are averaged over blocks of 2 x 2; m is the length of the gradient (Prewitt, divided by 3), similarity
    (2 m_a m_b + 170) / (m_a^2 + m_b^2 + 170), and the result its sample standard deviation over the image. As in the authors'
    program the surroundings are black.

    Args:
      a, b: (H, W) in [0, 255], at least 3 x 3 after cropping.
      border: as in `psnr`.
    """
    a, b = (_gradient(_halve(image.astype(np.float64))) for image in _crop(a, b, border))
    similarity = (2 * a * b + GMSD_CONSTANT) / (a**2 + b**2 + GMSD_CONSTANT)
    return float(similarity.std(ddof=1))


def quality(sr: np.ndarray, hr: np.ndarray, border: int) -> dict[str, float]:
    """`psnr_y` (equal images count as 100 dB), `ssim_y` and `gmsd_y` of two (H, W, 3) uint8 images."""
    a, b = luma(sr), luma(hr)
    return {"psnr_y": min(psnr(a, b, border), 100.0), "ssim_y": ssim(a, b, border), "gmsd_y": gmsd(a, b, border)}


def _halve(image):
    """Means of 2 x 2 pixels; black continues an odd size."""
    image = np.pad(image, [(0, size % 2) for size in image.shape])
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def _gradient(image):
    """Length of the Prewitt gradient."""
    image = np.pad(image, 1)
    columns, rows = image[:, 2:] - image[:, :-2], image[2:] - image[:-2]
    return np.hypot(columns[2:] + columns[1:-1] + columns[:-2], rows[:, 2:] + rows[:, 1:-1] + rows[:, :-2]) / 3


def _crop(a, b, border):
    if a.shape != b.shape:
        raise ValueError(f"two images of one shape expected, got {a.shape} and {b.shape}")
    return tuple(x[border : x.shape[0] - border, border : x.shape[1] - border] for x in (a, b))
