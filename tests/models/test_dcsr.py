"""DCSR against golden arrays of the authors' blocks, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import dcsr, published
from rrsr_jax.models.dcsr import DCSR
from rrsr_jax.models.search import cell_means
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import as_float, images, quick_jit, random_params, relative_error


def tiny_dcsr(**changes):
    fields = dict(
        features=4,
        encoder_blocks=1,
        ref_encoder_blocks=1,
        blocks=(1, 1, 1),
        align_features=3,
        match_features=5,
        vgg_channels=(4, 6, 8),
    )
    return DCSR(**{**fields, **changes})


@pytest.fixture(scope="module")
def params():
    return random_params(tiny_dcsr())


@quick_jit
def apply(params, lr, ref, valid_ref=None):
    """Result and intermediates; compiled once per shapes, which the tests therefore share."""
    sr, found = tiny_dcsr().apply({"params": params}, lr, ref, valid_ref, mutable=["intermediates"])
    return sr, {name: value for name, (value,) in found["intermediates"].items()}


@pytest.mark.parametrize(
    ("kind", "features"),
    [("dcsr_x2", {1: 4, 2: 8}), ("dcsr_x4", {2: 8, 4: 16})],
)
def test_matches_golden(kind, features, golden, state_dict):
    """Result, matches, alignments, loss, and its gradient to the reference."""
    z = as_float(golden(kind))
    params = torch_layout.from_torch(kind, state_dict(kind))

    def loss(ref, params):
        sr, found = published(kind).apply({"params": params}, z["lr"], ref, mutable=["intermediates"])
        return jnp.abs(sr - z["hr"]).mean(), (sr, found["intermediates"])

    (value, (sr, found)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(z["ref"], params)
    np.testing.assert_array_equal(found["match_index"][0], z["match_index"])
    assert relative_error(found["match_score"][0], z["match_score"]) < 1e-4
    for name in (name for name in z if name.startswith("affine") or name == "high_frequencies"):
        assert relative_error(found[name][0], z[name]) < 1e-4, name
    for scale, k in features.items():
        expected = z[f"features_{scale}x_every_{k}th_channel"]
        assert relative_error(found[f"aligned_{scale}x"][0][..., ::k], expected) < 1e-4
    assert relative_error(sr, z["sr"]) < 1e-4
    assert relative_error(value, z["l1"]) < 1e-5
    assert relative_error(gradient, z["grad_ref"]) < 5e-3


@pytest.mark.parametrize(("kind", "expected"), [("dcsr_x2", 3_193_372), ("dcsr_x4", 4_719_359)])
def test_parameters(kind, expected):
    variables = jax.eval_shape(published(kind).init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    assert sum(a.size for a in jax.tree.leaves(variables)) == expected


def test_other_factors_are_refused():
    with pytest.raises(ValueError, match="scale: 2 or 4 expected, got 3"):
        tiny_dcsr(scale=3).init(jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))


def test_a_reference_is_continued_to_whole_cells(params):
    lr, ref = images((1, 5, 7), (1, 18, 27))
    padded = jnp.pad(ref, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="edge")
    sr, _ = apply(params, lr, ref)
    assert sr.shape == (1, 20, 28, 3)
    np.testing.assert_allclose(sr, apply(params, lr, padded)[0], atol=1e-6)


def test_several_references(params):
    """Each cell takes the best of all."""
    lr, first, second = images((1, 5, 7), (1, 20, 28), (1, 16, 32))
    sr, found = apply(params, lr, [first, second])
    own = [apply(params, lr, ref)[1] for ref in (first, second)]
    second_is_better = own[1]["match_score"] > own[0]["match_score"]
    assert second_is_better.any()
    assert not second_is_better.all()
    np.testing.assert_array_equal(found["match_reference"], second_is_better)
    np.testing.assert_allclose(
        found["match_score"], np.maximum(own[0]["match_score"], own[1]["match_score"]), rtol=1e-5
    )
    cells = second_is_better[..., None]
    chosen = np.where(cells, own[1]["aligned_1x"], own[0]["aligned_1x"])
    np.testing.assert_allclose(found["aligned_1x"], chosen, atol=1e-5)
    assert np.abs(sr - apply(params, lr, first)[0]).max() > 1e-4


def test_padding_of_a_reference_is_not_matched(params):
    lr, ref = images((1, 5, 7), (1, 20, 28))
    valid = jnp.array([[12, 16]])
    row, column = np.divmod(apply(params, lr, ref, valid)[1]["match_index"][0], 7)
    assert row.max() == 1  # no patch around a cell of the last row or column would be whole
    assert column.max() == 2
    row, column = np.divmod(apply(params, lr, ref)[1]["match_index"][0], 7)
    assert row.max() > 1
    assert column.max() > 2


def test_images_of_a_batch_do_not_mix(params):
    lr, ref = images((2, 5, 7), (2, 20, 28))
    together, _ = apply(params, lr, ref)
    for i in range(2):
        np.testing.assert_allclose(together[i], apply(params, lr[i : i + 1], ref[i : i + 1])[0][0], atol=1e-5)
    assert np.abs(apply(params, lr, ref[::-1])[0] - together).mean() > 1e-4


def test_gradients_reach_every_parameter_and_the_reference(params):
    lr, ref, target = images((1, 5, 7), (1, 20, 28), (1, 20, 28))

    def loss(params, ref):
        return ((tiny_dcsr().apply({"params": params}, lr, ref) - target) ** 2).sum()

    by_params, by_ref = quick_jit(jax.grad(loss, (0, 1)))(params, ref)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref).max(-1) > 0).mean() > 0.3


@pytest.mark.parametrize("scale", [2, 4])
def test_maps_that_change_nothing_sample_pixels(scale):
    """Factors of 1 and no rotation: every pixel of a cell is sampled where it is, one further for the border."""
    rows, columns = dcsr._positions(jnp.ones((1, 2, 3, 3)), scale)
    grid = np.meshgrid(np.arange(1, 2 * scale + 1), np.arange(1, 3 * scale + 1), indexing="ij")
    np.testing.assert_allclose(rows[0], grid[0], atol=1e-5)
    np.testing.assert_allclose(columns[0], grid[1], atol=1e-5)


def test_maps_scale_and_turn_cells_around_their_middle():
    rows, columns = (p[0] for p in dcsr._positions(jnp.array([3.0, 2.0, 1.0]).reshape(1, 1, 1, 3), 2))
    np.testing.assert_allclose(rows, [[0, 0], [3, 3]])
    np.testing.assert_allclose(columns, [[0.5, 2.5], [0.5, 2.5]])
    quarter = jnp.array([1.0, 1.0, 1 + 1.5]).reshape(1, 1, 1, 3)  # 1.5 times 60 degrees
    rows, columns = (p[0] for p in dcsr._positions(quarter, 2))
    np.testing.assert_allclose(rows, [[2, 1], [2, 1]], atol=1e-4)
    np.testing.assert_allclose(columns, [[1, 1], [2, 2]], atol=1e-4)


def test_an_image_whose_averages_are_the_input_is_found_where_it_is(params):
    (hr,) = images((1, 20, 28))
    _, found = apply(params, cell_means(hr, 4), hr)
    np.testing.assert_array_equal(found["match_index"], np.arange(35).reshape(1, 5, 7))
    np.testing.assert_allclose(found["match_score"], 1, rtol=1e-5)
