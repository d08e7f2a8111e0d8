"""C2-Matching against the golden arrays of its authors' release."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rrsr_jax import models, weights
from rrsr_jax.errors import InputError
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.training import losses
from rrsr_jax.training.super_resolution import model_params
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import VGG_OF_RRSR, relative_error, tiny_config

EVERY = 8  # of the largest gradient's output filters, one in so many is kept in the golden file


@pytest.fixture(scope="module")
def params(state_dict):
    """Trained and frozen parameters."""
    vgg = torch_layout.from_torch("vgg19", state_dict("vgg19"))
    frozen = {
        "vgg": {name: vgg[name] for name in VGG_OF_RRSR},
        "correspondence": torch_layout.from_torch("c2_extractor", state_dict("c2_extractor")),
    }
    return torch_layout.from_torch("c2_restoration", state_dict("c2_restoration")), frozen


def test_result_loss_and_gradients_match_release(golden, params):
    images, expected = golden("c2_matching"), golden("c2_gradients")
    trained, frozen = params

    def loss(trained, lr):
        sr = C2Matching().apply({"params": trained | frozen}, lr, images["ref"][None])
        return losses.l1(images["hr"][None], sr), sr

    compute = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, sr), (gradient, of_lr) = compute(trained, images["lr"][None])
    assert relative_error(sr, images["sr"]) < 1e-4
    assert relative_error(value, expected["l1"]) < 1e-4
    assert relative_error(of_lr, expected["grad_lr"]) < 1e-3
    by_key = torch_layout.to_torch("c2_restoration", gradient)
    listed = [k for k in expected if k.startswith("grad/")]
    assert len(listed) == 6
    for name in listed:
        got = by_key[name.removeprefix("grad/")]
        got = got[::EVERY] if len(got) == 256 else got
        assert relative_error(got, expected[name]) < 1e-3, name


def test_trained_parameters():
    shapes = [jax.ShapeDtypeStruct((1, n, n, 3), np.float32) for n in (3, 12)]
    ours, rrsr = (
        jax.eval_shape(model.init, jax.random.key(0), *shapes)["params"]
        for model in (C2Matching(), RRSR(alignments=(1, 1, 1), blocks=(16, 16, 16), experts=0))
    )
    trained = {k: v for k, v in ours.items() if k not in ("vgg", "correspondence")}
    assert sum(a.size for a in jax.tree.leaves(trained)) == 8_865_547
    assert ours == rrsr


def test_built_from_a_config():
    model = models.build(ConfigDict(dict(name="c2_matching", features=8)))
    assert isinstance(model, C2Matching)
    assert (model.features, model.alignments, model.experts) == (8, (1, 1, 1), 0)


def test_fields_that_a_model_does_not_have():
    with pytest.raises(InputError, match=r"config\.model: c2_matching has no colour; it has: features, .*match_tile"):
        models.build(ConfigDict(dict(name="c2_matching", features=8, colour=3)))


@pytest.mark.parametrize("held", [(), ("vgg",)])
def test_weights_that_a_config_names(monkeypatch, held):
    """The file of a model holds what it trains; some hold an encoder, too."""
    fields = {k: v for k, v in tiny_config().model.items() if k not in ("name", "alignments", "blocks", "experts")}
    model = C2Matching(**fields, blocks=(1, 1, 1))
    shapes = [jax.ShapeDtypeStruct((1, n, n, 3), np.float32) for n in (3, 12)]
    params = jax.eval_shape(model.init, jax.random.key(0), *shapes)["params"]
    without = {"vgg", "correspondence"} - set(held)
    saved = jax.tree.map(lambda a: np.full(a.shape, 7.0), {k: v for k, v in params.items() if k not in without})
    monkeypatch.setattr(weights, "load", lambda kind, path: {("c2_matching", "c2.pth"): saved}[kind, path])
    config = tiny_config()
    config.weights = ConfigDict(dict(vgg="", correspondence="", c2_matching="c2.pth"))
    loaded = model_params(model, config, None)
    jax.tree.map(np.testing.assert_array_equal, {k: loaded[k] for k in saved}, saved)
    assert all((a != 7).all() for k in without for a in jax.tree.leaves(loaded[k]))
