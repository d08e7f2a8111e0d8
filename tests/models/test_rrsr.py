"""The networks against the golden arrays of the authors' release, and properties of the whole model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.training import losses
from rrsr_jax.training.passes import reciprocal_terms
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import VGG_OF_RRSR, images, relative_error, tiny_rrsr


@pytest.fixture(scope="module")
def rrsr_params(state_dict):
    vgg = torch_layout.from_torch("vgg19", state_dict("vgg19"))
    correspondence = torch_layout.from_torch("c2_extractor", state_dict("c2_extractor"))
    trained = torch_layout.from_torch("rrsr_restoration", state_dict("rrsr_restoration"))
    return trained | {"vgg": {name: vgg[name] for name in VGG_OF_RRSR}, "correspondence": correspondence}


@pytest.fixture(scope="module")
def rrsr_golden(golden):
    """Images as float32 in [0, 1]."""
    return {k: v.astype(np.float32) / 255 if v.dtype == np.uint8 else v for k, v in golden("rrsr").items()}


@pytest.fixture(scope="module")
def tiny_params():
    model = tiny_rrsr()
    params = jax.jit(lambda *a: model.init(*a)["params"])(jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    # As they start, kernels are small and offset heads zero: give everything a say in the result.
    rng = np.random.default_rng(0)

    def grow(path, value):
        value = 8 * value if value.ndim > 1 and path[0] not in ("vgg", "correspondence") else value
        return value + 0.1 * rng.standard_normal(value.shape).astype(np.float32) if "head" in path else value

    flat = {path: grow(path, value) for path, value in traverse_util.flatten_dict(params).items()}
    return traverse_util.unflatten_dict(flat)


def test_vgg19_features_and_perceptual_loss(golden, state_dict):
    expected = golden("vgg19")
    params = torch_layout.from_torch("vgg19", state_dict("vgg19"))
    apply = jax.jit(lambda image: VGG("relu5_1").apply({"params": params}, image[None]))
    features, other = apply(expected["image"]), apply(expected["other"])
    assert set(features) == {f"relu{level}_1" for level in range(1, 6)}
    for name, value in features.items():
        assert relative_error(value, expected[name]) < 1e-4, name
    fro = losses.perceptual(features["relu5_1"], other["relu5_1"])
    assert relative_error(fro, expected["perceptual_fro"]) < 1e-4


def test_perceptual_loss_of_equal_features_has_a_slope_of_zero():
    """Of flat images, or of a network whose parameters are zero."""
    a = jnp.zeros((1, 2, 2, 3))
    value, slope = jax.value_and_grad(losses.perceptual)(a, a)
    assert value == 0
    np.testing.assert_array_equal(slope, a)


def test_perceptual_loss_is_one_norm_over_the_batch():
    a, b = np.zeros((2, 1, 1, 3), np.float32), np.ones((2, 1, 1, 3), np.float32)
    np.testing.assert_allclose(losses.perceptual(a, b), np.sqrt(6), rtol=1e-6)


def test_discriminator(golden, state_dict):
    expected = golden("discriminator")
    variables = torch_layout.from_torch("c2_discriminator", state_dict("c2_discriminator"))
    model = Discriminator()
    assert relative_error(model.apply(variables, expected["real"], train=False), expected["eval_out"]) < 1e-4

    def train(image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])[0]

    assert relative_error(train(expected["real"]), expected["train_out"]) < 1e-4
    penalty, norm = losses.gradient_penalty(train, expected["real"], expected["fake"], expected["alpha"])
    assert relative_error(norm, expected["gradient_norm"]) < 1e-3
    assert relative_error(penalty, expected["gradient_penalty"]) < 1e-3


def test_discriminator_running_statistics_move():
    model, (image,) = Discriminator(features=(4, 4), head=8), images((3, 16, 16))
    variables = model.init(jax.random.key(0), image, train=False)
    _, updated = model.apply(variables, image, train=True, mutable=["batch_stats"])
    before, after = (v["batch_stats"]["block1_norm1"]["var"] for v in (variables, updated))
    # Momentum 0.9: the variance leaves its initial 1 by a tenth of the way to the (tiny) batch variance.
    np.testing.assert_allclose(after, 0.9 * before, atol=0.05)


def test_rrsr_matches_release(rrsr_golden, rrsr_params):
    z = rrsr_golden
    apply = jax.jit(lambda lr, ref: RRSR().apply({"params": rrsr_params}, lr, ref, mutable=["intermediates"]))
    sr, _ = apply(z["lr"], z["ref"])
    assert relative_error(sr, z["sr"]) < 1e-4
    second, found = apply(z["lr_warped"], sr)
    assert relative_error(second, z["sr_warped"]) < 1e-4
    flow = found["intermediates"]["flow"][0]
    np.testing.assert_array_equal(flow[..., ::-1], z["match_index_second"])


def test_rrsr_masked_pooling_matches_release(rrsr_golden, rrsr_params):
    z = rrsr_golden
    valid = jnp.asarray(np.tile(z["valid_size"] // 4, (2, 1)))
    sr = jax.jit(RRSR().apply)({"params": rrsr_params}, z["lr"], z["ref"], valid)
    assert relative_error(sr, z["sr_masked_pooling"]) < 1e-4
    assert relative_error(sr, z["sr"]) > 1e-3


def test_reciprocal_losses_and_gradients_match_release(rrsr_golden, rrsr_params):
    z = rrsr_golden
    batch = {"lr": z["lr"], "hr": z["hr"], "ref": z["ref"], "ref_lr_p": z["lr_warped"], "ref_p": z["hr_warped"]}
    frozen = {k: rrsr_params[k] for k in ("vgg", "correspondence")}
    trained = {k: v for k, v in rrsr_params.items() if k not in frozen}

    def loss(trained):
        refsr = functools.partial(RRSR().apply, {"params": trained | frozen})
        terms = reciprocal_terms(refsr, batch, {"rec": 1.0, "rtrr": 0.4})
        return terms["rec"] + 0.4 * terms["rtrr"], terms

    gradient, terms = jax.jit(jax.grad(loss, has_aux=True))(trained)
    assert relative_error(terms["rec"], z["l_rec"]) < 1e-4
    assert relative_error(terms["rtrr"], z["l_rtrr"]) < 1e-4
    by_key = torch_layout.to_torch("rrsr_restoration", gradient)
    listed = [k for k in z if k.startswith("grad/")]
    assert len(listed) == 6
    for name in listed:
        assert relative_error(by_key[name.removeprefix("grad/")], z[name]) < 1e-3, name


def test_trained_parameters_of_the_paper():
    variables = jax.eval_shape(RRSR().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))
    count = {k: sum(a.size for a in jax.tree.leaves(v)) for k, v in variables["params"].items()}
    assert sum(n for k, n in count.items() if k not in ("vgg", "correspondence")) == 22_594_651


@pytest.mark.parametrize(("lr_size", "ref_size"), [((7, 10), (28, 40)), ((9, 6), (37, 50)), ((8, 8), (13, 14))])
def test_any_sizes(tiny_params, lr_size, ref_size):
    lr, ref = images((2, *lr_size), (2, *ref_size))
    sr = jax.jit(tiny_rrsr().apply)({"params": tiny_params}, lr, ref)
    assert sr.shape == (2, 4 * lr_size[0], 4 * lr_size[1], 3)
    assert np.isfinite(sr).all()


def test_images_of_a_batch_do_not_mix(tiny_params):
    lr, ref = images((3, 7, 8), (3, 28, 36))
    apply = jax.jit(tiny_rrsr().apply)
    together = apply({"params": tiny_params}, lr, ref)
    for i in range(3):
        alone = apply({"params": tiny_params}, lr[i : i + 1], ref[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-4)
        other = apply({"params": tiny_params}, lr[i : i + 1], ref[i - 1 : i or None])
        assert np.abs(other - alone).mean() > 0.01


def test_reference_of_another_size_agrees_with_the_padded_protocol(tiny_params):
    """Both ways to take a larger reference: away from the padding's edge they give the same, if the mean leaves padding out."""
    lr, ref = images((1, 24, 24), (1, 112, 112))
    padded_lr = jnp.zeros((1, 28, 28, 3)).at[:, :24, :24].set(lr)
    apply = jax.jit(lambda *a: tiny_rrsr().apply({"params": tiny_params}, *a, mutable=["intermediates"]))
    (own, a), (padded, b) = apply(lr, ref), apply(padded_lr, ref, jnp.array([[24, 24]]))
    (unmasked, _), (unrelated, _) = apply(padded_lr, ref), apply(lr, ref[:, ::-1])
    assert own.shape == (1, 96, 96, 3)
    flow_a, flow_b = a["intermediates"]["flow"][0], b["intermediates"]["flow"][0]
    np.testing.assert_array_equal(flow_a[:, :12, :12], flow_b[:, :12, :12])
    corner = np.s_[:, :48, :48]
    difference, without_mask, scale = (
        np.abs(own - x)[corner].mean() for x in (padded[:, :96, :96], unmasked[:, :96, :96], unrelated)
    )
    assert difference < 0.03 * scale
    assert difference < 0.5 * without_mask


