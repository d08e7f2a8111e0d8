"""PyTorch-layout weights: there and back, and what does not fit."""

import jax
import numpy as np
import pytest

from rrsr_jax import weights
from rrsr_jax.errors import InputError
from tests.conftest import tiny_rrsr
from tests.golden import recipe


@pytest.mark.parametrize("kind", weights.KINDS)
def test_round_trip_keeps_every_bit(kind, state_dict):
    original = {k: v for k, v in state_dict(kind).items() if not k.startswith("LTE_copy.")}
    original |= {k.replace("LTE.", "LTE_copy."): v for k, v in original.items() if k.startswith("LTE.")}
    back = weights.to_torch(kind, weights.from_torch(kind, original))
    assert back.keys() == original.keys() == recipe.KEYS[kind].keys()
    for key, value in original.items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_differences_are_listed_all_together(state_dict):
    broken = state_dict("c2_extractor")
    gone, *_, wrong = list(broken)[:6]
    del broken[gone]
    broken[wrong] = broken[wrong][:-1]
    broken["classifier.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError) as error:
        weights.from_torch("c2_extractor", broken)
    for part in (
        "3 differences",
        f"missing: {gone} (64, 3, 3, 3)",
        "unexpected: classifier.weight (2, 2)",
        f"wrong shape: {wrong}: (128,) expected, got (127,)",
    ):
        assert part in str(error.value)


def test_unknown_kind():
    with pytest.raises(InputError, match=r"unknown kind of weights 'vgg16'; there are: vgg19, c2_extractor"):
        weights.from_torch("vgg16", {})


def test_blocks_without_a_name_are_refused():
    with pytest.raises(InputError, match="no block 2 at 1x"):
        weights.to_torch("rrsr_restoration", {"fas_1x_1": {"align": {"bias": np.zeros(3)}}})
    with pytest.raises(InputError, match="no block 4 at 4x"):
        weights.to_torch("rrsr_restoration", {"fas_4x_3": {"align": {"bias": np.zeros(3)}}})


def test_layouts_of_rrsr_and_c2_matching_are_not_mixed_up():
    bias = {"bias": np.zeros(3)}
    with pytest.raises(InputError, match="no block 2 at 2x; 1 at each scale"):
        weights.to_torch("c2_restoration", {"fas_2x_1": {"align": bias}})
    with pytest.raises(InputError, match="fas_2x_0/select/bias has no counterpart"):
        weights.to_torch("c2_restoration", {"fas_2x_0": {"select": bias}})
    with pytest.raises(InputError, match="fas_2x_0/merge/bias has no counterpart"):
        weights.to_torch("rrsr_restoration", {"fas_2x_0": {"merge": bias}})


def test_vgg_file_may_go_further_than_the_network(tmp_path, state_dict):
    more = {
        "features.30.weight": np.zeros((512, 512, 3, 3), np.float32),
        "classifier.0.bias": np.zeros(4096, np.float32),
    }
    np.savez(tmp_path / "vgg.npz", **state_dict("vgg19"), **more)
    assert "conv5_1" in weights.load("vgg19", str(tmp_path / "vgg.npz"))


def test_small_models_export_under_the_same_names():
    lr, ref = np.zeros((1, 3, 3, 3), np.float32), np.zeros((1, 12, 12, 3), np.float32)
    params = jax.eval_shape(tiny_rrsr(alignments=(1, 3, 3)).init, jax.random.key(0), lr, ref)["params"]
    trained = {k: v for k, v in params.items() if k not in ("vgg", "correspondence")}
    exported = weights.to_torch("rrsr_restoration", jax.tree.map(lambda a: np.zeros(a.shape, np.float32), trained))
    assert set(exported) < set(recipe.KEYS["rrsr_restoration"])
    assert exported["dyn_agg_restore.head_medium_third.weight"].shape == (2, 8, 14, 3, 3)


def test_npz_file(tmp_path, state_dict):
    path = tmp_path / "extractor.npz"
    np.savez(path, **state_dict("c2_extractor"))
    loaded = weights.load("c2_extractor", str(path))
    expected = weights.from_torch("c2_extractor", state_dict("c2_extractor"))
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_files_that_cannot_be_weights(tmp_path):
    with pytest.raises(InputError, match="vgg19 weights: no file"):
        weights.load("vgg19", str(tmp_path / "vgg.npz"))
    (tmp_path / "vgg.txt").write_text("no")
    with pytest.raises(InputError, match=r"\.npz, \.pth or \.pt file expected"):
        weights.load("vgg19", str(tmp_path / "vgg.txt"))
    (tmp_path / "vgg.npz").write_text("no")
    with pytest.raises(InputError, match=r"vgg\.npz.* cannot be read"):
        weights.load("vgg19", str(tmp_path / "vgg.npz"))
    np.savez(tmp_path / "code.npz", a=np.array([print], dtype=object))
    with pytest.raises(InputError, match=r"code\.npz.* cannot be read"):
        weights.load("vgg19", str(tmp_path / "code.npz"))
