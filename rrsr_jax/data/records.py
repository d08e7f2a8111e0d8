"""What the records of a prepared dataset hold: images as PNG or JPEG files, and beside the records how they were made."""

import hashlib
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rrsr_jax.errors import InputError

PREPARATION = "preparation.json"  # beside the records
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG


class StoredImage(tfds.features.Image):
    """An image of a record. The library would decode whatever OpenCV knows."""

    def decode_example_np(self, example):
        return decode(example)


class LocalInfo(tfds.core.DatasetInfo):
    """The description of a dataset that nobody publishes."""

    def initialize_from_bucket(self) -> None:
        """The library would look for the dataset among its own, and leave a temporary folder behind each time."""


def is_storable(raw: bytes) -> bool:
    """Whether a file is of a kind that records hold, by its first bytes."""
    return raw.startswith(_MAGIC)


def png(image: np.ndarray) -> io.BytesIO:
    """A PNG file of (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


def decode(raw: bytes) -> np.ndarray:
    """The image in a record, (H, W, 3) uint8. A record may come from anywhere: only what `prepare` stores is decoded.

    Raises:
      InputError: another format, damaged, too large, or not RGB with 8 bits a channel.
    """
    if not is_storable(raw):
        raise InputError("PNG or JPEG expected, got another format")
    try:
        Image.open(io.BytesIO(raw), formats=["PNG", "JPEG"]).close()  # the header: refuses what needs too much memory
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception as error:  # decoders raise what they like
        raise InputError(f"an image cannot be decoded: {error}") from error
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError("an RGB image of 8 bits a channel expected, got another or a damaged one")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def tiles(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Covers an image with the fewest pieces of `side` x `side` pixels, evenly spread; a smaller image gives one piece."""
    starts = [np.linspace(0, max(0, n - side), max(1, -(-n // side))).round().astype(int) for n in image.shape[:2]]
    for top in starts[0]:
        for left in starts[1]:
            yield image[top : top + side, left : left + side]


def read_preparation(folder: pathlib.Path) -> dict[str, Any]:
    """What `prepare` noted beside the records in a folder, see `prepare.prepare`; empty if an older version prepared them.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / PREPARATION
    if not path.is_file():
        return {}
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        kinds = (("source", str), ("options", dict), ("files", dict))
        good = all(isinstance(noted[name], kind) for name, kind in kinds)
        good = good and all(isinstance(size + time + checksum, int) for size, time, checksum in noted["files"].values())
        good = good and all(isinstance(name, str) and isinstance(side, int) for name, side in noted["sides"])
        if not good:
            raise ValueError("values of other types")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); move that folder away and prepare the dataset again"
        ) from error
    return noted


def fingerprint(folder: pathlib.Path, preparation: dict[str, Any]) -> str:
    """Tells the images of a prepared dataset from others; the same for two preparations of the same files with the same options.

    Args:
      folder: of the records.
      preparation: of `read_preparation`. Where it is empty, names and sizes of the files in the folder are compared.
    """
    if preparation:
        files = sorted((name, size, checksum) for name, (size, _, checksum) in preparation["files"].items())
        made_of: Any = [files, preparation["options"], preparation["sides"]]
    else:
        made_of = sorted((path.name, path.stat().st_size) for path in folder.iterdir())
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
