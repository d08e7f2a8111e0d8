"""References brought to the view of the image before matches are searched.

The search finds what is turned by up to about 20 degrees and scaled by 0.7 to 1.4, to a pixel of the input. References of people
are often taken from nearer, or held upright, or have many more pixels than the result. Keypoints (SIFT; Lowe 2004) are found in
any view. If enough of them agree on one homography, the reference is warped by it: what the homography does not explain is small
enough for the search. Even frames of one camera gain.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from rrsr_jax import SCALE_FACTOR

AGREE = 20  # keypoints that must agree; of unrelated photographs at most 12 did
_SIDE = 800  # pixels of the longer side of what keypoints are found in
_KEYPOINTS = 3000
_RATIO = 0.8  # of the distances to the best and the second best match (Lowe 2004, section 7.1)
_ERROR = 3.0  # pixels of a keypoint that agrees
_BLUR = 0.4  # sigma, in pixels of the input, of what the input was reduced with
_LARGEST_SCALE = 16.0  # of a homography that is believed
_LARGER = 2.0  # a reference larger than the result by this factor is taken to show the same field of view
_MOST_SIDE = 32_766  # of what OpenCV warps, and of a result
_LEAST_SIDE = 3 * SCALE_FACTOR  # of what is left of a reference


class Registered(NamedTuple):
    """A reference (H, W, 3), and what was done to it, in words; nothing if it is as it was."""

    reference: np.ndarray
    note: str


def register(image: np.ndarray, reference: np.ndarray) -> Registered:
    """A reference as its matches in an image are searched.

    Args:
      image: (h, w, 3) float32, sRGB.
      reference: (H, W, 3) float32, sRGB.

    Returns:
      The reference, warped to the frame of the result (4h, 4w) and cut to what it shows of it; or, where no homography is found,
      reduced if it is much larger than the result; or as it is.
    """
    height, width = (SCALE_FACTOR * n for n in image.shape[:2])
    to_result = homography(image, reference)
    if to_result is not None:
        warped = _warped(reference, to_result, (height, width))
        return (
            Registered(reference, "") if warped is None else Registered(warped, "warped to the view of the photograph")
        )
    factor = max(height, width) / max(reference.shape[:2])
    if factor * _LARGER > 1:
        return Registered(reference, "")
    size = [max(_LEAST_SIDE, round(factor * n)) for n in reference.shape[1::-1]]
    reduced = cv2.resize(reference, size, interpolation=cv2.INTER_AREA)
    return Registered(reduced, "reduced to the size of the result")


def homography(image: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """The homography (3, 3), float64, from (x, y) in the reference to (x, y) in the result; None if too few keypoints agree.

    Coordinates are those of OpenCV: (0, 0) is the centre of the top left pixel.
    """
    longest = max(image.shape[:2])
    if max(SCALE_FACTOR * longest, *reference.shape[:2]) > _MOST_SIDE:
        return None
    enlarged = min(SCALE_FACTOR, _SIDE / longest)
    reduced = min(1.0, enlarged * longest / max(reference.shape[:2]))
    sharp = _grey(reference, reduced)
    if enlarged > 1:
        sharp = cv2.GaussianBlur(sharp, (0, 0), _BLUR * enlarged)
    points = _common_keypoints(_grey(image, enlarged), sharp)
    if points is None:
        return None
    ours, theirs = points
    found, agree = cv2.findHomography(theirs, ours, cv2.USAC_MAGSAC, _ERROR, maxIters=10_000)
    if found is None or agree.sum() < AGREE:
        return None
    to_result = _scaling(SCALE_FACTOR / enlarged) @ found @ _scaling(reduced)
    return to_result if 1 / _LARGEST_SCALE < _scale(to_result, reference.shape[:2]) < _LARGEST_SCALE else None


def _grey(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Resized, uint8."""
    grey = cv2.cvtColor(np.clip(rgb, 0, 1).astype(np.float32), cv2.COLOR_RGB2GRAY)
    size = [max(1, round(factor * n)) for n in grey.shape[::-1]]
    resized = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return (np.clip(resized, 0, 1) * 255 + 0.5).astype(np.uint8)


def _common_keypoints(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The places (N, 2) of what may be the same in both images, N at least `AGREE`; None if there are fewer."""
    sift = cv2.SIFT.create(_KEYPOINTS, contrastThreshold=0.005)
    (first, a), (second, b) = (sift.detectAndCompute(grey, None) for grey in (ours, theirs))
    if a is None or b is None or len(second) < 2:
        return None
    a, b = (np.sqrt(d / (d.sum(1, keepdims=True) + 1e-7)) for d in (a, b))  # RootSIFT (Arandjelovic & Zisserman 2012)
    pairs = [one for one, other in cv2.BFMatcher().knnMatch(a, b, 2) if one.distance < _RATIO * other.distance]
    if len(pairs) < AGREE:
        return None
    places = [(first[pair.queryIdx].pt, second[pair.trainIdx].pt) for pair in pairs]
    return tuple(np.array(side, np.float32) for side in zip(*places, strict=True))  # pyright: ignore[reportReturnType]


def _scaling(factor: float) -> np.ndarray:
    """The homography of a resize."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])


def _scale(to_result: np.ndarray, size: tuple[int, int]) -> float:
    """Pixels of the result for one of a reference with this height and width, in its middle; 0 for a mirror image."""
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    u, v, w = to_result @ (x, y, 1)
    jacobian = (to_result[:2, :2] - np.outer((u / w, v / w), to_result[2, :2])) / w
    return math.sqrt(max(0.0, float(np.linalg.det(jacobian))))


def _warped(reference: np.ndarray, to_result: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """What the reference shows of the result, cut to its bounding box; None if that is next to nothing."""
    height, width = size
    if (
        scale := _scale(to_result, reference.shape[:2])
    ) < 1:  # what is finer than the pixels of the result would be aliased
        reference = cv2.GaussianBlur(reference, (0, 0), 0.5 * math.sqrt(1 / scale**2 - 1))
    shown = cv2.warpPerspective(np.ones(reference.shape[:2], np.uint8), to_result, (width, height))
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    if len(rows) < _LEAST_SIDE or len(columns) < _LEAST_SIDE:
        return None
    warped = cv2.warpPerspective(
        reference, to_result, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.ascontiguousarray(warped[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
