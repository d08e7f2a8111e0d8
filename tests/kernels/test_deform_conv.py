"""Every implementation of the modulated deformable convolution against four oracles."""

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import kernels
from kernels import blocks, default_implementation, deform_conv, modulated_deform_conv
from tests.helpers import relative_error

ARGUMENTS = ("x", "offset", "mask", "weight", "bias")


@pytest.fixture(params=["xla", "triton_interpreted", pytest.param("triton", marks=pytest.mark.gpu)])
def implementation(request):
    if request.param == "triton" and jax.default_backend() != "gpu":
        pytest.skip("needs a CUDA GPU; triton_interpreted runs the same kernels, but for the atomic additions")
    return request.param


def random_inputs(seed=0, n=2, h=7, w=9, c=6, co=5, groups=3, out=None, reach=3.0):
    rng = np.random.default_rng(seed)
    ho, wo = out or (h, w)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return dict(
        x=normal(n, h, w, c),
        offset=reach * normal(n, ho, wo, groups, 9, 2),
        mask=rng.random((n, ho, wo, groups, 9)).astype(np.float32),
        weight=normal(3, 3, c, co),
        bias=normal(co),
    )


def slow_loop(x, offset, mask, weight, bias, stride=1, padding=1, dilation=1):
    """The definition, one number at a time, in float64."""
    n, h, w, c = x.shape
    _, ho, wo, groups, _, _ = offset.shape
    size = c // groups
    out = np.zeros((n, ho, wo, weight.shape[-1])) + bias

    def pixel(b, y, z, g):
        inside = 0 <= y < h and 0 <= z < w
        return x[b, y, z, g * size : (g + 1) * size].astype(np.float64) if inside else np.zeros(size)

    for b, i, j, g, t in np.ndindex(n, ho, wo, groups, 9):
        y = i * stride - padding + t // 3 * dilation + float(offset[b, i, j, g, t, 0])
        z = j * stride - padding + t % 3 * dilation + float(offset[b, i, j, g, t, 1])
        if not (np.isfinite(y) and np.isfinite(z)):
            continue
        y0, z0 = int(np.floor(y)), int(np.floor(z))
        fy, fz = y - y0, z - z0
        value = (1 - fy) * ((1 - fz) * pixel(b, y0, z0, g) + fz * pixel(b, y0, z0 + 1, g))
        value += fy * ((1 - fz) * pixel(b, y0 + 1, z0, g) + fz * pixel(b, y0 + 1, z0 + 1, g))
        out[b, i, j] += mask[b, i, j, g, t] * value @ weight[t // 3, t % 3, g * size : (g + 1) * size]
    return out


@pytest.mark.parametrize("case", range(4))
def test_matches_golden_forward_and_gradients(golden, implementation, case):
    arrays = {k.split("/")[1]: v for k, v in golden("deform_conv").items() if k.startswith(f"{case}/")}
    stride, padding, dilation, groups = map(int, arrays["config"])

    def from_torch(name, value):
        n, _, h, w = (*value.shape, 0, 0, 0)[:4]
        match name:
            case "offset":
                return value.reshape(n, groups, 9, 2, h, w).transpose(0, 4, 5, 1, 2, 3)
            case "mask":
                return value.reshape(n, groups, 9, h, w).transpose(0, 3, 4, 1, 2)
            case "weight":
                return value.transpose(2, 3, 1, 0)
            case "bias":
                return value
        return value.transpose(0, 2, 3, 1)

    inputs = [from_torch(name, arrays[name]) for name in ARGUMENTS]
    options = dict(stride=stride, padding=padding, dilation=dilation, implementation=implementation)
    y, vjp = jax.vjp(lambda *a: modulated_deform_conv(*a, **options), *inputs)
    assert relative_error(y, from_torch("y", arrays["y"])) < 1e-5
    gradients = vjp(jnp.asarray(from_torch("y", arrays["cotangent"])))
    for name, gradient in zip(ARGUMENTS, gradients, strict=True):
        assert relative_error(gradient, from_torch(name, arrays[f"grad_{name}"])) < 1e-4, name


@pytest.mark.parametrize(
    "options",
    [dict(), dict(stride=2, padding=0), dict(padding=2, dilation=2), dict(padding=0, dilation=3, stride=3)],
)
def test_matches_slow_loop(implementation, options):
    inputs = random_inputs(out=(4, 5), h=5, w=6)
    got = modulated_deform_conv(**inputs, **options, implementation=implementation)
    np.testing.assert_allclose(got, slow_loop(**inputs, **options), atol=2e-5)


def test_features_may_bring_their_border(implementation):
    inputs = random_inputs(out=(4, 5), h=5, w=6)
    expected = modulated_deform_conv(**inputs, implementation=implementation)
    inputs["x"] = np.pad(inputs["x"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    got = modulated_deform_conv(**inputs, bordered=True, implementation=implementation)
    np.testing.assert_array_equal(got, expected)


def test_without_displacement_is_a_convolution(implementation):
    inputs = random_inputs(h=8, w=11, out=(4, 6), c=8, groups=2)
    inputs |= dict(offset=np.zeros_like(inputs["offset"]), mask=np.ones_like(inputs["mask"]))
    got = modulated_deform_conv(**inputs, stride=2, implementation=implementation)
    dims = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        inputs["x"], inputs["weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=dims
    )
    np.testing.assert_allclose(got, np.asarray(expected) + inputs["bias"], atol=2e-5)


def test_whole_displacement_moves_the_image(implementation):
    inputs = random_inputs(c=4, groups=1)
    inputs["mask"][:] = 1
    inputs["offset"][:] = np.array([2, -1])  # looks two rows further down and one column to the left
    moved = np.zeros_like(inputs["x"])
    moved[:, :-2, 1:] = inputs["x"][:, 2:, :-1]
    got = modulated_deform_conv(**inputs, implementation=implementation)
    still = inputs | dict(x=moved, offset=np.zeros_like(inputs["offset"]))
    expected = modulated_deform_conv(**still, implementation=implementation)
    # Away from the border, where the moved image has lost what the original still has.
    np.testing.assert_allclose(got[:, 1:-3, 2:-1], expected[:, 1:-3, 2:-1], atol=2e-5)


def test_gradients_by_finite_differences(implementation):
    inputs = random_inputs(n=1, h=4, w=5, c=4, co=2, groups=2, reach=1.0)
    # Bilinear interpolation has kinks on the integer lattice: keep every position a good step away from it.
    offset = inputs["offset"]
    inputs["offset"] = np.floor(offset) + np.clip(offset - np.floor(offset), 0.2, 0.8)
    with jax.enable_x64(False):
        check_grads(
            lambda *a: modulated_deform_conv(*a, implementation=implementation),
            [inputs[name] for name in ARGUMENTS],
            order=1,
            modes=["rev"],
            atol=2e-2,
            rtol=2e-2,
            eps=1e-2,
        )


def test_far_and_non_finite_positions_are_zero_and_without_gradient(implementation):
    inputs = random_inputs(n=1, h=4, w=4, c=3, groups=3)
    bad = np.array([1e9, -1e9, np.inf, -np.inf, np.nan, 3e38, 10.0, -10.0, 7.0], np.float32)
    inputs["offset"][..., 0] = bad
    inputs["offset"][..., 1] = bad[::-1]
    y, vjp = jax.vjp(lambda *a: modulated_deform_conv(*a, implementation=implementation), *inputs.values())
    np.testing.assert_array_equal(y, np.broadcast_to(inputs["bias"], y.shape))
    d_x, d_offset, d_mask, d_weight, d_bias = vjp(jnp.ones_like(y))
    for gradient in (d_x, d_offset, d_mask, d_weight):
        np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_allclose(d_bias, y.size / y.shape[-1])


def test_works_under_jit_vmap_grad_and_remat(implementation):
    inputs = random_inputs(n=3)
    weight, bias = inputs.pop("weight"), inputs.pop("bias")

    def loss(x, offset, mask):
        return (modulated_deform_conv(x, offset, mask, weight, bias, implementation=implementation) ** 2).sum()

    expected = jax.grad(loss, (0, 1, 2))(*inputs.values())
    by_image = jax.vmap(lambda *one: jax.grad(jax.remat(loss), (0, 1, 2))(*(a[None] for a in one)))
    got = jax.jit(by_image)(*inputs.values())
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a[:, 0], b, rtol=1e-4, atol=1e-3)


def test_bfloat16_sums_in_float32(implementation):
    inputs = {k: jnp.asarray(v, jnp.bfloat16) for k, v in random_inputs(c=48, groups=4).items()}
    got = modulated_deform_conv(**inputs, implementation=implementation)
    exact = slow_loop(**{k: np.asarray(v, np.float32) for k, v in inputs.items()})
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), exact, rtol=2**-8, atol=0.05)


