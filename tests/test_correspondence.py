"""Matching, pre-offsets, and the bicubic upsampling in front of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rrsr_jax import weights
from rrsr_jax.models import correspondence
from rrsr_jax.models.correspondence import CorrespondenceNet, match_patches
from tests.conftest import relative_error


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


def check_offsets(index, ref_width, expected):
    flow = correspondence.flow_from_match(index, ref_width)
    for scale, name in ((1, "relu3_1"), (2, "relu2_1"), (4, "relu1_1")):
        got = correspondence.pre_offsets(flow, scale).transpose(0, 3, 1, 2, 4)[..., ::-1]  # golden: tap first, (x, y)
        np.testing.assert_array_equal(got, expected[f"pre_offset_{name}"])


def test_matches_golden(golden):
    z = golden("matching")
    index, score = match_patches(z["features_in"], z["features_ref"])
    clear = z["match_gap"] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(index[0])[clear], z["match_index"][clear])
    assert relative_error(score[0], z["match_score"]) < 1e-4
    check_offsets(jnp.asarray(z["match_index"][None], jnp.int32), 16, z)


def test_extractor_match_and_offsets_match_golden(golden, state_dict):
    z = golden("c2_matching")
    params = weights.from_torch("c2_extractor", state_dict("c2_extractor"))
    a, b = jax.jit(CorrespondenceNet().apply)({"params": params}, z["lr_up"][None], z["ref"][None])
    assert relative_error(a, z["dense1"]) < 1e-4
    assert relative_error(b, z["dense2"]) < 1e-4
    index, score = match_patches(a, b)
    clear = z["match_gap"] > 1e-5
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
    flow = correspondence.flow_from_match(index, 15)
    np.testing.assert_array_equal(flow[0, :-2, :-2], np.broadcast_to([2, 3], (8, 10, 2)))
    np.testing.assert_array_equal(flow[0, -2:], 0)
    offsets = np.asarray(correspondence.pre_offsets(flow, 2))
    np.testing.assert_array_equal(offsets[0, 4:16, 4:20], np.broadcast_to([4, 6], (12, 16, 9, 2)))
    # Tap (i, j) is moved down by 2i and right by 2j, zeros first.
    np.testing.assert_array_equal(offsets[0, :2, :, 3], 0)
    np.testing.assert_array_equal(offsets[0, 2:16, :20, 3], np.broadcast_to([4, 6], (14, 20, 2)))
    np.testing.assert_array_equal(offsets[0, :, :2, 1], 0)


@pytest.mark.parametrize("shape", [(12, 16), (7, 5), (33, 21)])
def test_upsampling_is_pillow_bit_for_bit(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((4 * shape[1], 4 * shape[0]), Image.Resampling.BICUBIC)
    got = correspondence.bicubic_upsample(jnp.asarray(image[None], jnp.float32) / 255)
    np.testing.assert_array_equal(np.rint(np.asarray(got[0]) * 255), expected)


@pytest.mark.parametrize("shape", [(12, 16), (4, 8), (36, 20), (132, 108)])
def test_downsampling_is_pillow_bit_for_bit(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((shape[1] // 4, shape[0] // 4), Image.Resampling.BICUBIC)
    got = correspondence.bicubic_downsample(jnp.asarray(image[None], jnp.float32) / 255)
    np.testing.assert_array_equal(np.rint(np.asarray(got[0]) * 255), expected)


def test_resampling_takes_what_no_8_bit_image_holds():
    """A reference may be a model's own output: beyond [0, 1] it counts as 0 or 1, and has no gradient."""
    image = jnp.asarray(np.random.default_rng(0).uniform(-3, 4, (1, 8, 12, 3)), jnp.float32)
    for resample in (correspondence.bicubic_downsample, correspondence.bicubic_upsample):
        np.testing.assert_array_equal(resample(image), resample(jnp.clip(image, 0, 1)))
        assert not jax.grad(lambda x, f=resample: f(x).sum())(image).any()


def test_untrained_branches_describe_alike():
    net = CorrespondenceNet((4, 8, 8))
    image = jnp.asarray(np.random.default_rng(0).random((1, 24, 24, 3)), jnp.float32)
    params = correspondence.untrained(net.init(jax.random.key(0), image, image)["params"])
    a, b = net.apply({"params": params}, image, image)
    np.testing.assert_array_equal(a, b)
    index, _ = match_patches(a, b)
    np.testing.assert_array_equal(correspondence.flow_from_match(index, 6), 0)
