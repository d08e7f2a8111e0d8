"""Sheets: rows of titled tiles."""

import numpy as np
from PIL import Image

from rrsr_jax.evaluation import drawing
from rrsr_jax.evaluation.drawing import GAP, TITLE, Tile


def solid(width, height, colour):
    return Image.new("RGB", (width, height), colour)


def test_tiles_stand_in_rows_on_white():
    rows = [
        [Tile("first", solid(30, 20, "red")), Tile("second", solid(20, 40, "lime"))],
        [Tile(), Tile(image=solid(30, 10, "blue"))],
    ]
    picture = drawing.sheet(rows)
    assert picture.size == (2 * 30 + 3 * GAP, TITLE + 40 + 10 + 3 * GAP)
    pixels = np.asarray(picture)
    top, second = GAP + TITLE, 2 * GAP + 30
    assert (pixels[top : top + 20, GAP : GAP + 30] == (255, 0, 0)).all()
    assert (pixels[top : top + 40, second : second + 20] == (0, 255, 0)).all()
    assert (pixels[top + 40 + GAP : top + 50 + GAP, second : second + 30] == (0, 0, 255)).all()
    assert (pixels[top + 20 : top + 40, GAP : GAP + 30] == 255).all()
    assert (pixels[top + 40 + GAP :, :second] == 255).all()
    assert (pixels[GAP : GAP + TITLE, GAP : GAP + 30] < 128).any()  # the title


def test_a_matrix_has_a_cell_of_its_colour_for_every_value():
    values = np.array([[0.0, 1.0, 0.5], [0.25, 0.75, 0.1]])
    pixels = np.asarray(drawing.matrix(["a", "b"], values))
    for row in range(2):
        for column in range(3):
            corner = pixels[drawing.CELL_HEIGHT * row, drawing.LABEL_WIDTH + drawing.CELL_WIDTH * column]
            np.testing.assert_array_equal(corner, drawing.colours(values)[row, column])


def test_tiles_keep_their_proportions():
    assert drawing.fit(np.zeros((40, 20, 3), np.uint8)).size == (drawing.TILE // 2, drawing.TILE)
    assert drawing.fit(np.zeros((1, 2000, 3), np.uint8)).size == (drawing.TILE, 1)
