"""Draws sheets: rows of titled tiles on white. For the pictures of `report` and of `experiments.figures`."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

TILE, GAP, TITLE = 320, 8, 22  # pixels: longer side of a tile, space between tiles, height of a title
CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH = 40, 20, 152  # pixels, of `matrix`


class Tile(NamedTuple):
    """One image of a sheet; without an image, an empty place. A title may be empty."""

    title: str = ""
    image: Image.Image | None = None


def sheet(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Rows of tiles, left and top aligned. A place is as wide as the widest image of all; a row is as high as its highest image.

    A row without any title has no space for titles.
    """
    titles = [TITLE * any(tile.title for tile in row) for row in rows]
    heights = [max(tile.image.height for tile in row if tile.image) for row in rows]
    width = max(tile.image.width for row in rows for tile in row if tile.image)
    size = (max(map(len, rows)) * (width + GAP) + GAP, sum(titles) + sum(heights) + GAP * (len(rows) + 1))
    picture = Image.new("RGB", size, "white")
    pen, top = ImageDraw.Draw(picture), GAP
    for row, title, height in zip(rows, titles, heights, strict=True):
        for i, tile in enumerate(row):
            left = GAP + i * (width + GAP)
            pen.text((left, top), tile.title, fill="black", font_size=16)
            if tile.image:
                picture.paste(tile.image, (left, top + title))
        top += title + height + GAP
    return picture


def fit(image: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8, scaled so that the longer side has `TILE` pixels."""
    picture = Image.fromarray(image)
    size = [max(1, round(n * TILE / max(picture.size))) for n in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


def colours(values: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1], clipped, to (H, W, 3) uint8: dark blue to yellow (viridis)."""
    grey = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def matrix(labels: Sequence[str], values: np.ndarray) -> Image.Image:
    """A cell with its number and colour for each of `values`, (rows, columns) in [0, 1], and a label in front of each row."""
    size = (LABEL_WIDTH + values.shape[1] * CELL_WIDTH, values.shape[0] * CELL_HEIGHT)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for row, (label, shades) in enumerate(zip(labels, colours(values), strict=True)):
        y = row * CELL_HEIGHT
        pen.text((0, y), label[:20], fill="black", font_size=13)
        for column, shade in enumerate(shades.tolist()):
            x, value = LABEL_WIDTH + column * CELL_WIDTH, values[row, column]
            pen.rectangle((x, y, x + CELL_WIDTH - 2, y + CELL_HEIGHT - 2), fill=tuple(shade))
            pen.text((x + 4, y + 2), f"{value:.2f}", fill="black" if value > 0.6 else "white", font_size=12)
    return picture