def test_one_of_several_references_is_as_good_as_alone(tiny_params):
    """Where nothing of the others can be matched, only the unaligned features beside `x` and the edges see them."""
    model = tiny_rrsr()
    lr, ref, other = images((1, 8, 10), (1, 40, 36), (1, 18, 50))
    params = tiny_params | {k: zero_heads(v) for k, v in tiny_params.items() if k.startswith("fas")}

    def aligned(refs, valid_ref=None):
        _, found = model.apply({"params": params}, lr, refs, valid_ref=valid_ref, mutable=["intermediates"])
        return found["intermediates"]

    alone = aligned(ref)
    second = aligned((other, ref), [np.array([[0, 0]]), np.array([[40, 36]])])
    np.testing.assert_array_equal(second["match_reference"][0], 1)
    np.testing.assert_array_equal(second["match_index"][0], alone["match_index"][0])
    top = -(-18 // 4) + 1
    moved, flow = (np.asarray(run["flow"][0][:, :-2, :-2]) for run in (second, alone))
    np.testing.assert_array_equal(moved - np.array([top, 0]), flow)
    for scale in (1, 2, 4):
        # Where all nine patches that cover the pixel exist, and look into the image.
        inside = np.s_[:, 2 * scale : -2 * scale, 2 * scale : -2 * scale]
        got, expected = (run[f"fas_{scale}x_0"]["aligned"][0][inside] for run in (second, alone))
        offset = np.asarray(alone[f"fas_{scale}x_0"]["align"]["offset"][0][inside])
        rows, columns = (2 * scale + np.arange(n) for n in offset.shape[1:3])
        y = offset[..., 0] + rows[:, None, None, None] + np.arange(9) // 3 - 1
        x = offset[..., 1] + columns[:, None, None] + np.arange(9) % 3 - 1
        whole = ((y >= 0) & (y < 10 * scale) & (x >= 0) & (x < 9 * scale)).all((3, 4))
        assert whole.mean() > 0.2
        np.testing.assert_allclose(got[whole], expected[whole], rtol=1e-4, atol=1e-6)


def zero_heads(tree):
    return {
        k: jax.tree.map(jnp.zeros_like, v) if k == "head" else zero_heads(v) if isinstance(v, dict) else v
        for k, v in tree.items()
    }


def test_padding_of_the_reference_is_not_matched(tiny_params):
    lr, ref = images((1, 8, 10), (1, 48, 44))
    _, found = jax.jit(functools.partial(tiny_rrsr().apply, mutable=["intermediates"]))(
        {"params": tiny_params}, lr, ref, valid_ref=np.array([[33, 26]])
    )
    index = np.asarray(found["intermediates"]["match_index"][0])
    assert (index // 9).max() <= 33 // 4 - 3
    assert (index % 9).max() <= 26 // 4 - 3


def test_bfloat16_stays_close_and_keeps_parameters_and_output_float32(tiny_params):
    lr, ref, hr = images((2, 8, 10), (2, 32, 36), (2, 32, 40))

    def run(dtype):
        def loss(trained):
            sr = tiny_rrsr(dtype=dtype).apply({"params": tiny_params | trained}, lr, ref)
            return losses.l1(hr, sr), sr

        trained = {k: v for k, v in tiny_params.items() if k not in ("vgg", "correspondence")}
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)

    ((loss, sr), gradient), ((loss_16, sr_16), gradient_16) = run("float32"), run("bfloat16")
    assert sr_16.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient_16))
    assert 1e-5 < relative_error(sr_16, sr) < 0.02
    np.testing.assert_allclose(loss_16, loss, rtol=0.01)
    flat, flat_16 = (np.concatenate([a.ravel() for a in jax.tree.leaves(g)]) for g in (gradient, gradient_16))
    assert flat @ flat_16 / np.linalg.norm(flat) / np.linalg.norm(flat_16) > 0.98


