"""The check of the kernels before their first use, with stand-ins for a kernel on the CPU."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from kernels import default_implementation, deform_conv, modulated_deform_conv, selfcheck
from tests.kernels.test_deform_conv import random_inputs

PLAIN = deform_conv.IMPLEMENTATIONS["xla"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home folder, and one small case."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(selfcheck, "CHANNELS", (16,))
    return tmp_path


def fault(kernel, **options):
    return selfcheck.fault(kernel, PLAIN, jax.devices()[0], **options)


def no_memory(*arrays, **options):
    raise RuntimeError("RESOURCE_EXHAUSTED: shared memory\nand so on")


def without_offset_gradient(x, offset, mask, weight, **options):
    return PLAIN(x, jax.lax.stop_gradient(offset), mask, weight, **options)


def rounded(x, offset, mask, weight, **options):
    return PLAIN(x, offset, mask, weight.astype(jnp.bfloat16).astype(weight.dtype), **options)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (no_memory, "16 channels, float32: RESOURCE_EXHAUSTED: shared memory"),
        (
            lambda *a, **o: 1.01 * PLAIN(*a, **o),
            "16 channels, float32: output: relative error 1.0e-02, less than 1e-04",
        ),
        (lambda *a, **o: PLAIN(*a, **o) * jnp.nan, "16 channels, float32: output: relative error nan"),
        (rounded, "16 channels, float32: output: relative error"),
        (without_offset_gradient, "16 channels, float32: gradient of offset: relative error 1.0e+00"),
    ],
)
def test_faults_are_named_and_not_remembered(kernel, reason, home):
    assert fault(kernel).startswith(reason)
    assert not list(home.rglob("*.json"))


def test_that_they_agree_is_remembered(home, tmp_path):
    calls = []

    def kernel(*arrays, **options):
        calls.append(arrays[0].dtype)
        return PLAIN(*arrays, **options)

    source = tmp_path / "kernel.py"
    for content, expected in (("one", 2), ("one", 2), ("another", 4)):  # float32 and bfloat16, once per source
        source.write_text(content)
        assert fault(kernel, sources=[str(source)]) == ""
        assert len(calls) == expected
    assert len(list((home / ".cache/rrsr_jax/kernels").iterdir())) == 2


def test_a_home_that_cannot_be_written_to(home):
    (home / ".cache").write_text("a file")
    assert fault(PLAIN) == ""


@pytest.fixture
def gpu(on_cuda, monkeypatch):
    """`gpu(kernel)` pretends that there is a GPU on which the Triton implementation is `kernel`."""

    def pretend(kernel):
        monkeypatch.setattr(deform_conv, "_device", lambda: jax.devices()[0])
        monkeypatch.setitem(deform_conv.IMPLEMENTATIONS, "triton", kernel)
        deform_conv.default_implementation.cache_clear()

    return pretend


def test_where_they_fail_plain_jax_runs_and_the_reason_is_logged_once(gpu, caplog):
    gpu(no_memory)
    inputs = list(random_inputs().values())
    with caplog.at_level(logging.WARNING, "kernels"):
        got = [jax.jit(modulated_deform_conv)(*inputs) for _ in range(2)]
    for y in got:
        np.testing.assert_allclose(y, modulated_deform_conv(*inputs, implementation="xla"), rtol=1e-5, atol=1e-5)
    assert [r.getMessage() for r in caplog.records] == [
        "deformable convolution: xla (the kernels fail on this GPU: 16 channels, float32: RESOURCE_EXHAUSTED: shared memory)"
    ]


def test_where_they_agree_they_are_the_default(gpu):
    gpu(PLAIN)
    assert default_implementation() == "triton"


def test_the_check_is_outside_of_every_trace(gpu):
    """First use while JAX traces: inside jit, shard_map, grad and remat, on a mesh."""
    gpu(PLAIN)
    inputs = random_inputs()
    weight, bias = inputs.pop("weight"), inputs.pop("bias")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over_images = PartitionSpec("data")

    def gradient(x, offset, mask):
        loss = jax.remat(lambda x: (modulated_deform_conv(x, offset, mask, weight, bias) ** 2).sum())
        return jax.grad(loss)(x)

    # Traced only: the fixture's mesh has two devices, which are not there.
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=over_images, out_specs=over_images, check_vma=False)
    with jax.set_mesh(mesh):
        assert jax.eval_shape(jax.jit(sharded), *inputs.values()).shape == inputs["x"].shape
    assert default_implementation.cache_info().currsize == 1
    assert default_implementation() == "triton"


def test_without_a_device_nothing_is_checked(on_cuda, home):
    """A program that is only lowered for a GPU."""
    assert default_implementation() == "triton"
    assert not list(home.rglob("*.json"))
