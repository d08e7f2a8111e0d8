"""Image files taken apart: values, transparency, colour profile, metadata. What a file is, its content says, not its name."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from rrsr_jax.data import colour
from rrsr_jax.data.encoding import exif_tags
from rrsr_jax.errors import InputError

# What is opened, by Pillow's names. Left out is what runs other programs (EPS) and what no photograph is kept in.
READ = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "TIFF": "TIFF",
    "WEBP": "WebP",
    "AVIF": "AVIF",
    "JPEG2000": "JPEG 2000",
    "BMP": "BMP",
    "GIF": "GIF",
    "PPM": "PPM",
}
# Names of such files; used to find the images in a folder.
READ_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".j2k", ".jpx"),
    *(".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif"),
)
_ORIENTATION = 0x0112  # EXIF tag
_RESOLUTION = (0x011A, 0x011B, 0x0128)  # EXIF tags; kept as dpi
# TIFF tags that describe the picture; others describe how the file stores it.
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, 0x8769, 0x8825)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # brands


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
      values: (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16, the right way up.
      alpha: (H, W) of the same dtype, opaque is the largest value; None if there is none.
      icc: the profile of `values`, one that `colour.matrix_profile` reads; None for sRGB.
      exif: EXIF data without orientation and resolution.
      dpi: horizontal and vertical resolution.
      notes: what was converted or left out, in words.
      format: Pillow's name of it, or `image`.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    icc: bytes | None
    exif: bytes | None
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]
    format: str


def formats() -> list[str]:
    """What Pillow may open, by its names; nowhere is an image opened without naming the formats."""
    return [*READ, *(["HEIF"] if _heif() else [])]


def decode(raw: bytes) -> Decoded:
    """Decodes the content of a file; InputError, which does not name the file, if it is none of `READ` or damaged."""
    with _decoding():
        try:
            image = Image.open(io.BytesIO(raw), formats=formats())
        except Image.UnidentifiedImageError as error:
            if raw[4:8] == b"ftyp" and raw[8:12] in _HEIC:
                raise InputError("HEIC needs pillow-heif: `pip install pillow-heif`, or save it as JPEG") from error
            got = "another format, or a damaged file" if raw else "an empty file"
            raise InputError(
                f"cannot be read as an image: {', '.join(READ.values())} or HEIC expected, got {got}; replace it or move it away"
            ) from error
        with image:
            return take_apart(image, raw)


def take_apart(image: Image.Image, raw: bytes = b"") -> Decoded:
    """As `decode`, for an image that Pillow opened. `raw`: the file it comes from; 16 bits a channel are taken from there."""
    with _decoding():
        notes = []
        if (frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"the first of {frames} images in the file")
        turned = image.getexif().get(_ORIENTATION, 1)
        white = _white(image, raw)
        icc = image.info.get("icc_profile") or (_jpeg2000_profile(raw) if image.format == "JPEG2000" else None)
        exif = _exif(image, notes)  # before Pillow closes the file
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)  # Pillow turns TIFF itself
        if (bits := _bits_of_heif(raw)) > 8:
            notes.append(f"{bits} bits a channel read as 8")
        if turned in range(2, 9):
            notes.append("turned according to its EXIF data")
        if image.mode in ("F", "I") and white == 255:
            raise InputError("8 or 16 bits a channel expected, got floating-point or 32-bit pixels; convert it")
        if image.mode.startswith("I;16") and not raw:
            values, alpha = np.asarray(image).astype(np.uint16)[..., None], None
        elif white > 255:
            values, alpha = _deep(image, raw, white)
        else:
            values, alpha, icc = _shallow(image, icc, notes)
        values, icc = _check_profile(values, icc, notes)
        return Decoded(
            values=_turn(values, orientation),
            alpha=None if alpha is None else _turn(alpha, orientation),
            icc=icc,
            exif=exif,
            dpi=_dpi(image),
            notes=tuple(notes),
            format="JPEG" if image.format == "MPO" else image.format or "image",
        )


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turns what decoders raise into InputError. Pillow's warnings are left out: of odd metadata, of half its limit of pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels expected, got more; reduce it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like
        raise InputError(f"cannot be read as an image ({error}); replace the file or move it away") from error


def _heif() -> bool:
    """Whether HEIC can be read: `pillow-heif` is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _white(image: Image.Image, raw: bytes) -> int:
    """The largest value of a channel in the file; 255 if it is that or smaller, or if Pillow is all there is."""
    bits = 8
    if not raw:
        return 255
    if image.format == "PNG":
        bits = raw[24]  # of IHDR
    elif image.format == "TIFF":
        bits = max(getattr(image, "tag_v2", {}).get(258, (1,)))
    elif image.format == "JPEG2000" and (size := re.search(rb"\xff\x4f\xff\x51.{38}(.)", raw, re.DOTALL)):
        bits = (size[1][0] & 0x7F) + 1  # of the first component
    elif image.format == "PPM" and (header := re.match(rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*(\d+)){3}", raw)):
        return max(255, int(header[1]))
    return 2**bits - 1 if 8 < bits <= 16 else 255


def _bits_of_heif(raw: bytes) -> int:
    """Bits a channel of an AVIF or HEIC file, of which Pillow gives 8 (ISO/IEC 23008-12, 6.5.6); 8 for another file."""
    box = re.search(rb"pixi\0{4}.(.)", raw, re.DOTALL) if raw[4:8] == b"ftyp" else None
    return box[1][0] if box else 8


def _deep(image: Image.Image, raw: bytes, white: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and alpha of a file with more than 8 bits a channel, uint16. Pillow would give 8."""
    array = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape[:2] != (image.height, image.width):
        raise InputError("16 bits a channel in a form that cannot be read; save it as 16-bit PNG or RGB TIFF")
    if array.ndim == 2:
        array = array[..., None]
    if white < 65535:
        array = np.clip(array * (65535 / white) + 0.5, 0, 65535).astype(np.uint16)
    alpha = array[..., 3] if array.shape[2] == 4 else None
    if array.shape[2] == 1 or (image.format == "PNG" and raw[25] == 4):  # IHDR: grey with alpha, which OpenCV makes RGB
        return array[..., :1], alpha
    values = array[..., 2::-1]  # OpenCV has BGR
    if alpha is None and isinstance(key := image.info.get("transparency"), tuple):  # PNG's transparent colour
        alpha = np.where((values == np.array(key, np.uint16)).all(-1), 0, 65535).astype(np.uint16)
    return values, alpha


def _shallow(
    image: Image.Image, icc: bytes | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """Values and alpha, uint8, and the profile that is left to honour."""
    mode = image.mode
    transparent = "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if mode == "CMYK":
        if icc and colour.space(icc) == "CMYK":
            with contextlib.suppress(ValueError):
                image = colour.table_to_srgb(image, icc)
        image, icc = image.convert("RGB"), None
        notes.append("CMYK to sRGB")
    elif mode in ("1", "L", "LA", "La"):
        image = image.convert("LA" if transparent else "L")
    elif mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        if mode in ("P", "PA"):
            notes.append("palette to RGB")
        image = image.convert("RGBA" if transparent else "RGB")
    else:
        raise InputError(f"grey, RGB or CMYK expected, got mode {mode}; convert it to RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    return (array[..., :-1], array[..., -1], icc) if array.shape[2] in (2, 4) else (array, None, icc)


def _check_profile(values: np.ndarray, icc: bytes | None, notes: list[str]) -> tuple[np.ndarray, bytes | None]:
    """Leaves a profile that `colour.matrix_profile` reads; applies a table, and drops what does not fit."""
    if not icc:
        return values, None
    if colour.space(icc) != ("GRAY" if values.shape[2] == 1 else "RGB"):
        notes.append("a colour profile that does not fit the image ignored")
        return values, None
    if colour.matrix_profile(icc):
        return values, icc
    try:
        if values.shape[2] == 1:
            raise ValueError("only tables of RGB are applied")
        image = Image.fromarray(values if values.dtype == np.uint8 else (values // 257).astype(np.uint8))
        values = np.asarray(colour.table_to_srgb(image, icc))
    except ValueError:
        notes.append("a damaged colour profile ignored")
    else:
        notes.append("converted to 8-bit sRGB: its colour profile is a table")
    return values, None


def _jpeg2000_profile(raw: bytes) -> bytes | None:
    """The profile in the colour box of a JP2 file (ISO/IEC 15444-1, I.5.3.3), which Pillow does not read."""
    start = raw.find(b"colr\x02")
    return raw[start + 7 : start - 4 + int.from_bytes(raw[start - 4 : start])] if start >= 4 else None


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W, ...) the right way up, by the EXIF orientation, 1 to 8; others count as 1."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _exif(image: Image.Image, notes: list[str]) -> bytes | None:
    dropped = {_ORIENTATION, *_RESOLUTION}
    try:
        tags = exif_tags(image.getexif())
        kept = {k: v for k, v in tags.items() if (k in _DESCRIPTIVE if image.format == "TIFF" else k not in dropped)}
        exif = Image.Exif()
        exif.update(kept)
        return exif.tobytes() if kept else None
    except Exception:  # the parser raises what it likes
        notes.append("damaged EXIF data left out")
        return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    return (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 1 else None
