"""Draws a part of the example, before and after: `python docs/example.py docs/example.jpg`."""

import sys
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw

from rrsr_jax import Upscaler
from rrsr_jax.inference.example import write_example

TOP, LEFT, HEIGHT, WIDTH, GAP = 120, 250, 200, 230, 8


def main(path: str) -> None:
    """Saves a picture of the input, enlarged; the reference; the result; and the photograph that the input was reduced from."""
    with tempfile.TemporaryDirectory() as folder:
        photo, reference = (Image.open(file, formats=["PNG"]).convert("RGB") for file in write_example(Path(folder)))
    result = Upscaler("photo")(photo, [reference])
    pictures = {
        "input, enlarged (bicubic)": photo.resize(result.size, Image.Resampling.BICUBIC),
        "reference, another view": reference,
        "result": result,
        "ground truth": Image.fromarray(skimage.data.stereo_motorcycle()[0]),
    }
    sheet = Image.new("RGB", (len(pictures) * (WIDTH + GAP) + GAP, HEIGHT + GAP + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(pictures.items()):
        left = GAP + i * (WIDTH + GAP)
        draw.text((left, 4), label, fill="black", font_size=15)
        sheet.paste(image.crop((LEFT, TOP, LEFT + WIDTH, TOP + HEIGHT)), (left, 24))
    sheet.save(path, quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
