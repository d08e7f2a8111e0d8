"""Operations on single 8-bit RGB images, (H, W, 3) NumPy arrays."""

from typing import Any

import cv2
import numpy as np
from PIL import Image

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.errors import InputError


def check_image(image: np.ndarray, name: str, smallest: int = 1) -> np.ndarray:
    """Returns `image`; InputError unless it is (H, W, 3) uint8 with sides of at least `smallest` pixels."""
    if image.ndim != 3 or image.shape[-1] != 3:
        channels = image.shape[-1] if image.ndim == 3 else f"shape {image.shape}"
        raise InputError(f"{name}: 3 channels (H, W, 3) expected, got {channels}; convert it to RGB")
    if image.dtype != np.uint8:
        raise InputError(f"{name}: 8-bit (uint8) expected, got {image.dtype}; convert it to 8 bits a channel")
    if min(image.shape[:2]) < smallest:
        raise InputError(
            f"{name}: at least {smallest}x{smallest} pixels expected, got {image.shape[0]}x{image.shape[1]}"
        )
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8, clipped and rounded: the image that is saved, shown and measured."""
    return np.clip(np.rint(np.asarray(image, np.float64) * 255), 0, 255).astype(np.uint8)


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic (antialiased when shrinking), the resampling of every published RefSR figure."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def downscale(image: np.ndarray) -> np.ndarray:
    """(4h, 4w, 3) to the low-resolution (h, w, 3)."""
    h, w = image.shape[:2]
    if h % SCALE_FACTOR or w % SCALE_FACTOR:
        raise InputError(f"height and width a multiple of {SCALE_FACTOR} expected, got {h}x{w}; crop first")
    return resize_bicubic(image, h // SCALE_FACTOR, w // SCALE_FACTOR)


def upscale(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) to (4h, 4w, 3): the bicubic baseline."""
    return resize_bicubic(image, image.shape[0] * SCALE_FACTOR, image.shape[1] * SCALE_FACTOR)


