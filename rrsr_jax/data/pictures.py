"""Image files in and out: the one reader of every command, and the writer that gives a picture back as it came.

A picture is computed on as sRGB in floating point. Its depth, colour space, transparency and metadata are remembered, so that a
result can be written in the same way: see `Picture`. The content of a file says what it is, not its name.
"""

import contextlib
import dataclasses
import glob
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from rrsr_jax.data import colour
from rrsr_jax.data.decoding import Decoded, decode, take_apart
from rrsr_jax.data.encoding import FORMATS, Format, encode
from rrsr_jax.errors import FULL_DISK, InputError

_SIZES = (0xA002, 0xA003)  # EXIF tags: width and height


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image, and how it came.

    Attributes:
      rgb: (H, W, 3) float32, sRGB; colours outside sRGB have values outside [0, 1].
      alpha: (H, W) float32 in [0, 1], opaque is 1; None if there is none.
      grey: whether it came with one channel; the three of `rgb` are then equal.
      depth: bits a channel, 8 or 16.
      icc: its colour profile, which can be written back; None: sRGB.
      exif: EXIF data, without the orientation, which was applied.
      dpi: horizontal and vertical resolution.
      notes: what was converted or left out on reading, in words.
      format: of the file, such as `PNG`; `array` or `image` if it was none.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    format: str = "array"

    def pixels(self, depth: int, icc: bytes | None = None) -> np.ndarray:
        """The values to store, (H, W, C) uint8 or uint16: grey or RGB, and alpha if there is any.

        Args:
          depth: 8 or 16 bits a channel.
          icc: the colour profile they are for; sRGB if None. Colours outside the space are clipped.
        """
        profile = colour.profile_to_convert(icc)
        rgb = self.rgb if profile is None else colour.from_srgb(self.rgb, profile)
        channels = rgb.mean(-1, keepdims=True) if self.grey else rgb
        if self.alpha is not None:
            channels = np.concatenate([channels, self.alpha[..., None]], -1)
        return _quantized(channels, 2**depth - 1)

    def enlarged(self, rgb: np.ndarray) -> "Picture":
        """The result `rgb` (H, W, 3) of super-resolving this picture, as one of its kind, its transparency enlarged as well."""
        alpha = self.alpha
        if alpha is not None:
            large = Image.fromarray(alpha).resize(rgb.shape[1::-1], Image.Resampling.BICUBIC)
            alpha = np.asarray(large).clip(0, 1)
        return dataclasses.replace(self, rgb=rgb, alpha=alpha)

    def like(self, original: Any) -> Any:
        """This picture as the kind of image that `original` is, a NumPy array or a Pillow image: see `to_picture`."""
        if isinstance(original, Image.Image):
            deep = self.depth == 16
            pixels = self.pixels(16 if deep else 8, self.icc)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            kept = {"icc_profile": self.icc, "exif": _sized(self.exif, *self.rgb.shape[:2]), "dpi": self.dpi}
            image.info.update({name: value for name, value in kept.items() if value})
            return image
        original = np.asarray(original)
        if original.dtype.kind == "f":
            channels = self.rgb.mean(-1, keepdims=True) if self.grey else self.rgb
            alpha = [] if self.alpha is None else [self.alpha[..., None]]
            pixels = np.clip(np.concatenate([channels, *alpha], -1), 0, 1).astype(original.dtype)
        else:
            pixels = self.pixels(8 * original.dtype.itemsize)
        return pixels[..., 0] if original.ndim == 2 else pixels