def test_bfloat16_reaches_every_trained_convolution(tiny_params):
    lr, ref = images((1, 8, 10), (1, 32, 36))
    text = jax.jit(tiny_rrsr(dtype="bfloat16").apply).lower({"params": tiny_params}, lr, ref).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    single = [line for line in convolutions if "bf16" not in line]
    gates = 2 * 4  # of four FAS blocks, on one pixel
    descriptors = 2 * 5  # of the correspondence network
    assert len(single) == gates + descriptors
    assert len(convolutions) >= 3 * len(single)


@pytest.mark.parametrize("remat", ["blocks", "fas"])
def test_rematerialisation_computes_again_and_changes_nothing(tiny_params, remat):
    lr, ref, hr = images((1, 8, 10), (1, 32, 36), (1, 32, 40))

    def gradient(remat):
        model = tiny_rrsr(remat=remat)
        lowered = jax.jit(jax.grad(lambda p: losses.l1(hr, model.apply({"params": p}, lr, ref)))).lower(tiny_params)
        return lowered.compile()(tiny_params), lowered.as_text().count("stablehlo.convolution")

    (stored, once), (again, more) = gradient("none"), gradient(remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), again, stored)
    assert more >= once + 4  # at least one in the residual block of each of four FAS


def test_every_alignment_is_one_kernel_on_a_cuda_gpu(tiny_params, on_cuda):
    lr, ref = images((1, 8, 10), (1, 32, 36))
    lowered = jax.jit(tiny_rrsr().apply).trace({"params": tiny_params}, lr, ref).lower(lowering_platforms=("cuda",))
    assert on_cuda(lowered) == {"forward": 4}
    named = tiny_rrsr(deform_conv="xla")
    lowered = jax.jit(named.apply).trace({"params": tiny_params}, lr, ref).lower(lowering_platforms=("cuda",))
    assert on_cuda(lowered) == {}


