"""NLSN against golden arrays of its authors' program, and its attention against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.models.nlsn import NLSN, NonLocalSparseAttention, buckets, hash_codes, sparse_attention
from tests.helpers import images, random_params, relative_error

TINY = NLSN(features=8, groups=1, blocks=1, chunk=9, rounds=2)


@pytest.mark.parametrize("case", ["1", "2"])
def test_attention_matches_release(case, golden):
    """Case 1 has as many buckets as there may be, case 2 two chunks, which are each other's neighbours twice."""
    z = {k.removeprefix(f"{case}/"): v for k, v in golden("nlsa").items() if k.startswith(f"{case}/")}
    names = {"match": "conv_match.0", "assembly": "conv_assembly.0"}
    params = {
        name: {"kernel": z[f"{key}.weight"].transpose(2, 3, 1, 0), "bias": z[f"{key}.bias"]}
        for name, key in names.items()
    }
    chunk, rounds = z["config"].tolist()
    attention = NonLocalSparseAttention(chunk, rounds, float(z["res_scale"]))
    apply = jax.jit(functools.partial(attention.apply, mutable=["intermediates"]))
    y, found = apply({"params": params}, z["x"], z["rotations"])
    np.testing.assert_array_equal(found["intermediates"]["hash_codes"][0], z["hash_codes"])
    assert relative_error(y, z["y"]) < 1e-5
    assert buckets(z["x"].shape[1] * z["x"].shape[2], chunk) == 2 * z["rotations"].shape[-1]


def test_small_network_and_its_gradients(golden, state_dict):
    z, params = golden("nlsn_small"), weights.from_torch("nlsn_small", state_dict("nlsn_small"))
    model = models.published("nlsn_small")

    def run(params, lr, case):
        rotations = [z[f"{case}/rotations/{i}"] for i in range(2)]
        sr, found = model.apply({"params": params}, lr, lr, rotations, mutable=["intermediates"])
        return sr, [found["intermediates"][f"attention_{i}"]["hash_codes"][0] for i in range(2)]

    def loss(params, lr, hr):
        sr, codes = run(params, lr, 0)
        return jnp.abs(sr - hr).mean(), codes

    lr, hr = (jnp.float32(z[f"0/{name}"] / 255) for name in ("lr", "hr"))
    (l1, codes), (gradient, gradient_lr) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, lr, hr)
    for i in range(2):
        np.testing.assert_array_equal(codes[i], z[f"0/hash_codes/{i}"])
    assert relative_error(l1, z["0/l1"]) < 1e-5
    found = {**weights.to_torch("nlsn_small", gradient), "lr": np.asarray(gradient_lr)}
    for key in (key for key in z if key.startswith("0/grad/")):
        assert relative_error(found[key.removeprefix("0/grad/")], z[key]) < 1e-3, key
    sr, codes = run(params, jnp.float32(z["1/lr"] / 255), 1)
    for i in range(2):
        np.testing.assert_array_equal(codes[i], z[f"1/hash_codes/{i}"])
    assert relative_error(sr, z["1/sr"]) < 1e-5


def test_published_network(golden, state_dict):
    z, params = golden("nlsn"), weights.from_torch("nlsn", state_dict("nlsn"))
    assert sum(a.size for a in jax.tree.leaves(params)) == 44_156_483
    lr, rotations = jnp.float32(z["lr"] / 255), [z[f"rotations/{i}"] for i in range(5)]
    sr, found = models.published("nlsn").apply({"params": params}, lr, lr, rotations, mutable=["intermediates"])
    for i in range(5):
        codes = found["intermediates"][f"attention_{i}"]["hash_codes"][0]
        np.testing.assert_array_equal(codes, z[f"hash_codes/{i}"])
    assert relative_error(sr, z["sr"]) < 1e-5


@pytest.mark.parametrize(("length", "chunk"), [(13, 4), (12, 4), (7, 4), (5, 5), (3, 3)])
def test_attention_by_loops(length, chunk):
    """Chunks that are filled up, that come out even, two of them, and a single one."""
    rng = np.random.default_rng(0)
    q, v = rng.standard_normal((2, length, 3)), rng.standard_normal((2, length, 5))
    codes = rng.integers(0, 4, (2, 2, length))
    expected = np.zeros_like(v)
    for n in range(2):
        outputs, totals = np.zeros((2, length, 5)), np.zeros((2, length))
        for r in range(2):
            order = sorted(range(length), key=lambda i, n=n, r=r: (codes[n, r, i], i))
            missing = -length % chunk
            filled = order + order[length - missing :]
            chunks = [filled[i : i + chunk] for i in range(0, len(filled), chunk)]
            for k, positions in enumerate(chunks):
                seen = positions + chunks[k - 1] + chunks[(k + 1) % len(chunks)]
                for place, i in enumerate(positions):
                    if k * chunk + place >= length:
                        continue  # a copy
                    weight = np.exp([q[n, i] @ q[n, j] / np.linalg.norm(q[n, j]) for j in seen])
                    outputs[r, i] = weight @ v[n, seen] / weight.sum()
                    totals[r, i] = weight.sum()
        expected[n] = (outputs * totals[..., None]).sum(0) / totals.sum(0)[:, None]
    got = sparse_attention(*(jnp.float32(x) for x in (q, v)), jnp.asarray(codes), chunk)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_opposite_queries_have_codes_half_the_buckets_apart():
    q, rotations = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 9, 4), (4, 3, 5)]))
    codes = hash_codes(q, rotations)
    np.testing.assert_array_equal((codes + 5) % 10, hash_codes(-q, rotations))
    np.testing.assert_array_equal(codes, hash_codes(3 * q, rotations))


def test_where_the_rotations_come_from():
    """By itself the same every time; from a generator of random numbers, others; as arguments, these."""
    params = random_params(TINY)
    (lr,) = images((1, 8, 9))

    def apply(*rotations, seed=0, **options):
        return np.asarray(TINY.clone(seed=seed).apply({"params": params}, lr, lr, *rotations, **options))

    alone = apply()
    np.testing.assert_array_equal(alone, apply())
    assert np.any(alone != apply(seed=1))
    assert np.any(alone != apply(rngs={"rotations": jax.random.key(7)}))
    shape = (TINY.features // 4, TINY.rounds, buckets(72, TINY.chunk) // 2)
    given = [jax.random.normal(k, shape) for k in jax.random.split(jax.random.key(0), 2)]
    np.testing.assert_array_equal(alone, apply(given))