def read_picture(path: str | pathlib.Path) -> Picture:
    """Reads an image file.

    Raises:
      InputError: no file, damaged, of none of the formats `decoding.READ`, or with pixels that are no colours; names the file and
        says what to do.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise InputError(f"{path}: an image file expected, got {'a folder' if path.is_dir() else 'a pipe or a device'}")
    try:
        return _picture(decode(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); an image file expected") from error
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory for an image of this size; reduce it") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def to_picture(image: Any) -> Picture:
    """Takes an image that is in memory already.

    Args:
      image: a Pillow image; or an array of sRGB, (H, W) or (H, W, C): grey, grey and alpha, RGB, or RGB and alpha; uint8, uint16,
        or floating point in [0, 1].

    Raises:
      InputError: another shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        return _picture(take_apart(image))
    array = np.asarray(image)
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if array.ndim not in (2, 3) or shape[2] not in (1, 2, 3, 4) or 0 in shape:
        raise InputError(f"an image of shape (H, W), or (H, W, C) with 1 to 4 channels, expected, got {array.shape}")
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise InputError(
            f"an image of uint8, uint16, or floating point in [0, 1] expected, got {array.dtype}; convert it"
        )
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):
        raise InputError(
            f"a floating-point image in [0, 1] expected, got {array.min():g} to {array.max():g}; divide by its white, often 255"
        )
    array = array.reshape(shape)
    values = array.astype(np.float32) if array.dtype.kind == "f" else _unit(array)
    grey = shape[2] < 3
    return Picture(
        rgb=np.repeat(values[..., :1], 3, -1) if grey else values[..., :3],
        alpha=values[..., -1] if shape[2] in (2, 4) else None,
        grey=grey,
        depth=8 if array.dtype == np.uint8 else 16,
    )


def read_rgb8(path: str | pathlib.Path, smallest: int = 1) -> tuple[np.ndarray, list[str]]:
    """Reads an image file as 8-bit sRGB, for datasets and figures.

    Args:
      path: of a format that `read_picture` reads.
      smallest: least height and width.

    Returns:
      (H, W, 3) uint8, and the conversions that were made, such as `grey to RGB`; none if the file holds exactly this array.

    Raises:
      InputError: as `read_picture`, or transparent, or too small.
    """
    picture = read_picture(path)
    notes, (height, width) = list(picture.notes), picture.rgb.shape[:2]
    if picture.alpha is not None:
        if picture.alpha.min() < 1:
            raise InputError(f"{path}: 3 channels expected, got transparency; convert it to RGB")
        notes.append("opaque alpha channel dropped")
    if min(height, width) < smallest:
        raise InputError(f"{path}: at least {smallest}x{smallest} pixels expected, got {height}x{width}")
    if colour.profile_to_convert(picture.icc):
        notes.append("converted from its colour profile to sRGB")
    if picture.depth == 16:
        notes.append("16 bits a channel rounded to 8")
    if picture.grey:
        notes.append("grey to RGB")
    return _quantized(picture.rgb, 255), notes


def check_output(
    path: str | pathlib.Path, picture: Picture, *, scale: int = 1, force: bool = False
) -> tuple[Format, list[str]]:
    """Checks, before the work, whether a picture can be written to a file, enlarged by `scale`.

    Returns:
      The format, and what of the picture it cannot hold, in words.

    Raises:
      InputError: the file exists and `force` is off; the folder is not there or not writable; an ending that is not in `FORMATS`;
        the format holds no transparency, or no image of that size.
    """
    path = pathlib.Path(path)
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise InputError(
            f"{path}: a name that ends in {', '.join(FORMATS)} expected, got {path.suffix or 'no ending'!r}"
        )
    if path.is_dir() or (path.exists() and not force):
        raise InputError(f"{path}: exists; name another file{'' if path.is_dir() else ', or give --force'}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the folder {path.parent} is not writable; name another one")
    if picture.alpha is not None and picture.alpha.min() < 1 and not file_format.alpha:
        raise InputError(f"{path}: {file_format.name} holds no transparency; name a .png, .tif or .webp file")
    if scale * max(picture.rgb.shape) > file_format.largest:
        raise InputError(
            f"{path}: {file_format.name} holds at most {file_format.largest:,} pixels a side; name a .png or .tif file"
        )
    notes = []
    if picture.depth == 16 and not file_format.deep:
        notes.append(f"16 bits a channel rounded to 8, which {file_format.name} holds")
    if picture.icc and not _holds_profile(file_format, picture):
        notes.append(f"converted to sRGB: {file_format.name} holds no colour profile of this kind")
    if _unusual(file_format, picture):
        notes.append("grey written as RGB: few programs read TIFF with 16 bits of grey and transparency")
    if picture.exif and not file_format.metadata:
        notes.append(f"EXIF data left out: {file_format.name} holds none")
    return file_format, notes