def test_intermediates_are_reachable(tiny_params):
    lr, ref = images((2, 6, 7), (2, 32, 20))
    _, found = jax.jit(lambda *a: tiny_rrsr().apply({"params": tiny_params}, *a, mutable=["intermediates"]))(lr, ref)
    found = found["intermediates"]
    assert found["match_index"][0].shape == (2, 4, 5)
    assert found["flow"][0].shape == (2, 6, 7, 2)
    for scale, channels, blocks in ((1, 8, 1), (2, 6, 2), (4, 4, 1)):
        assert found[f"pre_offset_{scale}x"][0].shape == (2, 6 * scale, 7 * scale, 9, 2)
        for i in range(blocks):
            block = found[f"fas_{scale}x_{i}"]
            assert block["aligned"][0].shape == (2, 6 * scale, 7 * scale, channels)
            assert block["align"]["offset"][0].shape == (2, 6 * scale, 7 * scale, 2, 9, 2)
            assert block["align"]["mask"][0].shape == (2, 6 * scale, 7 * scale, 2, 9)
            routing = np.asarray(block["select"]["routing"][0])
            assert routing.shape == (2, 2)
            assert ((routing > 0) & (routing < 1)).all()


def test_no_gradient_through_the_match(tiny_params):
    lr, ref = images((1, 6, 6), (1, 24, 24))

    def loss(params):
        return tiny_rrsr().apply({"params": params}, lr, ref).sum()

    gradient = jax.jit(jax.grad(loss))(tiny_params)
    size = {k: max(float(jnp.abs(a).max()) for a in jax.tree.leaves(v)) for k, v in gradient.items()}
    assert size["correspondence"] == 0
    assert all(v > 0 for k, v in size.items() if k != "correspondence")


