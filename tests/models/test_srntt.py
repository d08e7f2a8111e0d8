"""SRNTT against the golden arrays of the authors' release, and its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.models import published
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.resampling import bicubic_downsample
from rrsr_jax.models.srntt import SRNTT
from rrsr_jax.training.initial import initialise, initialise_model
from rrsr_jax.weights import layouts as torch_layout
from tests.helpers import as_float, images, quick_jit, random_params, relative_error


def tiny_srntt():
    return SRNTT(features=8, context_blocks=1, blocks=(1, 1, 1), vgg_channels=(4, 6, 8))


@pytest.fixture(scope="module")
def params():
    def positive(path, value):
        return 1 + abs(value) if path[-1].key == "var" else value

    return jax.tree.map_with_path(positive, random_params(tiny_srntt()))


@quick_jit
def apply(params, lr, ref, valid_ref=None):
    """Result and intermediates; compiled once per shapes, which the tests therefore share."""
    sr, found = tiny_srntt().apply({"params": params}, lr, ref, valid_ref, mutable=["intermediates"])
    return sr, {name: value for name, (value,) in found["intermediates"].items()}


def test_matches_release(golden, state_dict):
    z = as_float(golden("srntt"))
    params = torch_layout.from_torch("srntt", state_dict("srntt"))
    params["vgg"] = torch_layout.from_torch("srntt_vgg19", state_dict("srntt_vgg19"))
    apply = functools.partial(published("srntt").apply, mutable=["intermediates"])
    sr, found = quick_jit(apply)({"params": params}, z["lr"], z["ref"])
    found = found["intermediates"]
    np.testing.assert_array_equal(found["match_index"][0], z["match_index"])
    assert relative_error(found["match_score"][0], z["match_score"]) < 1e-4
    for scale in (1, 2, 4):
        map_ = found[f"transferred_{scale}x"][0][..., ::8]
        assert relative_error(map_, z[f"swapped_{scale}x_every_8th_channel"]) < 1e-4
    assert relative_error(2 * found["upscale"][0] - 1, z["upscale"]) < 1e-4
    assert relative_error(2 * sr - 1, z["sr"]) < 1e-4


def test_parameters():
    params = jax.eval_shape(SRNTT().init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))["params"]
    sizes = {
        jax.tree_util.keystr(path): a.size for path, a in jax.tree.leaves_with_path(params) if path[0].key != "vgg"
    }
    running = {name: size for name, size in sizes.items() if name.endswith(("['mean']", "['var']"))}
    trained = {name: size for name, size in sizes.items() if name not in running}
    assert sum(running.values()) == 11_776
    assert sum(trained.values()) == 4_383_494
    assert sum(size for name, size in trained.items() if name.startswith("['content']")) == 1_518_147


def test_scales_of_the_normalisation_start_around_one():
    params = initialise(functools.partial(initialise_model, tiny_srntt()), 0)
    scales = np.array([value for path, value in jax.tree.leaves_with_path(params) if path[-1].key == "scale"])
    assert 0.9 < scales.mean() < 1.1
    assert 0.01 < scales.std() < 0.03


def test_a_patch_takes_the_best_of_several_references(params):
    """From the sharp version of the input where it is there, whatever lies beside it."""
    hr, other = images((1, 28, 24), (1, 20, 36))
    _, found = apply(params, bicubic_downsample(hr), [other, hr])
    assert (found["match_reference"] == 1).all()
    np.testing.assert_array_equal(found["match_index"], np.arange(20).reshape(1, 5, 4))


def test_patches_of_several_references_are_pasted_together(params):
    hr, wide = images((1, 28, 24), (1, 20, 52))
    refs, lr = [wide[:, :, :36], wide[:, :, 16:]], bicubic_downsample(hr)
    _, found = apply(params, lr, refs)
    apart = [apply(params, lr, ref)[1] for ref in refs]
    second = np.asarray(apart[1]["match_score"] > apart[0]["match_score"])
    assert second.any()
    assert not second.all()
    np.testing.assert_array_equal(found["match_reference"], second)
    # By hand: each cell is the mean over the patches that cover it, of which `second` says whose they are.
    places = [np.asarray(one["match_index"]) for one in (found, *apart)]
    np.testing.assert_array_equal(places[0], np.where(second, places[2], places[1]))
    vgg = VGG("relu3_1", (4, 6, 8))
    maps = [np.asarray(vgg.apply({"params": params["vgg"]}, ref)["relu3_1"])[0] for ref in refs]
    total, count = np.zeros((7, 6, 8)), np.zeros((7, 6, 1))
    for y, x in np.ndindex(5, 4):
        row, column = divmod(int(places[0][0, y, x]), 7)
        total[y : y + 3, x : x + 3] += maps[int(second[0, y, x])][row : row + 3, column : column + 3]
        count[y : y + 3, x : x + 3] += 1
    np.testing.assert_allclose(found["transferred_1x"][0], total / count, atol=1e-5)


def test_a_reference_is_cut_to_whole_cells(params):
    lr, ref = images((1, 7, 6), (1, 23, 37))
    np.testing.assert_allclose(apply(params, lr, ref)[0], apply(params, lr, ref[:, :20, :36])[0], atol=1e-6)


def test_padding_of_a_reference_is_not_matched(params):
    lr, ref = images((1, 7, 6), (1, 20, 36))
    valid = jnp.array([[16, 24]])
    row, column = np.divmod(apply(params, lr, ref, valid)[1]["match_index"][0], 7)
    assert row.max() == 1
    assert column.max() == 3
    row, column = np.divmod(apply(params, lr, ref)[1]["match_index"][0], 7)
    assert row.max() > 1
    assert column.max() > 3
    with pytest.raises(ValueError, match=r"valid_ref: .*\(1, 2\), expected, got \(2,\)"):
        tiny_srntt().apply({"params": params}, lr, ref, valid[0])


def test_images_of_a_batch_do_not_mix(params):
    lr, ref = images((2, 7, 6), (2, 20, 36))
    together, _ = apply(params, lr, ref)
    for i in range(2):
        np.testing.assert_allclose(together[i], apply(params, lr[i : i + 1], ref[i : i + 1])[0][0], atol=1e-5)
    assert np.abs(apply(params, lr, ref[::-1])[0] - together).mean() > 1e-4


def test_gradients_reach_what_is_trained_and_the_reference(params):
    lr, ref, target = images((1, 7, 6), (1, 20, 36), (1, 28, 24))

    def loss(params, ref):
        sr, found = tiny_srntt().apply({"params": params}, lr, ref, mutable=["intermediates"])
        return sum(((x - target) ** 2).sum() for x in (sr, found["intermediates"]["upscale"][0]))

    by_params, by_ref = quick_jit(jax.grad(loss, (0, 1)))(params, ref)
    for path, gradient in jax.tree.leaves_with_path(by_params):
        assert np.isfinite(gradient).all(), path
        assert gradient.any() == (path[-1].key not in ("mean", "var")), path
    assert np.isfinite(by_ref).all()
    assert (np.abs(by_ref).max(-1) > 0).mean() > 0.3
    # Below half an 8-bit value the matches stay what they are, and so finite differences see what the gradient does.
    step = 1e-3 * np.sign(by_ref)
    value = quick_jit(loss)
    ends = [value(params, ref + s * step) for s in (1, -1)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2, (by_ref * step).sum(), rtol=0.05)


def test_training_uses_the_statistics_of_the_batch(params):
    lr, ref = images((2, 7, 6), (2, 20, 36))
    train = quick_jit(
        lambda params: tiny_srntt().apply(
            {"params": params}, lr, ref, train=True, mutable=["batch_stats", "intermediates"]
        )
    )
    sr, new = train(params)
    assert np.abs(sr - apply(params, lr, ref)[0]).mean() > 1e-3
    old = params["content"]["trunk"]["norm"]
    changed = params | {
        "content": params["content"] | {"trunk": params["content"]["trunk"] | {"norm": old | {"mean": old["mean"] + 1}}}
    }
    np.testing.assert_allclose(train(changed)[0], sr, atol=1e-6)
    assert jax.tree.structure(new["batch_stats"]["texture"]) == jax.tree.structure(
        jax.tree.map_with_path(lambda *_: 0, _running(params["texture"]))
    )


def _running(tree):
    """The running statistics among parameters."""
    if "mean" in tree:
        return {name: tree[name] for name in ("mean", "var")}
    return {name: kept for name, part in tree.items() if isinstance(part, dict) and (kept := _running(part))}
