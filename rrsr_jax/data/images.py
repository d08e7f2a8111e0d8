"""Operations on single 8-bit RGB images, (H, W, 3) NumPy arrays."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from rrsr_jax.errors import InputError

SCALE_FACTOR = 4


def read_image(path: str | pathlib.Path) -> np.ndarray:
    """An 8-bit RGB image, (H, W, 3) uint8.

    Raises:
      InputError: unreadable, or not 8-bit RGB; names the file and what to do.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise InputError(f"{path}: an 8-bit RGB image expected, got mode {image.mode}; convert it to RGB")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); replace or remove the file") from error


def check_image(image: np.ndarray, name: str, smallest: int = 1) -> np.ndarray:
    """`image` itself, if it is (H, W, 3) uint8 with sides of at least `smallest` pixels; else an InputError."""
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


def perspective_warp(
    image: np.ndarray, rng: np.random.Generator, smallest: float = 5, largest: float = 20
) -> np.ndarray:
    """The random perspective transformation of RTRR (Fig. 3): (H, W, 3) to (H, W, 3).

    Each corner of the image moves in x and in y by `smallest` to `largest` pixels, either way; the homography between the two
    quadrilaterals is applied with cubic interpolation; what comes from outside the image is black.
    """
    h, w = image.shape[:2]
    box = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    shift = rng.uniform(smallest, largest, (4, 2)) * rng.choice([-1, 1], (4, 2))
    homography = cv2.getPerspectiveTransform(box, box + shift.astype(np.float32))
    return cv2.warpPerspective(image, homography, (w, h), flags=cv2.INTER_CUBIC)


def random_view(image: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one photograph, each (size, size, 3): a crop, and what a second shot of the scene might have caught.

    The second view is shifted by up to a quarter of the crop, each of its corners is moved by up to 2 pixels, and it is
    relit. Shifts are whole pixels of the low-resolution image, which patch matching can find; what the corners add is left to
    the learnt offsets. (An easier task than real pairs: sub-pixel shifts are what the learnt offsets take longest to follow.)
    The photograph is mirrored at its edges.
    """
    h, w = image.shape[:2]
    top, left = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    reach = size // 4 // SCALE_FACTOR
    shift = SCALE_FACTOR * rng.integers(-reach, reach + 1, 2)
    box = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    corners = box + np.array([left, top]) + shift + rng.uniform(-2, 2, (4, 2))
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), box)
    other = cv2.warpPerspective(
        image, homography, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return image[top : top + size, left : left + size], relight(other, rng)


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure: a gain per channel (0.9 to 1.1), a common one (0.85 to 1.15), and a gamma (0.85 to 1.18)."""
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.9, 1.1, 3)
    gamma = np.exp(rng.uniform(-1, 1) * np.log(1.18))
    return np.clip(255 * gain * (image / 255) ** gamma + 0.5, 0, 255).astype(np.uint8)
