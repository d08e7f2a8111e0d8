"""The models that ignore the reference: what they have in common, and SRCNN, EDSR and RCAN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models
from rrsr_jax.models.edsr import DIV2K_MEAN, EDSR
from rrsr_jax.models.enet import ENet
from rrsr_jax.models.esrgan import RRDBNet
from rrsr_jax.models.layers import STATISTICS
from rrsr_jax.models.msrresnet import MSRResNet
from rrsr_jax.models.nlsn import NLSN
from rrsr_jax.models.ranksrgan import RankSRGAN
from rrsr_jax.models.rcan import RCAN, ChannelAttention
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.models.srcnn import SRCNN
from rrsr_jax.models.srgan import SRResNet
from rrsr_jax.training.passes import reciprocal_terms
from tests.helpers import images, random_params

SMALL = {
    "srcnn": SRCNN(features=(6, 4)),
    "edsr": EDSR(features=6, blocks=2),
    "rcan": RCAN(features=8, groups=2, blocks=2, reduction=1),
    "nlsn": NLSN(features=8, groups=1, blocks=1, chunk=9, rounds=2),
    "srgan": SRResNet(features=6, blocks=1),
    "msrresnet": MSRResNet(features=6, blocks=1),
    "enet": ENet(features=6, blocks=1),
    "esrgan": RRDBNet(features=6, blocks=1, growth=3),
    "ranksrgan": RankSRGAN(features=6, blocks=1),
}


@pytest.fixture(scope="module", params=SMALL)
def network(request):
    model = SMALL[request.param]
    params = random_params(model)
    return jax.jit(lambda lr, ref: model.apply({"params": params}, lr, ref)), model, params


@pytest.mark.parametrize(("name", "count"), [("srcnn", 69_251), ("edsr", 1_517_571), ("rcan", 15_592_355)])
def test_parameters_as_published(name, count):
    model = models.MODELS[name]()
    shapes = jax.eval_shape(model.init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))["params"]
    assert sum(a.size for a in jax.tree.leaves(shapes)) == count


def test_any_size_and_whatever_reference(network):
    apply = network[0]
    for size in ((7, 10), (3, 5)):
        lr, one, other = images((2, *size), (2, 13, 40), (2, 28, 12))
        sr = apply(lr, one)
        assert sr.shape == (2, 4 * size[0], 4 * size[1], 3)
        assert np.isfinite(sr).all()
        np.testing.assert_array_equal(sr, apply(lr, other))


def test_wrong_images_say_what_was_expected(network):
    lr, ref = images((1, 8, 8), (2, 12, 12))
    with pytest.raises(ValueError, match="batches of one size expected"):
        network[0](lr, ref)


def test_gradient_reaches_every_parameter(network):
    _, model, params = network
    lr, ref = images((1, 7, 6), (1, 12, 12))
    gradient = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, lr, ref) ** 2).sum()))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf) == (path[-1].key not in STATISTICS), path  # running statistics are not learnt


@pytest.mark.parametrize("network", ["srcnn", "edsr", "rcan"], indirect=True)
def test_reciprocal_pass_is_just_another_image(network):
    """Why the configs of these models leave it out: nothing of the first result is in the second."""
    _, model, params = network
    lr, hr, lr_p, ref_p = images((1, 6, 6), (1, 24, 24), (1, 6, 6), (1, 24, 24))
    batch = {"lr": lr, "hr": hr, "ref": ref_p, "ref_lr_p": lr_p, "ref_p": ref_p}

    def reciprocal(params):
        refsr = functools.partial(model.apply, {"params": params})
        return reciprocal_terms(refsr, batch, {"rec": 0.0, "rtrr": 1.0})["rtrr"]

    def alone(params):
        return jnp.abs(ref_p - model.apply({"params": params}, lr_p, lr)).mean()

    a, b = (jax.jit(jax.grad(f))(params) for f in (reciprocal, alone))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), a, b)


def test_srcnn_is_three_convolutions_of_the_bicubic_image():
    """The middle of the result against loops; at the edge, the bicubic image goes on as it ends."""
    model = SRCNN(features=(3, 2), kernels=(3, 1, 3))
    params = random_params(model)
    (lr,) = images((1, 3, 4))
    x = np.pad(np.asarray(bicubic_upsample(lr)[0], np.float64), ((2, 2), (2, 2), (0, 0)), mode="edge")
    for i, side in enumerate((3, 1, 3), start=1):
        kernel, bias = (np.asarray(params[f"conv{i}"][k], np.float64) for k in ("kernel", "bias"))
        rows, columns = x.shape[0] - side + 1, x.shape[1] - side + 1
        y = np.zeros((rows, columns, kernel.shape[-1]))
        for r in range(rows):
            for c in range(columns):
                y[r, c] = np.einsum("yxi,yxio->o", x[r : r + side, c : c + side], kernel) + bias
        x = np.maximum(y, 0) if i < 3 else y
    np.testing.assert_allclose(model.apply({"params": params}, lr, lr)[0], x, atol=1e-5)


def test_edsr_shifts_the_mean_and_shuffles_pixels():
    """With a trunk of zeros, every pixel of a 4x4 cell is the mean colour plus the last bias."""
    params = jax.tree.map(jnp.zeros_like, random_params(SMALL["edsr"]))
    params["upsampler"]["tail"]["bias"] = jnp.array([0.1, 0.2, 0.3])
    (lr,) = images((1, 2, 3))
    sr = SMALL["edsr"].apply({"params": params}, lr, lr)
    np.testing.assert_allclose(sr, np.broadcast_to(np.add(DIV2K_MEAN, [0.1, 0.2, 0.3]), (1, 8, 12, 3)), rtol=1e-6)


@pytest.mark.parametrize("valid", [None, (3, 2)])
def test_channel_attention_by_hand(valid):
    model, rng = ChannelAttention(reduction=2), np.random.default_rng(1)
    x = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    params = jax.tree.map(
        lambda a: rng.standard_normal(a.shape).astype(np.float32), model.init(jax.random.key(0), x)["params"]
    )
    expected = np.zeros_like(x)
    h, w = valid or x.shape[1:3]
    for n in range(2):
        mean = [sum(x[n, i, j, c] for i in range(h) for j in range(w)) / (h * w) for c in range(6)]
        hidden = [
            max(0, sum(mean[c] * params["down"]["kernel"][c, k] for c in range(6)) + params["down"]["bias"][k])
            for k in range(3)
        ]
        for c in range(6):
            logit = sum(hidden[k] * params["up"]["kernel"][k, c] for k in range(3)) + params["up"]["bias"][c]
            expected[n, :, :, c] = x[n, :, :, c] / (1 + np.exp(-logit))
    got = model.apply({"params": params}, x, None if valid is None else jnp.array([valid, valid]))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_rcan_leaves_padding_out_of_its_means():
    model, params = SMALL["rcan"], random_params(SMALL["rcan"])
    (lr,) = images((1, 24, 26))
    padded = jnp.zeros((1, 40, 40, 3)).at[:, :24, :26].set(lr)
    alone = model.apply({"params": params}, lr, lr)
    masked = model.apply({"params": params}, padded, lr, jnp.array([[24, 26]]))
    unmasked = model.apply({"params": params}, padded, lr)
    inside = np.s_[:, :16, :16]
    near, far = (np.abs(other[inside] - alone[inside]).mean() for other in (masked, unmasked))
    assert near < 0.2 * far
