"""The correspondence network, what it finds, and the bicubic upsampling in front of it."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rrsr_jax.data.images import perspective_warp
from rrsr_jax.models import correspondence, matching, resampling
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.matching import match_patches
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import check_offsets, relative_error


def test_extractor_match_and_offsets_match_golden(golden, state_dict):
    z = golden("c2_matching")
    params = torch_layout.from_torch("c2_extractor", state_dict("c2_extractor"))
    a, b = jax.jit(CorrespondenceNet().apply)({"params": params}, z["lr_up"][None], z["ref"][None])
    assert relative_error(a, z["dense1"]) < 1e-4
    assert relative_error(b, z["dense2"]) < 1e-4
    index, score = match_patches(a, b)
    clear = z["match_gap"] > 1e-5
    np.testing.assert_array_equal(np.asarray(index[0])[clear], z["match_index"][clear])
    assert relative_error(score[0], z["match_score"]) < 1e-4
    check_offsets(jnp.asarray(z["match_index"][None], jnp.int32), 16, z)


@pytest.mark.parametrize("shape", [(12, 16), (7, 5), (33, 21)])
def test_upsampling_is_pillow_bit_for_bit(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((4 * shape[1], 4 * shape[0]), Image.Resampling.BICUBIC)
    got = resampling.bicubic_upsample(jnp.asarray(image[None], jnp.float32) / 255)
    np.testing.assert_array_equal(np.rint(np.asarray(got[0]) * 255), expected)


@pytest.mark.parametrize("shape", [(12, 16), (4, 8), (36, 20), (132, 108)])
def test_downsampling_is_pillow_bit_for_bit(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((shape[1] // 4, shape[0] // 4), Image.Resampling.BICUBIC)
    got = resampling.bicubic_downsample(jnp.asarray(image[None], jnp.float32) / 255)
    np.testing.assert_array_equal(np.rint(np.asarray(got[0]) * 255), expected)


def test_resampling_takes_what_no_8_bit_image_holds():
    """A reference may be a model's own output: beyond [0, 1] it counts as 0 or 1, and has no gradient."""
    image = jnp.asarray(np.random.default_rng(0).uniform(-3, 4, (1, 8, 12, 3)), jnp.float32)
    for resample in (resampling.bicubic_downsample, resampling.bicubic_upsample):
        np.testing.assert_array_equal(resample(image), resample(jnp.clip(image, 0, 1)))
        assert not jax.grad(lambda x, f=resample: f(x).sum())(image).any()


def test_untrained_branches_describe_alike():
    net = CorrespondenceNet((4, 8, 8))
    image = jnp.asarray(np.random.default_rng(0).random((1, 24, 24, 3)), jnp.float32)
    params = correspondence.untrained(net.init(jax.random.key(0), image, image)["params"])
    a, b = net.apply({"params": params}, image, image)
    np.testing.assert_array_equal(a, b)
    index, _ = match_patches(a, b)
    np.testing.assert_array_equal(matching.flow_from_match(index, 6), 0)


def test_correspondences_follow_the_warp():
    """A bright dot at a cell's pixel is found, in the warped image, where the cell is said to be."""
    rng = np.random.default_rng(4)
    homography = None
    for y, x in ((9, 5), (12, 20), (20, 14)):
        image = np.zeros((96, 128, 3), np.uint8)
        cv2.circle(image, (4 * x, 4 * y), 3, (255, 255, 255), -1)
        if homography is None:
            _, homography = perspective_warp(image, rng, 4, 9)
        warped = cv2.warpPerspective(image, homography, (128, 96)).astype(float)[..., 0]
        centre = [(warped.sum(1 - axis) * np.arange(warped.shape[axis])).sum() / warped.sum() for axis in (0, 1)]
        position, inside = correspondence.correspondences(homography[None].astype(np.float32), 96, 128)
        assert position.shape == (1, 24, 32, 2)
        assert inside[0, y, x]
        np.testing.assert_allclose(position[0, y, x], np.array(centre) / 4, atol=0.05)


def test_middles_of_cells_follow_a_change_of_scale():
    """At half the scale, the middle of cell 8, pixel 33.5, comes to pixel 16.75."""
    half = np.array([[[0.5, 0, 0], [0, 0.5, 8], [0, 0, 1]]], np.float32)
    position, _ = correspondence.correspondences(half, 64, 80, place=correspondence.CELL_MIDDLE)
    np.testing.assert_allclose(position[0, 8, 8], [(16.75 + 8 - 1.5) / 4, (16.75 - 1.5) / 4])


def test_positions_near_the_edge_are_not_used():
    shift = np.array([[[1, 0, 30], [0, 1, -20], [0, 0, 1]]], np.float32)
    position, inside = correspondence.correspondences(shift, 64, 80)
    np.testing.assert_allclose(position[0, 7, 2], [(28 - 20) / 4, (8 + 30) / 4])
    rows, columns = np.nonzero(inside[0])
    # 10 < 4 y - 20 < 54, 10 < 4 x + 30 < 70
    assert (rows.min(), rows.max()) == (8, 15)
    assert (columns.min(), columns.max()) == (0, 9)