def test_one_tap_of_columns_at_a_time():
    """Memory: forward and backward stay well below nine copies of the features."""
    inputs = random_inputs(n=1, h=64, w=64, c=64, co=64, groups=8)
    features = inputs["x"].nbytes

    def temporary(f):
        return jax.jit(f).lower(*inputs.values()).compile().memory_analysis().temp_size_in_bytes

    forward = temporary(lambda *a: modulated_deform_conv(*a, implementation="xla"))
    backward = temporary(lambda *a: jax.vjp(modulated_deform_conv, *a)[1](jnp.ones((1, 64, 64, 64))))
    assert forward < 5 * features
    # Gradients of offsets and masks, three floats for eight features and tap, are part of the result.
    assert backward < 18 * features


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(mask=np.zeros((2, 7, 9, 3, 8), np.float32)), r"mask: shape \(2, 7, 9, 3, 9\) expected"),
        (dict(offset=np.zeros((2, 7, 9, 27, 2), np.float32)), "offset: 6 dimensions expected"),
        (dict(weight=np.zeros((5, 5, 6, 5), np.float32)), r"weight: shape \(3, 3, 6, 5\) expected"),
        (dict(x=np.zeros((2, 7, 9, 7), np.float32), weight=np.zeros((3, 3, 7, 5), np.float32)), "deform groups"),
        (dict(implementation="cuda"), "implementation 'cuda' is unknown; there are: xla"),
    ],
)
def test_wrong_arguments_say_what_was_expected(change, message):
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv(**{**random_inputs(), **change})


