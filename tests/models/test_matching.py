"""Patch matching against its definition, and pre-offsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import matching
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.search import match_patches_coarse_to_fine, match_references
from tests.helpers import check_offsets, relative_error


def unfolded_match(a, b, normalise=True):
    """The definition, in float64 with all patches unfolded: index and score, and the margin to the second best."""

    def patches(f):
        f = f.astype(np.float64)
        if normalise:
            f /= np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), 1e-12)
        windows = np.lib.stride_tricks.sliding_window_view(f, (3, 3), axis=(0, 1))
        flat = windows.reshape(*windows.shape[:2], -1)
        return flat / (np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-5)

    pa, pb = patches(a), patches(b)
    scores = pa.reshape(-1, pa.shape[-1]) @ pb.reshape(-1, pb.shape[-1]).T
    best = np.sort(scores, axis=1)
    shape = pa.shape[:2]
    return scores.argmax(1).reshape(shape), best[:, -1].reshape(shape), (best[:, -1] - best[:, -2]).reshape(shape)


def test_matches_golden(golden):
    z = golden("matching")
    index, score = match_patches(z["features_in"], z["features_ref"])
    clear = z["match_gap"] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(index[0])[clear], z["match_index"][clear])
    assert relative_error(score[0], z["match_score"]) < 1e-4
    check_offsets(jnp.asarray(z["match_index"][None], jnp.int32), 16, z)


@pytest.mark.parametrize("tile", [1, 500, 3_000, 2**22])
def test_every_tile_gives_the_definition(tile):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, *size, 10)).astype(np.float32) for size in ((9, 12), (14, 7)))
    index, score = match_patches(a, b, tile=tile)
    for i in range(2):
        expected, best, gap = unfolded_match(a[i], b[i])
        clear = gap > 1e-5
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(np.asarray(index[i])[clear], expected[clear])
        np.testing.assert_allclose(score[i], best, rtol=1e-5)


def test_pixels_need_not_be_normalised():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((1, *size, 10)) * rng.uniform(0.1, 3, (1, *size, 1)) for size in ((9, 12), (14, 7)))
    index, score = match_patches(a.astype(np.float32), b.astype(np.float32), normalise=False)
    expected, best, gap = unfolded_match(a[0], b[0], normalise=False)
    np.testing.assert_array_equal(np.asarray(index[0])[gap > 1e-5], expected[gap > 1e-5])
    np.testing.assert_allclose(score[0], best, rtol=1e-5)
    assert (expected != unfolded_match(a[0], b[0])[0]).mean() > 0.1


def test_tiles_do_not_change_the_result():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((1, 20, 21, 16)).astype(np.float32) for _ in range(2))
    untiled, _ = match_patches(a, b, tile=2**30)
    for tile in (1, 2_000, 20_000):
        np.testing.assert_array_equal(match_patches(a, b, tile=tile)[0], untiled)


@pytest.mark.parametrize("tile", [1, 700, 2**22])
def test_first_of_equal_patches_wins_whatever_the_tile(tile):
    # One-hot features: every product and sum is exact, so equal patches tie to the last bit.
    rng = np.random.default_rng(1)
    a, b = (np.eye(3, dtype=np.float32)[rng.integers(0, 3, (1, *size))] for size in ((8, 9), (13, 11)))
    index, _ = match_patches(a, b, tile=tile)
    expected, _, gap = unfolded_match(np.round(a[0]), np.round(b[0]))
    assert (gap == 0).mean() > 0.3
    np.testing.assert_array_equal(index[0], expected)


def test_memory_follows_the_tile():
    def temporary(size, tile):
        shape = jax.ShapeDtypeStruct((1, size, size, 8), jnp.float32)
        compiled = jax.jit(lambda a, b: match_patches(a, b, tile=tile)).lower(shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(96, 2**18) < 16 * 2**18 + 16 * 96 * 96 * 8
    assert temporary(96, 2**18) < temporary(96, 2**22) / 4


def test_offsets_of_a_shifted_reference_point_back():
    """A reference that is the input moved by (2, 3) cells: every tap that has a patch looks (2, 3) cells further."""
    rng = np.random.default_rng(2)
    ref = rng.standard_normal((1, 12, 15, 6)).astype(np.float32)
    index, _ = match_patches(ref[:, 2:, 3:], ref)
    flow = matching.flow_from_match(index, 15)
    np.testing.assert_array_equal(flow[0, :-2, :-2], np.broadcast_to([2, 3], (8, 10, 2)))
    np.testing.assert_array_equal(flow[0, -2:], 0)
    offsets = np.asarray(matching.pre_offsets(flow, 2))
    np.testing.assert_array_equal(offsets[0, 4:16, 4:20], np.broadcast_to([4, 6], (12, 16, 9, 2)))
    # Tap (i, j) is moved down by 2i and right by 2j, zeros first.
    np.testing.assert_array_equal(offsets[0, :2, :, 3], 0)
    np.testing.assert_array_equal(offsets[0, 2:16, :20, 3], np.broadcast_to([4, 6], (14, 20, 2)))
    np.testing.assert_array_equal(offsets[0, :, :2, 1], 0)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_large_image_needs_no_more_than_its_features_twice_and_a_tile():
    """1024 x 1024 descriptors against those of a 2500 x 500 stack: below 6 GB, for the search alone."""

    def compiled(h, w, hr, wr):
        shapes = (jax.ShapeDtypeStruct((1, *size, 256), jnp.float32) for size in ((h, w), (hr, wr)))
        return jax.jit(match_patches).lower(*shapes).compile().memory_analysis()

    memory = compiled(1024, 1024, 625, 125)
    tile = 4 * 2**22
    assert memory.temp_size_in_bytes < 1.02 * memory.argument_size_in_bytes + 3 * tile
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 6e9 / 2


def test_only_valid_patches_win():
    a, b = normal(0, 2, 9, 12, 10), normal(1, 2, 14, 11, 10)
    sizes = np.array([[6, 11], [9, 5]])
    index, score = jax.jit(match_patches, static_argnames="tile")(a, b, valid_ref=sizes, tile=500)
    for i, (h, w) in enumerate(sizes):
        expected, best, _ = unfolded_match(a[i], b[i, :h, :w])
        np.testing.assert_array_equal(index[i] // 9, expected // (w - 2))
        np.testing.assert_array_equal(index[i] % 9, expected % (w - 2))
        np.testing.assert_allclose(score[i], best, rtol=1e-5)
    whole = match_patches(a, b, valid_ref=np.array([[14, 11]] * 2))
    np.testing.assert_array_equal(whole[0], match_patches(a, b)[0])


def test_without_a_valid_patch_nothing_is_found():
    index, score = match_patches(normal(0, 1, 5, 5, 4), normal(1, 1, 6, 7, 4), valid_ref=np.array([[2, 7]]))
    np.testing.assert_array_equal(index, 0)
    np.testing.assert_array_equal(score, -np.inf)


def test_several_references_as_if_stacked():
    """But for patches across a seam, which a list does not have."""
    a, refs = normal(0, 2, 12, 11, 8), [normal(i, 2, 7 + 2 * i, 10, 8) for i in (1, 2, 3)]
    which, index, score = match_references(a, refs)
    stacked_index, stacked_score = match_patches(a, np.concatenate(refs, 1))
    tops = np.array([0, 9, 20])
    row = tops[which] + index // 8
    seam = stacked_index // 8 % 33
    clean = ~np.isin(seam, (7, 8, 18, 19))
    assert clean.mean() > 0.5
    np.testing.assert_array_equal(row[clean], seam[clean])
    np.testing.assert_array_equal((index % 8)[clean], (stacked_index % 8)[clean])
    np.testing.assert_allclose(score[clean], stacked_score[clean], rtol=1e-6)
    assert (score <= stacked_score + 1e-6).all()
    assert set(np.unique(which)) == {0, 1, 2}


def test_the_first_of_equal_references_wins():
    a = normal(0, 1, 6, 7, 5)
    which, index, _ = match_references(
        a, [normal(1, 1, 4, 4, 5), a, a], valid_refs=[np.array([[4, 4]])] + [np.array([[6, 7]])] * 2
    )
    np.testing.assert_array_equal(which, 1)
    np.testing.assert_array_equal(index[0], np.arange(20).reshape(4, 5))


def test_bfloat16_products_change_close_matches_only():
    a, b = normal(0, 1, 16, 17, 64), normal(1, 1, 20, 18, 64)
    index, score = match_patches(a, b, dtype=jnp.bfloat16)
    expected, best, gap = unfolded_match(a[0], b[0])
    same = np.asarray(index[0]) == expected
    assert 0.9 < same.mean() < 1 or same.all()
    assert same[gap > 0.01].all()
    np.testing.assert_allclose(score[0], best, atol=0.005)
    assert (np.asarray(score[0]) != np.asarray(match_patches(a, b)[1][0])).any()


def smooth(seed, *shape):
    """Features with structure at a coarse scale, as an image has."""
    small = normal(seed, shape[0], -(-shape[1] // 6), -(-shape[2] // 6), shape[3])
    return np.asarray(jax.image.resize(small, shape, "cubic") + 0.1 * normal(seed + 1, *shape))


@pytest.mark.parametrize(("h", "w"), [(32, 36), (37, 30)])
def test_coarse_to_fine_finds_a_moved_image(h, w):
    ref = smooth(0, 2, 64, 60, 24)
    a = ref[:, 9 : 9 + h, 14 : 14 + w] + 0.05 * normal(5, 2, h, w, 24)
    index, score = match_patches_coarse_to_fine(a, ref, factor=4)
    exact, best = match_patches(a, ref)
    np.testing.assert_array_equal(exact // 58 - np.arange(h - 2)[None, :, None], 9)
    assert (np.asarray(index) == np.asarray(exact)).mean() > 0.97
    found = np.asarray(index) == np.asarray(exact)
    np.testing.assert_allclose(np.asarray(score)[found], np.asarray(best)[found], rtol=1e-5)


def test_coarse_to_fine_follows_parts_that_move_apart():
    ref = smooth(0, 2, 64, 72, 24)
    a = np.concatenate([ref[:, 4:40, 40:64], ref[:, 24:60, 5:29]], 2)
    index, _ = match_patches_coarse_to_fine(a, ref, factor=4)
    exact, _ = match_patches(a, ref)
    assert set(np.unique(exact[:, 4:-4, 4:18] // 70 - np.arange(4, 30)[None, :, None])) == {4}
    assert set(np.unique(exact[:, 4:-4, 28:42] // 70 - np.arange(4, 30)[None, :, None])) == {24}
    for part in np.s_[:, 4:-4, 4:18], np.s_[:, 4:-4, 28:42]:
        assert (np.asarray(index)[part] == np.asarray(exact)[part]).mean() > 0.95


@pytest.mark.parametrize("size", [(40, 46), (11, 46), (3, 46), (40, 7)])
def test_coarse_to_fine_keeps_to_what_is_valid(size):
    """The padding holds what the input shows; the valid part has something to find everywhere, too."""
    ref = smooth(0, 1, 64, 60, 16)
    a = ref[:, 40:62, 20:44]
    index, score = match_patches_coarse_to_fine(a, ref, factor=4, valid_ref=np.array([size]))
    y, x = np.asarray(index) // 58, np.asarray(index) % 58
    assert np.isfinite(score).all()
    assert y.max() <= size[0] - 3
    assert x.max() <= size[1] - 3


def test_coarse_to_fine_without_a_valid_patch_finds_nothing():
    a = smooth(0, 1, 40, 40, 8)
    index, score = match_patches_coarse_to_fine(a, a, valid_ref=np.array([[40, 2]]))
    np.testing.assert_array_equal(index, 0)
    np.testing.assert_array_equal(score, -np.inf)


def test_a_thin_reference_is_found_along_its_length():
    ref = smooth(0, 1, 64, 64, 24)
    a = ref[:, :11, 30:50]
    big = np.concatenate([a, normal(3, 1, 10, 20, 24)], 1)
    index, _ = match_patches_coarse_to_fine(big, ref, factor=4, valid_ref=np.array([[14, 64]]))
    assert (np.asarray(index)[:, :8] % 62 == 30 + np.arange(18)).mean() > 0.8


@pytest.mark.parametrize("factor", [1, 0, -2])
def test_factors_that_mean_nothing(factor):
    with pytest.raises(ValueError, match="a factor of at least 2 expected"):
        match_patches_coarse_to_fine(smooth(0, 1, 40, 40, 8), smooth(0, 1, 40, 40, 8), factor=factor)


def test_padding_costs_nothing(monkeypatch):
    a, b = normal(0, 1, 6, 7, 4), normal(1, 1, 40, 9, 4)
    visits, compare = [], matching.best_in_block

    def counted(*arguments):
        jax.debug.callback(lambda: visits.append(1))
        return compare(*arguments)

    monkeypatch.setattr(matching, "best_in_block", counted)
    counts = []
    for rows in (40, 9, 2):
        visits.clear()
        match_patches(a, b, valid_ref=np.array([[rows, 9]]), tile=500)
        jax.effects_barrier()
        counts.append(len(visits))
    whole, some, none = counts
    assert none <= some <= whole / 3


def test_lists_that_do_not_fit():
    a = normal(0, 1, 6, 7, 4)
    assert [x.shape for x in match_references(a, [a])] == [(1, 4, 5)] * 3
    for refs, valid in (([], None), ([a, a], [np.array([[6, 7]])])):
        with pytest.raises(ValueError, match="at least one reference, and the valid size of each, expected"):
            match_references(a, refs, valid_refs=valid)


def test_coarse_to_fine_scores_are_those_of_its_matches():
    a, b = smooth(0, 1, 30, 33, 12), smooth(7, 1, 41, 38, 12)
    sizes = np.array([[35, 30]])
    index, score = match_patches_coarse_to_fine(a, b, factor=3, valid_ref=sizes, tile=3_000)
    y, x = np.asarray(index[0]) // 36, np.asarray(index[0]) % 36
    assert y.max() <= 32
    assert x.max() <= 27
    for i, j in ((0, 0), (27, 30), (13, 5), (26, 29)):
        expected = pair_score(a[0, i : i + 3, j : j + 3], b[0, y[i, j] : y[i, j] + 3, x[i, j] : x[i, j] + 3])
        np.testing.assert_allclose(score[0, i, j], expected, rtol=1e-5)


def pair_score(*patches):
    p, q = (f / np.linalg.norm(f, axis=-1, keepdims=True) for f in patches)
    return (p * q).sum() / (np.linalg.norm(p) + 1e-5) / (np.linalg.norm(q) + 1e-5)


def test_small_images_are_matched_exhaustively():
    a, b = normal(0, 1, 9, 12, 10), normal(1, 1, 14, 11, 10)
    for got, expected in zip(match_patches_coarse_to_fine(a, b, factor=4), match_patches(a, b), strict=True):
        np.testing.assert_array_equal(got, expected)
