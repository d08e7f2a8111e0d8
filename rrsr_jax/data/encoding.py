"""Image files of a picture's pixels, as bytes.

Pillow writes most of them. It cannot write PNG and TIFF of 16 bits a channel, or TIFF with both compression and EXIF data: those
are made here.

Pixels are (H, W, C) uint8 or uint16: grey, grey and alpha, RGB, or RGB and alpha.
"""

import io
import struct
import types
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags


class Format(NamedTuple):
    """What a format can hold, and how Pillow is asked to write it.

    Attributes:
      name: as Pillow calls it.
      largest: height and width, in pixels.
      deep, alpha, grey: whether it holds 16 bits a channel, transparency, and grey alone.
      metadata: whether it holds a colour profile and EXIF data.
      options: for Pillow.
    """

    name: str
    largest: int = 2**31 - 1
    deep: bool = False
    alpha: bool = True
    grey: bool = True
    metadata: bool = True
    options: Mapping[str, Any] = types.MappingProxyType({})


_JPEG = Format("JPEG", 65_500, alpha=False, options={"quality": 95, "subsampling": 0})
_TIFF = Format("TIFF", deep=True)
FORMATS = {
    ".png": Format("PNG", deep=True),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": Format("WEBP", 16_383, grey=False, options={"quality": 95, "method": 4}),
    ".avif": Format("AVIF", 65_536, grey=False, options={"quality": 90}),
    ".jp2": Format("JPEG2000", metadata=False),
    ".bmp": Format("BMP", alpha=False, metadata=False),
    ".ppm": Format("PPM", alpha=False, metadata=False),
}
_EXIF, _GPS, _INTEROPERABILITY = _DIRECTORIES = (0x8769, 0x8825, 0xA005)  # tags
_STRIP = 2**20  # bytes of a TIFF strip before compression


def encode(
    pixels: np.ndarray,
    file_format: Format,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """An image file. What the format cannot hold must be left out before; see `Format`."""
    if file_format.name == "TIFF":
        return _tiff(pixels, icc, exif, dpi)
    if pixels.dtype == np.uint16:
        return _png(pixels, icc, exif, dpi)
    extra = {"icc_profile": icc, "exif": exif, "dpi": dpi}
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(file, file_format.name, **file_format.options, **{k: v for k, v in extra.items() if v})
    return file.getvalue()


def _png(pixels: np.ndarray, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """PNG with 16 bits a channel (ISO/IEC 15948)."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # "up": the difference to the row above
    filtered[0, 1:], filtered[1:, 1:] = rows[0], rows[1:] - rows[:-1]
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)),
    ]
    if icc:
        parts.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if dpi:
        parts.append(chunk(b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in dpi), 1)))  # pixels per metre
    if exif:
        parts.append(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(filtered.tobytes())), chunk(b"IEND", b"")])


def _tiff(pixels: np.ndarray, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """TIFF 6.0, compressed by deflate, with the EXIF data as tags and directories of its own."""
    height, width, channels = pixels.shape
    colour = channels >= 3
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    if exif:
        parsed = Image.Exif()
        parsed.load(exif)
        for tag, value in exif_tags(parsed).items():
            ifd[tag] = value
    rows = max(1, _STRIP // pixels[0].nbytes)
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    steps = np.diff(little, axis=1, prepend=np.zeros_like(little[:, :1]))  # the horizontal predictor
    strips = [zlib.compress(steps[top : top + rows].tobytes()) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    for tag, value in {
        256: width,
        257: height,
        258: (8 * pixels.itemsize,) * channels,
        259: 8,  # deflate
        262: 2 if colour else 1,
        273: tuple(np.cumsum([0, *sizes[:-1]]).tolist()),
        277: channels,
        278: rows,
        279: tuple(sizes),
        284: 1,
        317: 2,
        **({338: 2} if channels in (2, 4) else {}),  # alpha, not multiplied in
        **({282: dpi[0], 283: dpi[1], 296: 2} if dpi else {}),
        **({34675: icc} if icc else {}),
    }.items():
        ifd.tagtype.pop(tag, None)
        ifd[tag] = value
    ifd.tagtype[273] = ifd.tagtype[279] = TiffTags.LONG
    file = io.BytesIO()
    ifd.save(file)
    return b"".join([file.getvalue(), *strips])


def exif_tags(exif: Image.Exif) -> dict[int, Any]:
    """The tags of EXIF data; a directory within it is a dict."""
    tags = {tag: dict(exif.get_ifd(tag)) if tag in _DIRECTORIES else exif[tag] for tag in exif}
    if _INTEROPERABILITY in tags.get(_EXIF, {}):
        tags[_EXIF][_INTEROPERABILITY] = dict(exif.get_ifd(_INTEROPERABILITY))
    return tags