# Channels and height of the layers of RRSR, at 160 x 160.
LAYERS = [(256, 40), (128, 80), (64, 160)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("channels", "size"), LAYERS)
def test_kernels_are_lowered_for_cuda(on_cuda, channels, size, dtype):
    """Without a GPU: each kernel is in the program, once; the gradient's forward pass is dropped."""
    shapes = [(9, size, size, channels), (9, size, size, 8, 9, 2), (9, size, size, 8, 9), (3, 3, channels, channels)]
    shapes.append((channels,))
    dtypes = [dtype, jnp.float32, jnp.float32, dtype, jnp.float32]
    arrays = [jax.ShapeDtypeStruct(*array) for array in zip(shapes, dtypes, strict=True)]

    def lowered(f):
        return jax.jit(f).trace(*arrays).lower(lowering_platforms=("cuda",))

    assert on_cuda(lowered(modulated_deform_conv)) == {"forward": 1}
    gradient = jax.grad(lambda *a: modulated_deform_conv(*a).sum(), argnums=(0, 1, 2, 3, 4))
    assert on_cuda(lowered(gradient)) == {"data": 1, "weight": 1}


def shapes_of(n, size, channels, groups=8):
    """Arguments of a layer whose features and output have `size` (H, W), without their values."""
    shapes = [(n, *size, channels), (n, *size, groups, 9, 2), (n, *size, groups, 9), (3, 3, channels, channels)]
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (*shapes, (channels,))]


