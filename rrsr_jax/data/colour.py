"""Colour: from the space of an ICC profile to sRGB, and back.

Profiles of cameras and screens are a matrix and one curve per channel (ICC.1, section 8.3.3), or one curve if they are grey. They
are computed here in floating point: colours outside sRGB become values outside [0, 1], and nothing is lost on the way back.
Profiles that are tables (of printers, scanners) cannot be inverted exactly. They go through LittleCMS, 8 bits, one way.
"""

import functools
import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

# Columns: the primaries of sRGB as XYZ, adapted to the D50 white of profiles, as its usual profiles have them (in 1/65536).
_SRGB_TO_XYZ = np.array([[28578, 25241, 9376], [14581, 46981, 3972], [912, 6362, 46799]]) / 2**16
_LEVELS = 2**16  # of a tabulated curve: every value of a 16-bit image has its own
_PIXELS = 2**20  # computed at a time
_SAME = 1 / 255  # a profile that moves no colour by more than this is sRGB


class Profile(NamedTuple):
    """A matrix or grey profile.

    Attributes:
      curves: (1 or 3, 65536) float64, from values to light, by channel; increasing.
      matrix: (3, 3), from light to the light of sRGB; None for grey.
    """

    curves: np.ndarray
    matrix: np.ndarray | None


def space(icc: bytes) -> str:
    """The colour space of a profile: `RGB`, `GRAY`, `CMYK` or another four letters; empty if it is no profile."""
    return icc[16:20].decode("latin1").strip() if len(icc) >= 132 and icc[36:40] == b"acsp" else ""


@functools.lru_cache(maxsize=8)
def matrix_profile(icc: bytes) -> Profile | None:
    """Reads a profile of a matrix and curves, or of one curve; None if it is of another kind, or damaged."""
    if space(icc) not in ("RGB", "GRAY") or icc[20:24] != b"XYZ ":
        return None
    try:
        (number,) = struct.unpack_from(">I", icc, 128)
        entries = [struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(min(number, 100))]
        tags = {name: icc[start : start + length] for name, start, length in entries}
        if space(icc) == "GRAY":
            return Profile(_curve(tags[b"kTRC"])[None], None)
        curves = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.linalg.inv(_SRGB_TO_XYZ) @ (np.array(columns).T / 2**16)
    except (KeyError, ValueError, ArithmeticError, struct.error):
        return None
    return Profile(curves, matrix) if abs(np.linalg.det(matrix)) > 1e-6 else None


@functools.lru_cache(maxsize=8)
def profile_to_convert(icc: bytes | None) -> Profile | None:
    """The matrix or grey profile `icc`; None if it moves no colour by a level of 8 bits: it is sRGB."""
    profile = matrix_profile(icc) if icc else None
    if profile is None:
        return None
    levels = np.linspace(0, 255, 16).round().astype(np.uint8)
    colours = levels[:, None, None]
    if profile.matrix is not None:
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 1, 3)
    return None if np.abs(to_srgb(colours, profile) - colours / 255).max() < _SAME else profile


def to_srgb(image: np.ndarray, profile: Profile) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 in a profile's space, to sRGB (H, W, 3) float32, of any range."""
    step = (_LEVELS - 1) // np.iinfo(image.dtype).max

    def convert(rows: np.ndarray) -> np.ndarray:
        light = np.stack([curve[rows[..., i] * np.int32(step)] for i, curve in enumerate(profile.curves)], -1)
        return _encode(light if profile.matrix is None else light @ profile.matrix.T)

    return _by_rows(convert, image)


def from_srgb(rgb: np.ndarray, profile: Profile) -> np.ndarray:
    """sRGB (H, W, 3) float32, to a profile's space, (H, W, 3) float32 in [0, 1]; grey profiles give three equal channels."""
    levels = np.linspace(0, 1, _LEVELS)
    inverse = None if profile.matrix is None else np.linalg.inv(profile.matrix).T

    def convert(rows: np.ndarray) -> np.ndarray:
        light = _decode(rows) if inverse is None else _decode(rows) @ inverse
        curves = np.broadcast_to(profile.curves, (3, _LEVELS))
        return np.stack([np.interp(light[..., i], curve, levels) for i, curve in enumerate(curves)], -1)

    return _by_rows(convert, rgb)


def table_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Converts a Pillow image of any profile to 8-bit sRGB, relative colorimetric; ValueError if LittleCMS cannot."""
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(str(error)) from error
    assert converted is not None, "not in place"
    return converted


def _curve(tag: bytes) -> np.ndarray:
    """The tone curve in a tag, (65536,) from values in [0, 1] to light; ValueError if it is not increasing."""
    x = np.linspace(0, 1, _LEVELS)
    if tag[:4] == b"curv":
        (number,) = struct.unpack_from(">I", tag, 8)
        if number > 1:
            table = np.array(struct.unpack_from(f">{number}H", tag, 12)) / (2**16 - 1)
            y = np.interp(x, np.linspace(0, 1, number), table)
        else:
            y = x ** (struct.unpack_from(">H", tag, 12)[0] / 256 if number else 1.0)
    elif tag[:4] == b"para":
        kind, count = struct.unpack_from(">H", tag, 8)[0], dict(enumerate((1, 3, 4, 5, 7)))
        if kind not in count:
            raise ValueError(f"a curve of type 0 to 4 expected, got {kind}")
        g, *rest = (v / 2**16 for v in struct.unpack_from(f">{count[kind]}i", tag, 12))
        a, b, c, d, e, f = (*rest, *(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(rest) :])
        if kind in (1, 2):  # constant below, not linear
            d, c, e, f = -b / a, 0.0, c, c
        y = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    else:
        raise ValueError(f"a curve expected, got {tag[:4]!r}")
    if not (np.isfinite(y).all() and (np.diff(y) >= 0).all() and y[-1] > y[0]):
        raise ValueError("an increasing curve expected")
    return np.clip(y, 0, 1)


def _encode(light: np.ndarray) -> np.ndarray:
    """From light to the values of sRGB; negative light mirrored (IEC 61966-2-1, amendment 1)."""
    size = np.abs(light)
    return np.copysign(np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055), light)


def _decode(values: np.ndarray) -> np.ndarray:
    """The inverse of `_encode`, in float64."""
    size = np.abs(values.astype(np.float64))
    return np.copysign(np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4), values)


def _by_rows(convert: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Applies `convert` to a few rows at a time, into (H, W, 3) float32: its float64 would need several times the memory."""
    out = np.empty((*image.shape[:2], 3), np.float32)
    rows = max(1, _PIXELS // image.shape[1])
    for top in range(0, image.shape[0], rows):
        out[top : top + rows] = convert(image[top : top + rows])
    return out
