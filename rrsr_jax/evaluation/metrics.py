"""Image quality on 8-bit images, as the super-resolution literature computes it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from skimage.metrics import structural_similarity

from rrsr_jax.evaluation.niqe import niqe
from rrsr_jax.models.quality import SMALLEST

PEAK = 255.0
SSIM_WINDOW = 11  # pixels a side
GMSD_CONSTANT = 170.0  # T in the paper, in squared grey values

# What can be measured: titles in tables, and digits.
COLUMNS = {
    "psnr_y": ("PSNR", 2),
    "ssim_y": ("SSIM", 4),
    "gmsd_y": ("GMSD", 4),
    "niqe": ("NIQE", 2),
    "lpips": ("LPIPS", 4),
    "dists": ("DISTS", 4),
}
ALWAYS = ("psnr_y", "ssim_y", "gmsd_y")
NETWORKS = ("lpips", "dists")  # kinds of weights, in files that a config names
LOWER_IS_BETTER = tuple(name for name in COLUMNS if name not in ("psnr_y", "ssim_y"))
NIQE_NOTICE = (
    "NIQE: its statistics of photographs are those of the NIQE software release (2012), Laboratory for Image and Video "
    "Engineering, The University of Texas at Austin; see rrsr_jax/evaluation/niqe_notice.txt for how to cite it"
)

# Of two images (H, W, 3) uint8.
Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What an evaluation measures: `quality`, and what a config adds.

    Attributes:
      niqe: whether NIQE is measured.
      distances: measures by name, of `NETWORKS`.
      checksums: of the weights of these, by name.
    """

    niqe: bool = False
    distances: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    checksums: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that is measured, as in `COLUMNS`."""
        return tuple(
            name for name in COLUMNS if name in ALWAYS or (name == "niqe" and self.niqe) or name in self.distances
        )

    @property
    def identity(self) -> list[str]:
        """Changes with what is measured, and with the weights that it is measured by."""
        return [f"{name} {self.checksums[name]:08x}" if name in self.checksums else name for name in self.names]

    def __call__(self, sr: np.ndarray, hr: np.ndarray, border: int) -> dict[str, float]:
        """Each of `names`, of a result and the truth, (H, W, 3) uint8; NaN for what such an image does not have.

        Args:
          sr, hr: the images.
          border: pixels left out at each edge. NIQE needs two blocks of `niqe.BLOCK` pixels within, LPIPS and DISTS `SMALLEST`.
        """
        values = quality(sr, hr, border)
        if self.niqe:
            try:
                values["niqe"] = niqe(sr, border)
            except ValueError:  # too small, or flat
                values["niqe"] = math.nan
        a, b = _crop(sr, hr, border)
        large = min(a.shape[:2]) >= SMALLEST
        return values | {name: measure(a, b) if large else math.nan for name, measure in self.distances.items()}


BASIC = Metrics()


def distance(network: nn.Module, params: Mapping[str, Any]) -> Measure:
    """A network of `models.quality` as a function of two images; compiled for each size."""
    apply = jax.jit(network.apply)

    def measure(a: np.ndarray, b: np.ndarray) -> float:
        return float(apply({"params": params}, *(image[None].astype(np.float32) / 255 for image in (a, b)))[0])

    return measure


def mean(values: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...]) -> dict[str, float]:
    """Means over images, {name: {metric: value}}, of each metric that an image has; none is NaN."""
    columns = {metric: [row[metric] for row in values.values() if not math.isnan(row[metric])] for metric in metrics}
    return {metric: float(np.mean(column)) for metric, column in columns.items() if column}


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
    similarity = structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=PEAK,
    )
    return float(np.asarray(similarity))


def gmsd(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Gradient magnitude similarity deviation (Xue et al., IEEE TIP 2014): 0 for equal images; lower is better.

    Both images are averaged over blocks of 2 x 2. With m the magnitude of the gradient (Prewitt, divided by 3), the similarity of
    a pixel is (2 m_a m_b + 170) / (m_a^2 + m_b^2 + 170). The result is its sample standard deviation over the image. Outside the
    image everything is black, as in the authors' program.

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


def _halve(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd size is continued in black."""
    image = np.pad(image, [(0, size % 2) for size in image.shape])
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def _gradient(image: np.ndarray) -> np.ndarray:
    """Magnitude of the Prewitt gradient."""
    image = np.pad(image, 1)
    dx, dy = image[:, 2:] - image[:, :-2], image[2:] - image[:-2]
    return np.hypot(dx[2:] + dx[1:-1] + dx[:-2], dy[:, 2:] + dy[:, 1:-1] + dy[:, :-2]) / 3


def _crop(a: np.ndarray, b: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"two images of one shape expected, got {a.shape} and {b.shape}")
    inside = tuple(slice(border, size - border) for size in a.shape[:2])
    return a[inside], b[inside]
