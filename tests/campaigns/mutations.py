"""Damaged files, made of good ones; and files that say one thing and are another."""

import contextlib
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from tests.data.files import PROFILES
from tests.helpers import noise

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def damaged(raw: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to three mutations of a file; `others` are files whose parts may come into it."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        raw = rng.choice(_MUTATIONS)(raw, rng, others)
    return raw


def _cut(raw, rng, others):
    return raw[: rng.randrange(len(raw) + 1)]


def _flip(raw, rng, others):
    content = bytearray(raw)
    near = rng.choice([32, 256, len(raw)])  # headers are near the beginning
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if content:
            content[rng.randrange(min(near, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _number(raw, rng, others):
    size, order = rng.choice([1, 2, 4, 8]), rng.choice(["little", "big"])
    value = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)
    start = rng.randrange(min(rng.choice([32, 256, len(raw) + 1]), len(raw) + 1))
    return raw[:start] + value + raw[start + size :]


def _overwrite(raw, rng, others):
    start, size = rng.randrange(len(raw) + 1), rng.choice([1, 4, 16, 256, 4096])
    filling = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), b"A" * size])
    return raw[:start] + filling + raw[start + size :]


def _delete(raw, rng, others):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + raw[start + rng.choice([1, 4, 16, 256, 4096]) :]


def _repeat(raw, rng, others):
    start = rng.randrange(len(raw) + 1)
    piece = raw[start : start + rng.choice([1, 8, 64, 1024])]
    return raw[:start] + piece * rng.choice([1, 2, 100]) + raw[start:]


def _insert(raw, rng, others):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + rng.randbytes(rng.choice([1, 4, 64])) + raw[start:]


def _join(raw, rng, others):
    other = rng.choice([*others, raw])
    return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1) :]


_MUTATIONS = (_cut, _flip, _flip, _number, _number, _overwrite, _delete, _repeat, _insert, _join)


def images() -> dict[str, bytes]:
    """Good files of every accepted format (HEIC where pillow-heif is installed), by a name with its ending; 40 x 36 pixels."""
    rgb, alpha = noise(40, 36), noise(40, 36, seed=1)
    deep = rgb.astype(np.uint16) * 257
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    clear = Image.fromarray(np.dstack([rgb, alpha[..., 0]]))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "camera", 0x011A: 72.0})
    exif.get_ifd(0x8769).update({0xA002: 22, 0x9286: b"comment"})
    found = {}

    def add(name: str, image: Image.Image, **options) -> None:
        file = io.BytesIO()
        image.save(
            file,
            {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "pgm": "PPM"}.get(name[-3:], name.rpartition(".")[2]),
            **options,
        )
        found[name] = file.getvalue()

    for image, kind in ((colour, "rgb"), (grey, "grey")):
        for ending in ("png", "jpg", "tif", "jp2", "bmp", "gif", "ppm"):
            add(f"{kind}.{ending}", image)
    for ending in ("webp", "avif", "png", "tif", "jp2"):
        add(f"clear.{ending}", clear)
    for number, (name, icc) in enumerate(PROFILES.items()):
        add(f"{name}.{('jpg', 'png', 'tif', 'webp')[number % 4]}", colour, icc_profile=icc)
    for ending in ("jpg", "png", "tif", "webp", "avif"):
        add(f"exif.{ending}", colour, exif=exif)
    add("progressive.jpg", colour, progressive=True)
    add("cmyk.jpg", colour.convert("CMYK"))
    add("palette.png", colour.convert("P"))
    add("palette.gif", colour.convert("P"), save_all=True, append_images=[colour.convert("P")] * 2)
    add("bits.png", grey.convert("1"))
    add("bits.tif", grey.convert("1"), compression="group4")
    add("lossless.webp", colour, lossless=True)
    add("cmyk.tif", colour.convert("CMYK"))
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        add(f"{compression}.tif", colour, compression=compression)
    for ending in ("png", "tif", "jp2", "ppm"):
        found[f"deep.{ending}"] = cv2.imencode(f".{ending}", deep)[1].tobytes()
    with contextlib.suppress(ImportError):
        import pillow_heif

        for name, image in (("rgb.heic", colour), ("clear.heic", clear), ("grey.heif", grey)):
            file = io.BytesIO()
            pillow_heif.from_pillow(image).save(file, quality=60)
            found[name] = file.getvalue()
    found["deep_grey.png"] = cv2.imencode(".png", deep[..., 0])[1].tobytes()
    found["deep_grey.pgm"] = cv2.imencode(".pgm", deep[..., 0])[1].tobytes()
    return found


def strangers() -> dict[str, bytes]:
    """Files that are no photograph that is accepted, or claim to be huge; every name ends like that of a photograph."""
    rgb, found = Image.fromarray(noise(26, 22)), {}
    for kind in ("EPS", "PDF", "ICO", "PCX", "TGA", "SGI", "DDS", "IM", "MSP", "BLP"):
        file = io.BytesIO()
        rgb.convert({"MSP": "1", "BLP": "P"}.get(kind, "RGB")).save(file, kind)
        found[f"{kind}.png"] = file.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../../x", b"x")
    found |= {"zip.jpg": archive.getvalue(), "empty.png": b"", "text.png": b"no picture\n", "zero.tif": bytes(4096)}
    found["svg.png"] = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    found["script.png"] = b"%!PS\n(/tmp/x) (w) file\n"
    for name, width, height in (
        ("wide", 2**31 - 1, 1),
        ("huge", 60_000, 60_000),
        ("large", 13_000, 13_000),
        ("none", 0, 0),
    ):
        found[f"{name}.png"] = bomb(width, height)
        found[f"{name}.ppm"] = b"P6 %d %d 255 " % (width, height)
        found[f"{name}.bmp"] = b"BM" + struct.pack(
            "<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
        )
        found[f"{name}.gif"] = (
            b"GIF89a" + struct.pack("<HH", width % 2**16, height % 2**16) + b"\x80\0\0" + bytes(6) + b";"
        )
    return found


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that claims to be so large; its pixels are black, as many as one is patient enough to write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    content = (
        b"".join(packer.compress(bytes(width + 1)) for _ in range(height if width * height < 2e8 else 2))
        if width < 2**20
        else b""
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content + packer.flush()) + chunk(b"IEND", b"")
    )


# Values of options and fields, as words on a command line.
VALUES = (
    *("", " ", "0", "-1", "1", "2", "7", "-0", "1e9", "1e308", "-1e308", "nan", "inf", "-inf", "0.5", "99999999999999999999"),
    *("None", "True", "False", "true", "()", "(1,)", "(0,)", "(-1, 2)", "(1.0, 2.0)", "(nan, 1.0)", "('a', 'b')", "[]", "{}"),
    *("[1, 2]", "(1, 2, 3)", "(1, 2, 3, 4)", "((1, 2), 3)", "'a'", "abc", "a,b", ",", "embedded,embedded", "..", ".", "/"),
    *("../../x", "/proc/self/mem", "/dev/null", "/dev/full", "a" * 300, "a/" * 2100, "ä", "\udce4", "\x1b[31m", "a\nb"),
    *("%s%n", "{0}"),
    *("--", "-", "--help", "*", "?", "~", "$HOME", "0x10", "1_000", "1j", "__import__('os')", "lambda: 0", "float32", "bfloat16"),
)  # fmt: skip
