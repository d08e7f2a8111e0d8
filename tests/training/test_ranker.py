"""The stage that trains RankSRGAN's Ranker: what it learns from, one step by hand, and the chain of runs around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from rrsr_jax.data.datasets import embedded_photographs
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.niqe import niqe, sharpness
from rrsr_jax.experiments import runs
from rrsr_jax.models.ranksrgan import Ranker
from rrsr_jax.training import rank_set, stages
from rrsr_jax.training import step as steps
from rrsr_jax.training.initial import load_ranker
from tests.helpers import ROOT, get_config

SMALL = dict(features=(3, 4), hidden=5)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of the small chain, with pictures of three methods: one photograph that gets noisier, and one that is flat."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    (photograph,) = embedded_photographs(("chelsea",), 160)
    for amount, method in enumerate(rank_set.METHODS):
        pictures = folder / method / "eval" / "embedded" / "lr_itself"
        pictures.mkdir(parents=True)
        for name, image in {"a": photograph[:160, :240], "flat": np.full((160, 160, 3), 90)}.items():
            noise = rng.normal(0, 12 * amount, image.shape) * (name == "a")
            Image.fromarray(np.uint8(np.clip(image + noise, 0, 255))).save(pictures / f"{name}.png")
    config = get_config("rank_chain:ranker")
    config.model.update(SMALL)
    config.data.patch = 96
    config.batch_size = 4
    config.rank_set.update({method: str(folder / method) for method in rank_set.METHODS}, stride=16)
    return config


def test_patches_that_niqe_tells_apart(config):
    examples = rank_set.read(config)
    assert len(examples) == 5 * 10  # of the one photograph that is not flat
    for example in examples[::20]:
        assert example["images"].shape == (3, 96, 96, 3)
        np.testing.assert_allclose(example["niqe"], [niqe(image, 4, 32) for image in example["images"]], rtol=1e-6)
    shown, held_out = rank_set.split(examples)
    assert (len(shown), len(held_out)) == (45, 5)
    for element in rank_set.held_out_pairs(held_out):
        score = [niqe(element[name], 4, 32) for name in ("first", "second")]
        assert element["label"].item() == (1 if score[0] >= score[1] else -1)
    assert {float(e["label"].item()) for e in rank_set.held_out_pairs(held_out)} <= {1.0, -1.0}


def test_sharpness_by_hand():
    """Two grey values in large stripes: only along the edge there is something to see."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    assert sharpness(np.full((40, 60, 3), 90, np.uint8)) == pytest.approx(0, abs=1e-9)
    assert 0 < sharpness(image) < sharpness(np.tile(image[:, 20:40], (1, 3, 1)))


def test_pictures_that_are_not_there(config):
    missing = config.copy_and_resolve_references()
    missing.rank_set.images = "cufed"
    with pytest.raises(
        InputError, match=r"config\.rank_set\.srresnet=.*pictures expected in .*eval/cufed/lr_itself; eval"
    ):
        rank_set.read(missing)
    with pytest.raises(InputError, match=r"config\.rank_set\.srresnet=.*the workdir of a run expected"):
        stages.build(missing, steps.make_mesh(jax.devices()[:1])).check_sources({})


def test_a_step_by_hand_and_the_share_of_right_orders(config):
    stage = stages.build(config, steps.make_mesh(jax.devices()[:1]))
    state = steps.place(stage.initial_state(), stage.mesh)
    params, statistics = (jax.tree.map(np.array, tree) for tree in (state.generator, state.statistics))
    batch = next(stage.training_data({}).start())
    first, second = (jnp.float32(batch[name]) / 255 for name in ("first", "second"))
    label = batch["label"].reshape(-1)

    def loss(params):
        net, scores, running = Ranker(**SMALL), [], statistics
        for image in (first, second):
            score, new = net.apply(
                {"params": params, "batch_stats": running}, image, train=True, mutable=["batch_stats"]
            )
            scores, running = [*scores, jnp.clip(score, -5, 5)], new["batch_stats"]
        hinge = 0.5 - jnp.where(label > 0, scores[0] - scores[1], scores[1] - scores[0])
        return jnp.where(hinge > 0, hinge, 0).mean(), running

    (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    state, metrics = stage.step(0)(state, batch)
    np.testing.assert_allclose(metrics["ranking"], value, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), dict(state.statistics), dict(running))
    # The decay is added to the gradient, as in PyTorch's Adam.
    moment = steps.merge(state.opt_state["generator"][1].mu, {})
    expected = jax.tree.map(lambda g, p: 0.1 * (g + 1e-4 * p), gradient, params)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, moment, expected))
    assert difference < 1e-2 * optax.tree.norm(expected)

    result = stage.evaluate(jax.tree.map(np.array, state.generator), 1, ROOT, bool)["rank_set"]
    assert result["images"] == 15
    assert 0 <= result["references"]["pairs"]["right_order"] <= 1
    always = stage.evaluate(jax.tree.map(lambda p: 0 * np.array(p), state.generator), 1, ROOT, bool)["rank_set"]
    labels = [p["label"].item() for p in rank_set.held_out_pairs(rank_set.split(rank_set.read(config))[1])]
    assert always["references"]["pairs"]["right_order"] == pytest.approx(np.mean(np.array(labels) > 0))


def test_a_ranker_of_another_size_or_stage_is_refused(tmp_path, state_dict, monkeypatch):
    np.savez(tmp_path / "ranker.npz", **state_dict("ranksrgan_ranker"))
    variables = Ranker(**SMALL).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    with pytest.raises(InputError, match=r"config\.weights\.ranksrgan_ranker\) and config\.ranker"):
        load_ranker(str(tmp_path / "ranker.npz"), variables)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_chain_is_one_list(tmp_path):
    """Each run after those that it needs, with their folders where the configs have names."""
    planned = {run.name: run for run in runs.plan([f"{ROOT}/configs/rank_chain.py"], tmp_path, [], 1)}
    order = list(planned)
    ranker, last = planned["ranker"].config, planned["ranksrgan"].config
    for method in rank_set.METHODS:
        assert ranker.rank_set[method] == str(planned[method].workdir)
        assert order.index(method) < order.index("ranker")
    assert last.weights.ranksrgan_ranker == str(planned["ranker"].workdir)
    assert last.init_from == str(planned["start"].workdir)
    assert order.index("ranker") < order.index("ranksrgan") > order.index("start")
    assert planned["esrgan"].config.init_from == str(planned["psnr"].workdir)
    for run in planned.values():
        runs.check(run, list(planned.values()))
