"""Random changes that real photographs have: light, blur, noise, compression. For single 8-bit RGB images, (H, W, 3)."""

import cv2
import numpy as np

from rrsr_jax.data.images import downscale

_GAMMA = 2.2  # approximate, from stored values to light


def change_light(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    exposure: float = 0.0,
    white_balance: float = 0.0,
    contrast: float = 0.0,
) -> np.ndarray:
    """Changes exposure, white balance and contrast.

    Args:
      image: (H, W, 3) uint8.
      rng: draws everything.
      exposure: largest change of the light, in stops, in either direction.
      white_balance: largest change of each channel's light, in stops, in either direction.
      contrast: largest relative change of the distance to the mean, in either direction.
    """
    stops = rng.uniform(-exposure, exposure) + rng.uniform(-white_balance, white_balance, 3)
    values = image / 255 * 2 ** (stops / _GAMMA)
    mean = values.mean()
    values = mean + (values - mean) * (1 + rng.uniform(-contrast, contrast))
    return np.clip(255 * values + 0.5, 0, 255).astype(np.uint8)


def degrade(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    share: float = 0.0,
    blur: float = 0.0,
    noise: float = 0.0,
    jpeg: int = 100,
    reduce: bool = False,
) -> np.ndarray:
    """Blurs, reduces, adds noise and compresses, in this order, each with a random strength.

    Args:
      image: (H, W, 3) uint8.
      rng: draws everything.
      share: of the images that are degraded; the others are reduced only.
      blur: largest standard deviation of the Gaussian, in pixels of `image`.
      noise: largest standard deviation of the noise, where white is 255.
      jpeg: lowest JPEG quality; 100 for no compression.
      reduce: whether to downscale by 4, after the blur.
    """
    if rng.random() >= share:
        return downscale(image) if reduce else image
    sigma, deviation, quality = rng.uniform(0, blur), rng.uniform(0, noise), int(rng.integers(jpeg, 101))
    if sigma > 0.2:  # below, the Gaussian is a single pixel
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if reduce:
        image = downscale(image)
    if deviation:
        image = np.clip(image + rng.normal(0, deviation, image.shape) + 0.5, 0, 255).astype(np.uint8)
    if jpeg < 100:
        _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
        assert decoded is not None, "what was just encoded"
        image = decoded[..., ::-1]
    return np.ascontiguousarray(image)


def mirror_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mirrors an image at the right and bottom, repeatedly if necessary, until it fills (height, width, 3)."""
    return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "symmetric")