def write_picture(path: str | pathlib.Path, picture: Picture, *, force: bool = False) -> list[str]:
    """Writes a picture in its own colour space, depth and with its metadata; the ending of the name says the format.

    The file is complete or not there at all: it is written under a temporary name in the same folder first.

    Args:
      path: of the file.
      picture: what to write.
      force: whether to replace a file that is there.

    Returns:
      What of the picture the format cannot hold, in words.

    Raises:
      InputError: see `check_output`; or the disk is full.
    """
    path = pathlib.Path(path)
    file_format, notes = check_output(path, picture, force=force)
    if picture.alpha is not None and not file_format.alpha:  # opaque
        picture = dataclasses.replace(picture, alpha=None)
    if _unusual(file_format, picture):
        picture = dataclasses.replace(picture, grey=False)
    icc = picture.icc if _holds_profile(file_format, picture) else None
    exif = _sized(picture.exif, *picture.rgb.shape[:2]) if file_format.metadata else None
    if exif and file_format.name == "JPEG" and len(exif) > 65_533:
        exif, notes = None, [*notes, "EXIF data left out: it is longer than JPEG holds"]
    pixels = picture.pixels(picture.depth if file_format.deep else 8, icc)
    try:
        data = encode(pixels, file_format, icc, exif, picture.dpi)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {file_format.name} cannot hold this image ({error}); name a .png file") from error
    _write(path, data, force)
    return notes


def _write(path: pathlib.Path, data: bytes, force: bool) -> None:
    name = f"{path.name[-100:]}.part"
    temporary = path.with_name(f".{os.getpid()}.{name}")
    try:
        for other in path.parent.glob(f".*.{glob.escape(name)}"):
            if _is_left_behind(other.name.removesuffix(name).strip(".")):
                other.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # never through a link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not force:
            raise InputError(f"{path}: exists; name another file, or give --force")
        os.replace(temporary, path)
    except OSError as error:
        advice = "free space" if error.errno in FULL_DISK else "name another folder"
        raise InputError(f"{path}: cannot be written ({error.strerror}); {advice} and try again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_left_behind(process: str) -> bool:
    """Whether an unfinished file is one of a process, by its number, that was killed."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, OSError):
        pass
    return False


def _unusual(file_format: Format, picture: Picture) -> bool:
    """Whether it is 16-bit grey with transparency as TIFF, which Pillow does not read."""
    return file_format.name == "TIFF" and picture.grey and picture.alpha is not None and picture.depth == 16


def _holds_profile(file_format: Format, picture: Picture) -> bool:
    return file_format.metadata and (file_format.grey or not picture.grey)


def _picture(decoded: Decoded) -> Picture:
    values, icc = decoded.values, decoded.icc
    profile = colour.profile_to_convert(icc)
    rgb = _unit(values) if profile is None else colour.to_srgb(values, profile)
    return Picture(
        rgb=np.ascontiguousarray(np.broadcast_to(rgb, (*values.shape[:2], 3))),
        alpha=None if decoded.alpha is None else _unit(decoded.alpha),
        grey=values.shape[2] == 1,
        depth=8 * values.itemsize,
        icc=icc,
        exif=decoded.exif,
        dpi=decoded.dpi,
        notes=decoded.notes,
        format=decoded.format,
    )


def _unit(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def _quantized(values: np.ndarray, white: int) -> np.ndarray:
    """From [0, 1], clipped, to the nearest of 0 to `white`, 255 or 65535."""
    out = np.clip(values, 0, 1) * np.float32(white) + np.float32(0.5)
    return out.astype(np.uint8 if white == 255 else np.uint16)


def _sized(exif: bytes | None, height: int, width: int) -> bytes | None:
    """EXIF data with the size of the image where it names one."""
    if not exif:
        return None
    parsed = Image.Exif()
    parsed.load(exif)
    directory = parsed.get_ifd(0x8769)
    directory.update({tag: size for tag, size in zip(_SIZES, (width, height), strict=True) if tag in directory})
    return parsed.tobytes()
