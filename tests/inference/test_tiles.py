"""Tiles cover every image, and their results are far enough from their edges."""

import numpy as np
import pytest

from rrsr_jax.inference import tiles


@pytest.mark.parametrize("overlap", [0, 3, 8, 20, 100])
@pytest.mark.parametrize("size", [1, 12, 33, 64, 95, 128, 250, 257, 300, 1001])
def test_spans_cover_an_axis_once_and_keep_their_distance(size, overlap):
    spans = tiles.spans(size, overlap)
    length = spans[0].stop - spans[0].start
    assert [s.first for s in spans] == [0, *(s.last for s in spans[:-1])]
    assert spans[-1].last == size
    for span in spans:
        assert span.stop - span.start == length
        assert 0 <= span.start <= span.first < span.last <= span.stop <= size
        assert span.start == 0 or span.first - span.start >= overlap
        assert span.stop == size or span.stop - span.last >= overlap
    assert length == size or length >= 3 * overlap


@pytest.mark.parametrize("size", [4 * n for n in (5, 9, 17, 33, 65, 100)])
def test_spans_of_multiples_start_at_multiples(size):
    assert all(value % 4 == 0 for span in tiles.spans(size, 8) for value in span)


def test_few_lengths():
    """Of all sizes up to 4000 only those that are smaller than the smallest side have their own."""
    lengths = {span.stop - span.start for size in range(4001) for span in tiles.spans(size, 4)[:1] if size}
    assert lengths == {*range(1, 32), *tiles.SIDES}
    assert max(tiles.spans(size, 4, largest=96)[0].stop for size in range(96, 900)) == 96


def test_little_is_computed_twice():
    for size, overlap in ((512, 12), (512, 4), (480, 3), (1000, 17), (4000, 4)):
        spans = tiles.spans(size, overlap)
        assert sum(span.stop - span.start for span in spans) < 1.3 * size


def test_an_image_is_cut_and_pasted_at_two_scales(monkeypatch):
    """Height and width differ, so do rows and columns of tiles."""
    monkeypatch.setattr(tiles, "SIDES", (8, 12))
    image = np.random.default_rng(0).random((23, 38, 3), np.float32)
    double, half = (np.zeros(shape, np.float32) for shape in ((46, 76, 3), (12, 19, 3)))
    for tile, part in tiles.computed(tiles.tiles_of((23, 38), 2), lambda tile: tile.cut(image)):
        tile.paste(double, part.repeat(2, 1).repeat(2, 2), scale=2)
    np.testing.assert_array_equal(double, image.repeat(2, 0).repeat(2, 1))
    for tile in tiles.tiles_of((24, 38), 2):
        tile.paste(
            half, tile.cut(double[:24, :38]).reshape(1, tile.y.stop - tile.y.start, -1, 3)[:, ::2, ::2], shrink=2
        )
    np.testing.assert_array_equal(half, double[:24:2, :38:2])
    assert sum(tile.pixels() for tile in tiles.tiles_of((23, 38), 2)) == 23 * 38


def test_buckets():
    sizes = np.arange(1, 5000)
    buckets = np.array([tiles.bucket(int(n)) for n in sizes])
    assert (buckets >= sizes).all()
    assert (buckets - sizes < np.maximum(16, sizes / 8 + 1)).all()
    assert (buckets % 16 == 0).all()
    assert len(set(buckets)) < 60