@pytest.mark.parametrize(
    ("lr", "ref", "message"),
    [
        (np.zeros((1, 8, 8, 4), np.float32), np.zeros((1, 32, 32, 3), np.float32), r"lr: .* \(N, H, W, 3\) expected"),
        (np.zeros((8, 8, 3), np.float32), np.zeros((1, 32, 32, 3), np.float32), r"lr: .* \(N, H, W, 3\) expected"),
        (np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 32, 32, 3), np.uint8), "ref: floating point .* uint8"),
        (
            np.zeros((1, 2, 8, 3), np.float32),
            np.zeros((1, 32, 32, 3), np.float32),
            "input: at least 3x3 feature pixels .* 2x8",
        ),
        (np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 11, 32, 3), np.float32), "reference: at least 3x3 .* 2x8"),
        (np.zeros((1, 8, 8, 3), np.float32), np.zeros((2, 32, 32, 3), np.float32), "batches of one size"),
    ],
)
def test_wrong_images_say_what_was_expected(tiny_params, lr, ref, message):
    with pytest.raises(ValueError, match=message):
        tiny_rrsr().apply({"params": tiny_params}, lr, ref)


def test_other_searches_reach_the_model(tiny_params):
    lr, ref = images((1, 16, 16), (1, 64, 64))

    def scores(**fields):
        run = jax.jit(functools.partial(tiny_rrsr(**fields).apply, mutable=["intermediates"]))
        return np.asarray(run({"params": tiny_params}, lr, ref)[1]["intermediates"]["match_score"][0])

    exact, coarse, rounded = scores(), scores(match_coarse=2), scores(match_dtype="bfloat16")
    assert (coarse <= exact + 1e-6).all()
    assert (coarse < exact - 1e-3).any()
    assert 0 < np.abs(rounded - exact).max() < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(remat="all"), "remat: one of none, blocks, fas expected, got 'all'"),
        (dict(pre_offsets="taps"), "pre_offsets: one of patches, smooth expected, got 'taps'"),
        (dict(dtype="float16"), "dtype: one of float32, bfloat16 expected, got 'float16'"),
        (dict(match_dtype="int8"), "match_dtype: one of float32, bfloat16 expected, got 'int8'"),
        (dict(match_coarse=1), "match_coarse: 0 .exact. or a factor of at least 2 expected, got 1"),
    ],
)
def test_wrong_fields_say_what_was_expected(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_rrsr(**fields).apply({"params": {}}, *images((1, 3, 3), (1, 12, 12)))


@pytest.mark.parametrize(
    ("refs", "sizes", "message"),
    [
        (1, np.zeros((2,), int), r"valid_ref: height and width of each image, \(2, 2\), expected, got \(2,\)"),
        (1, np.zeros((1, 2), int), r"valid_ref: .* expected, got \(1, 2\)"),
        (2, [np.zeros((2, 2), int)], "the valid size of each, expected, got 2 and 1"),
        (0, None, "at least one reference"),
    ],
)
def test_wrong_references_say_what_was_expected(tiny_params, refs, sizes, message):
    lr, ref = images((2, 4, 4), (2, 16, 16))
    with pytest.raises(ValueError, match=message):
        tiny_rrsr().apply({"params": tiny_params}, lr, ref if refs == 1 else [ref] * refs, valid_ref=sizes)