@pytest.mark.parametrize(
    ("n", "size", "channels", "images"),
    [
        (9, (160, 160), 64, 9),
        (7, (2048, 2048), 64, 3),  # offsets: 604 million numbers an image
        (1, (466_033, 32), 64, 1),  # offsets: 2^31 - 3584 numbers
        (1, (466_034, 32), 64, 0),  # 2^31 + 1024
        (1, (4096, 4096), 64, 0),
        (2, (4096, 4096), 1024, 0),  # features: 2^34
    ],
)
def test_what_32_bit_indices_can_address(n, size, channels, images):
    x, offset, _, weight, _ = (a.shape for a in shapes_of(n, size, channels))
    assert blocks.images_at_once(blocks.plan(x, offset, weight)) == images
    assert (blocks.elements(x, offset, weight) < 2**31) == (images > 0)


def test_features_count_as_well():
    """A reference may be larger than the output: at 2048 x 2048 x 64, 2^31 numbers in eight images."""
    plan = blocks.plan((9, 2048, 2048, 64), (9, 16, 16, 8, 9, 2), (3, 3, 64, 64))
    assert blocks.images_at_once(plan) == 7


def test_a_batch_that_cannot_be_addressed_is_split(monkeypatch):
    inputs = random_inputs(n=3, h=4, w=5)

    def results():
        y, vjp = jax.vjp(lambda *a: modulated_deform_conv(*a, implementation="triton_interpreted"), *inputs.values())
        return y, *vjp(y)

    expected = results()
    one = blocks.elements(*(inputs[name].shape for name in ("x", "offset", "weight")))
    monkeypatch.setattr(blocks, "MOST_ELEMENTS", 2 * one)
    for a, b in zip(results(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(blocks, "MOST_ELEMENTS", one - 1)
    with pytest.raises(ValueError, match=f"at most {one - 1:,} elements can be addressed, one image takes {one:,}"):
        results()


def test_images_that_the_kernels_cannot_address_take_the_plain_path(on_cuda, caplog):
    def lowered(arrays):
        return jax.jit(modulated_deform_conv).trace(*arrays).lower(lowering_platforms=("cuda",))

    assert on_cuda(lowered(shapes_of(4, (2048, 2048), 64))) == {"forward": 2}
    assert "xla" not in caplog.text
    for _ in range(2):
        assert on_cuda(lowered(shapes_of(1, (4096, 4096), 64))) == {}
    assert [r.getMessage() for r in caplog.records if "xla" in r.getMessage()] == [
        "deformable convolution: xla (one image takes 2,415,919,104 elements, the kernels address fewer than 2^31)"
    ]


def test_the_default_is_plain_jax_without_a_cuda_gpu(monkeypatch, caplog):
    monkeypatch.setattr(deform_conv, "_on_cuda", lambda: False)
    deform_conv.default_implementation.cache_clear()
    with caplog.at_level(logging.INFO, "kernels"):
        assert {default_implementation() for _ in range(3)} == {"xla"}
    assert [r.getMessage() for r in caplog.records] == ["deformable convolution: xla (JAX runs on cpu)"]


def test_the_default_survives_the_loss_of_the_kernels(on_cuda, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "kernels.deform_conv_triton", None)
    monkeypatch.delattr(kernels, "deform_conv_triton", raising=False)
    with caplog.at_level(logging.INFO, "kernels"):
        assert default_implementation() == "xla"
    assert "the kernels cannot be imported" in caplog.text


def test_a_named_implementation_insists(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="'triton' needs a CUDA GPU, JAX runs on tpu; leave it None, or 'xla'"):
        modulated_deform_conv(**random_inputs(), implementation="triton")
