"""SSEN against golden arrays of another implementation (its authors published none), and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models.ssen import SSEN, NonLocal, OffsetEstimator
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import as_float, images, quick_jit, random_params, relative_error


def tiny_ssen(**changes):
    return SSEN(**{**dict(features=4, encoder_blocks=1, blocks=1), **changes})


@pytest.fixture(scope="module")
def params():
    return random_params(tiny_ssen())


@quick_jit
def apply(params, lr, ref):
    return tiny_ssen().apply({"params": params}, lr, ref)


def test_matches_golden(golden, state_dict):
    """Result, offsets, features, loss, and its gradient to the reference."""
    z = as_float(golden("ssen"))
    params = torch_layout.from_torch("ssen", state_dict("ssen"))

    def loss(ref, params):
        sr, found = SSEN().apply({"params": params}, z["lr"], ref, mutable=["intermediates"])
        return jnp.sqrt((sr - z["hr"]) ** 2 + 1e-6).mean(), (sr, found["intermediates"])

    (value, (sr, found)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(z["ref"], params)
    assert relative_error(sr, z["sr"]) < 1e-4
    assert relative_error(value, z["charbonnier"]) < 1e-5
    assert relative_error(gradient, z["grad_ref"]) < 5e-3
    for i in (1, 2, 3):
        assert relative_error(found[f"offset_{i}"][0], z[f"offset_{i}"]) < 1e-4
    for name in ("features_ref", "aligned_1", "aligned_3"):
        assert relative_error(found[name][0][..., ::4], z[f"{name}_every_4th_channel"]) < 1e-4, name


def test_parameters():
    variables = jax.eval_shape(SSEN().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    assert sum(a.size for a in jax.tree.leaves(variables)) == 3_286_617


def test_estimators_start_without_offsets_and_without_attention():
    params = quick_jit(OffsetEstimator(4).init)(jax.random.key(0), jnp.ones((1, 8, 8, 6)))["params"]
    zero = {jax.tree_util.keystr(path) for path, value in jax.tree.leaves_with_path(params) if not value.any()}
    parts = ["['head']", *(f"['non_local_{k}']['out']" for k in range(3))]
    assert zero == {f"{part}['{leaf}']" for part in parts for leaf in ("kernel", "bias")}


def test_any_sizes_by_continuing_images_to_whole_cells(params):
    lr, ref = images((1, 13, 6), (1, 52, 24))
    sr = apply(params, lr, ref)
    assert sr.shape == (1, 52, 24, 3)
    lr, ref = (jnp.pad(x, ((0, 0), (0, 3 * k), (0, 2 * k), (0, 0)), mode="edge") for x, k in ((lr, 1), (ref, 4)))
    np.testing.assert_allclose(apply(params, lr, ref)[:, :52, :24], sr, atol=1e-5)


def test_a_reference_of_another_size_is_resized(params):
    lr, ref = images((1, 16, 8), (1, 40, 100))
    expected = apply(params, lr, jax.image.resize(ref, (1, 64, 32, 3), "cubic"))
    np.testing.assert_allclose(apply(params, lr, ref), expected, atol=1e-5)


def test_gradients_reach_every_parameter_and_the_reference_and_images_do_not_mix(params):
    lr, ref, target = images((2, 16, 8), (2, 64, 32), (2, 64, 32))

    def loss(params, ref):
        return ((tiny_ssen().apply({"params": params}, lr, ref) - target)[0] ** 2).sum()

    by_params, by_ref = quick_jit(jax.grad(loss, (0, 1)))(params, ref)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(gradient).all(), path
        # A bias of the keys adds the same to all scores of a query, and the softmax takes it away.
        assert gradient.any() or "['phi']['bias']" in jax.tree_util.keystr(path), path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref[0]).max(-1) > 0).mean() > 0.3
    assert not by_ref[1].any()


def test_attention_of_large_images_is_the_same_in_parts():
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)
    params = jax.tree.map(lambda a: a + 0.3, NonLocal(2).init(jax.random.key(0), x))
    whole = NonLocal(2).apply(params, x)
    for tile in (1, 420):  # one query at a time, and seven
        np.testing.assert_allclose(NonLocal(2, tile).apply(params, x), whole, atol=1e-5)
    layers = (params["params"][name] for name in ("theta", "phi", "g"))
    q, k, v = (x.reshape(2, 30, 4) @ layer["kernel"][0, 0] + layer["bias"].reshape(1, 1, -1) for layer in layers)
    weights = np.exp(np.einsum("nqc,nlc->nql", q, k))
    found = np.einsum("nql,nlc->nqc", weights / weights.sum(-1, keepdims=True), v).reshape(2, 5, 6, 2)
    out = params["params"]["out"]
    np.testing.assert_allclose(whole, x + found @ out["kernel"][0, 0] + out["bias"].reshape(1, 1, 1, -1), atol=1e-4)
