"""A pair to try the program with: two photographs by cameras side by side, which are part of scikit-image."""

import pathlib

import skimage.data

from rrsr_jax.data.images import downscale
from rrsr_jax.data.pictures import to_picture, write_picture


def write_example(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `photo.png`, 185 x 125 pixels, and `reference.png`, 741 x 500, to `folder`, and gives their paths.

    The photo is one photograph at a quarter of its size, the reference is the other one at full size.

    Raises:
      InputError: the folder cannot be written.
    """
    left, right, _ = skimage.data.stereo_motorcycle()
    height, width = (n // 4 * 4 for n in left.shape[:2])
    photo, reference = folder / "photo.png", folder / "reference.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(photo, to_picture(downscale(left[:height, :width])), force=True)
    write_picture(reference, to_picture(right), force=True)
    return photo, reference