def matching_patch(patch: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The part of `image` that shows what `patch` shows, of the same size: (size, size, 3) of (H, W, 3).

    It is where the normalised correlation of both, reduced by 4 and grey, is largest. The patch is also tried 1.5 times larger
    and smaller. A smaller image is enlarged first, until it has the size of the patch.
    """
    size = patch.shape[0]
    height, width = image.shape[:2]
    if min(height, width) < size:
        factor = size / min(height, width)
        height, width = max(size, round(factor * height)), max(size, round(factor * width))
        image = resize_bicubic(image, height, width)

    def reduced(pixels: np.ndarray, factor: float) -> np.ndarray:
        grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
        shape = [max(1, round(n / factor)) for n in grey.shape[::-1]]
        return cv2.resize(grey, shape, interpolation=cv2.INTER_AREA)

    place, best, centre = reduced(image, SCALE_FACTOR), -np.inf, np.array([width, height]) / 2
    for zoom in (1.0, 1.5, 1 / 1.5):
        template = reduced(patch, SCALE_FACTOR / zoom)
        if template.shape[0] > min(place.shape) or np.ptp(template) == 0:
            continue
        _, score, _, corner = cv2.minMaxLoc(cv2.matchTemplate(place, template, cv2.TM_CCOEFF_NORMED))
        if score > best:
            best, centre = score, SCALE_FACTOR * (np.array(corner) + np.array(template.shape[::-1]) / 2)
    left, top = np.clip(np.round(centre - size / 2).astype(int), 0, [width - size, height - size])
    return image[top : top + size, left : left + size]


def perspective_warp(
    image: np.ndarray, rng: np.random.Generator, smallest: float = 5, largest: float = 20
) -> tuple[np.ndarray, np.ndarray]:
    """The random perspective transformation of RTRR (Fig. 3): (H, W, 3) to (H, W, 3), and its homography.

    Each corner of the image moves in x and in y by `smallest` to `largest` pixels, in either direction. The homography between
    the two quadrilaterals, (3, 3), maps (x, y, 1) of the image to the warp. Interpolation is cubic; pixels outside are black.
    """
    h, w = image.shape[:2]
    box = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    shift = rng.uniform(smallest, largest, (4, 2)) * rng.choice([-1, 1], (4, 2))
    homography = cv2.getPerspectiveTransform(box, box + shift.astype(np.float32))
    return cv2.warpPerspective(image, homography, (w, h), flags=cv2.INTER_CUBIC), homography


def random_view(
    image: np.ndarray, size: int, rng: np.random.Generator, **geometry: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one photograph, each (size, size, 3): a crop, and a simulated second shot of the same scene.

    See `view_pair` for the arguments; the second view is then relit.
    """
    hr, other, _ = view_pair(image, size, rng, **geometry)
    return hr, relight(other, rng)


def view_pair(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    shift: float = 0.25,
    corners: float = 0.03125,
    whole_pixels: bool = False,
    rotation: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop of a photograph, another view of the same place, and the homography between them.

    The second view is shifted, zoomed and rotated, and its corners are moved. The photograph is mirrored at its edges. The view
    that shows the scene larger has the photograph's own pixels, and the other one is reduced: neither is enlarged, except by
    the movement of the corners.

    Args:
      image: at least `size` pixels high and wide.
      size: of both views.
      rng: draws everything.
      shift: largest shift, as a fraction of `size`.
      corners: largest movement of each corner in x and in y, as a fraction of `size`: turns, zooms, changes the perspective.
      whole_pixels: shift by whole pixels of the low-resolution image, so that patch matching can find them exactly.
      rotation: largest rotation, in degrees, in either direction.
      zoom: smallest and largest scale of the second view relative to the first, as far as the photograph is large enough.

    Returns:
      Both views, (size, size, 3), and the homography (3, 3), which maps (x, y, 1) in pixels of the first to the second.
    """
    factor = np.exp(rng.uniform(*np.log(zoom))) if tuple(zoom) != (1.0, 1.0) else 1.0
    shrunk = min(max(1.0, factor), min(image.shape[:2]) / size)
    factor = min(factor, shrunk)
    reduced = image
    if shrunk > 1:
        reduced = resize_bicubic(image, *(max(size, round(n / shrunk)) for n in image.shape[:2]))
    h, w = reduced.shape[:2]
    top, left = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    reach = int(shift * size)
    if whole_pixels:
        reach //= SCALE_FACTOR
        moved = SCALE_FACTOR * rng.integers(-reach, reach + 1, 2)
    else:
        moved = rng.uniform(-reach, reach, 2)
    box = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    quadrilateral = box + np.array([left, top]) + moved + rng.uniform(-1, 1, (4, 2)) * corners * size
    centre = quadrilateral.mean(0)
    if factor != 1:
        quadrilateral = centre + (quadrilateral - centre) / factor
    if rotation:
        angle = np.radians(rng.uniform(-rotation, rotation))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        quadrilateral = centre + (quadrilateral - centre) @ turn
    # From pixels of `reduced`, whose grid has half-pixel centres, to those of `image`.
    steps = np.array([image.shape[1] / w, image.shape[0] / h])
    if shrunk > 1:
        quadrilateral = (quadrilateral + 0.5) * steps - 0.5
    homography = cv2.getPerspectiveTransform(quadrilateral.astype(np.float32), box)
    source = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(factor**-2 - 1)) if factor < 1 else image  # against aliasing
    other = cv2.warpPerspective(
        source, homography, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    (sx, sy), (x, y) = steps, (np.array([left, top]) + 0.5) * steps - 0.5
    to_image = np.array([[sx, 0, x], [0, sy, y], [0, 0, 1]])
    return reduced[top : top + size, left : left + size], other, homography @ to_image


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure: a gain per channel (0.9 to 1.1), a common one (0.85 to 1.15), and a gamma (0.85 to 1.18)."""
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.9, 1.1, 3)
    gamma = np.exp(rng.uniform(-1, 1) * np.log(1.18))
    return np.clip(255 * gain * (image / 255) ** gamma + 0.5, 0, 255).astype(np.uint8)
