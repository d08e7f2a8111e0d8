"""Draws the random perspective warp of reciprocal training (the paper's Fig. 3): `python docs/warp.py docs/warp.jpg`."""

import sys

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

from rrsr_jax.data.images import downscale, perspective_warp

SIZE, SCALE, GAP = 160, 2, 12


def main(path: str) -> None:
    """Saves a picture of a reference, its warp, and the low-resolution version of the warp."""
    ref = skimage.data.astronaut()[64 : 64 + SIZE, 144 : 144 + SIZE]
    ref_p, _ = perspective_warp(ref, np.random.default_rng(4))
    pictures = {"ref": ref, "ref_p, warped": ref_p, "ref_lr_p, at a quarter of the size": downscale(ref_p)}
    side = SIZE * SCALE
    sheet = Image.new("RGB", (len(pictures) * (side + GAP) + GAP, side + GAP + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(pictures.items()):
        left = GAP + i * (side + GAP)
        draw.text((left, 4), label, fill="black", font_size=15)
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (left, 24))
    sheet.save(path, quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
