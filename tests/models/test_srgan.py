"""SRGAN's generator and BasicSR's variant of it against golden arrays, and their batch normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from rrsr_jax import models, weights
from rrsr_jax.models.layers import STATISTICS, BatchNorm
from tests.helpers import relative_error


@pytest.fixture(scope="module")
def srgan(golden, state_dict):
    """Module, parameters in double precision, and golden arrays."""
    params = weights.from_torch("srgan", state_dict("srgan"))
    return models.published("srgan"), jax.tree.map(np.float64, params), golden("srgan")


def test_parameters_as_published(srgan):
    flat = traverse_util.flatten_dict(srgan[1])
    assert sum(a.size for path, a in flat.items() if path[-1] not in STATISTICS) == 1_547_350


def test_with_running_statistics(srgan):
    model, params, z = srgan
    params = jax.tree.map(np.float32, params)
    lr = jnp.float32(z["lr"] / 255)
    sr = model.apply({"params": params}, lr, lr)
    assert relative_error(sr, z["raw_eval"]) < 1e-5


def test_with_statistics_of_the_batch(srgan):
    """Result, running statistics, loss and gradients; in double precision, see `test_discriminators`."""
    model, params, z = srgan
    with jax.enable_x64(True):
        lr, hr = (jnp.asarray(z[name] / 255) for name in ("lr", "hr"))

        @functools.partial(jax.value_and_grad, has_aux=True)
        def loss(params):
            sr, new = model.apply({"params": params}, lr, lr, train=True, mutable=["batch_stats"])
            return ((sr - hr) ** 2).mean(), (sr, new["batch_stats"])

        (mse, (sr, statistics)), gradient = loss(params)
        assert relative_error(sr, z["raw_train"]) < 1e-6
        assert relative_error(mse, z["mse_train"]) < 1e-6
        after, gradients = (weights.to_torch("srgan", tree) for tree in (statistics, gradient))
    for key, expected in z.items():
        part, _, name = key.partition("/")
        if part in ("grad", "after"):
            assert relative_error((after if part == "after" else gradients)[name], expected) < 1e-4, key
    paths = {path for path in traverse_util.flatten_dict(params) if path[-1] in STATISTICS}
    assert traverse_util.flatten_dict(statistics).keys() == paths
    assert not any(np.any(traverse_util.flatten_dict(gradient)[path]) for path in paths)


def test_msrresnet(golden, state_dict):
    z, params = golden("msrresnet"), weights.from_torch("msrresnet", state_dict("msrresnet"))
    assert sum(a.size for a in jax.tree.leaves(params)) == 1_517_571
    lr = jnp.float32(z["lr"] / 255)
    assert relative_error(models.published("msrresnet").apply({"params": params}, lr, lr), z["sr"]) < 1e-5


@pytest.mark.parametrize("in_params", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
def test_batch_normalisation_by_hand(in_params, shards):
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (4, 5, 3, 6)).astype(np.float32)
    scale, bias, mean, var = (rng.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4))
    running, trained = {"mean": mean, "var": var}, {"scale": scale, "bias": bias}
    variables = {"params": trained | running} if in_params else {"params": trained, "batch_stats": running}
    norm = BatchNorm(in_params, axis_name="data" if shards > 1 else None)

    def normalise(x):
        return norm.apply(variables, x, True, mutable=["batch_stats"])

    if shards > 1:
        y, new = jax.vmap(normalise, axis_name="data")(x.reshape(shards, -1, *x.shape[1:]))
        y, new = y.reshape(x.shape), jax.tree.map(lambda a: a[0], new)
    else:
        y, new = normalise(x)
    flat = x.reshape(-1, 6).astype(np.float64)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(y.reshape(-1, 6), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 * mean + 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 * var + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    y, same = norm.apply(variables, x, False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same.get("batch_stats", {}), {} if in_params else running)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)
