"""Image files as other programs write and read them, and colour profiles made from their primaries."""

import struct

import cv2
import numpy as np
from PIL import Image

P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1, 0.8249]), np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])

# Tone curves of profiles, as tags.
SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + struct.pack(
    ">5i", *(round(2**16 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
GAMMA_CURVE = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(256 * 2.19921875)) + b"\0\0"
TABLE_CURVE = (
    b"curv\0\0\0\0" + struct.pack(">I", 1024) + (np.linspace(0, 1, 1024) ** 1.8 * 65535).astype(">u2").tobytes()
)


def profile(primaries, curve):
    """An ICC profile of a matrix and curves (ICC.1:2010): its primaries as (x, y), white D65; or a grey one without primaries."""
    tags = {b"wtpt": xyz(D50)}
    if primaries:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        columns = columns * np.linalg.solve(columns, D65)
        adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ D65)) @ BRADFORD
        for i, channel in enumerate((b"r", b"g", b"b")):
            tags |= {channel + b"XYZ": xyz((adapt @ columns)[:, i]), channel + b"TRC": curve}
    else:
        tags[b"kTRC"] = curve
    return assembled(tags, b"RGB " if primaries else b"GRAY")


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(2**16 * v) for v in values))


def assembled(tags, space, connection=b"XYZ "):
    text = b"desc\0\0\0\0\0\0\0\5test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(content))
        data += content
    size = struct.pack(">I", 128 + len(table) + len(data))
    header = size + b"none\2\x40\0\0mntr" + space + connection + bytes(12) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return header + bytes(128 - len(header)) + table + data


PROFILES = {
    "p3": profile(P3, SRGB_CURVE),
    "adobe": profile(ADOBE, GAMMA_CURVE),
    "table": profile(P3, TABLE_CURVE),
    "srgb": profile(SRGB, SRGB_CURVE),
}


def deep(height=24, width=20, channels=3, seed=0):
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    return np.random.default_rng(seed).integers(0, 2**16, shape, dtype=np.uint16)


def save(path, image, **options):
    """An 8-bit array through Pillow, a 16-bit one through OpenCV."""
    if image.dtype == np.uint16:
        order = [2, 1, 0, 3][: image.shape[-1]] if image.ndim == 3 else None
        lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if path.suffix == ".jp2" else []
        assert cv2.imwrite(str(path), image[..., order] if order else image, lossless)
    else:
        Image.fromarray(image).save(path, **options)
    return path


def load(path):
    """What another program finds in a file."""
    image = Image.open(path)
    image.load()
    return image
