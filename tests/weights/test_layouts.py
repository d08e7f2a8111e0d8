"""PyTorch-layout state dicts: there and back, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax.errors import InputError
from rrsr_jax.weights import layouts as torch_layout
from tests.golden import recipe
from tests.helpers import any_bits, tiny_rrsr


@pytest.mark.parametrize("kind", torch_layout.KINDS)
def test_round_trip_keeps_every_bit(kind, state_dict):
    original = {k: v for k, v in state_dict(kind).items() if not k.startswith("LTE_copy.")}
    original |= {k.replace("LTE.", "LTE_copy."): v for k, v in original.items() if k.startswith("LTE.")}
    back = torch_layout.to_torch(kind, torch_layout.from_torch(kind, original))
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
        torch_layout.from_torch("c2_extractor", broken)
    for part in (
        "3 differences",
        f"missing: {gone} (64, 3, 3, 3)",
        "unexpected: classifier.weight (2, 2)",
        f"wrong shape: {wrong}: (128,) expected, got (127,)",
    ):
        assert part in str(error.value)


def test_unknown_kind():
    with pytest.raises(InputError, match=r"unknown kind of weights 'vgg16'; there are: vgg19, c2_extractor"):
        torch_layout.from_torch("vgg16", {})


def test_blocks_without_a_name_are_refused():
    with pytest.raises(InputError, match="no block 2 at 1x"):
        torch_layout.to_torch("rrsr_restoration", {"fas_1x_1": {"align": {"bias": np.zeros(3)}}})
    with pytest.raises(InputError, match="no block 4 at 4x"):
        torch_layout.to_torch("rrsr_restoration", {"fas_4x_3": {"align": {"bias": np.zeros(3)}}})


def test_layouts_of_rrsr_and_c2_matching_are_not_mixed_up():
    bias = {"bias": np.zeros(3)}
    with pytest.raises(InputError, match="no block 2 at 2x; 1 at each scale"):
        torch_layout.to_torch("c2_restoration", {"fas_2x_1": {"align": bias}})
    with pytest.raises(InputError, match="fas_2x_0/select/bias has no counterpart"):
        torch_layout.to_torch("c2_restoration", {"fas_2x_0": {"select": bias}})
    with pytest.raises(InputError, match="fas_2x_0/merge/bias has no counterpart"):
        torch_layout.to_torch("rrsr_restoration", {"fas_2x_0": {"merge": bias}})


def test_vgg_file_may_go_further_than_the_network(state_dict):
    more = {
        "features.30.weight": np.zeros((512, 512, 3, 3), np.float32),
        "classifier.0.bias": np.zeros(4096, np.float32),
    }
    assert "conv5_1" in torch_layout.from_torch("vgg19", state_dict("vgg19") | more)
    with pytest.raises(InputError, match=r"1 differences(.|\n)*unexpected: features\.29\.weight \(4,\)"):
        torch_layout.from_torch("vgg19", state_dict("vgg19") | {"features.29.weight": np.zeros(4)})


def test_small_models_export_under_the_same_names():
    lr, ref = np.zeros((1, 3, 3, 3), np.float32), np.zeros((1, 12, 12, 3), np.float32)
    params = jax.eval_shape(tiny_rrsr(alignments=(1, 3, 3)).init, jax.random.key(0), lr, ref)["params"]
    trained = {k: v for k, v in params.items() if k not in ("vgg", "correspondence")}
    exported = torch_layout.to_torch("rrsr_restoration", jax.tree.map(lambda a: np.zeros(a.shape, np.float32), trained))
    assert set(exported) < set(recipe.KEYS["rrsr_restoration"])
    assert exported["dyn_agg_restore.head_medium_third.weight"].shape == (2, 8, 14, 3, 3)


@pytest.mark.parametrize("kind", ["c2_extractor", "masa"])
def test_round_trip_of_any_bits(kind):
    original = any_bits(kind)
    params = torch_layout.from_torch(kind, original)
    back = torch_layout.to_torch(kind, params)
    assert {k: v.tobytes() for k, v in back.items()} == {k: v.tobytes() for k, v in original.items()}
    again = torch_layout.from_torch(kind, back)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32)), again, params)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_precisions_become_float32(dtype, state_dict):
    state = {k: v.astype(dtype) for k, v in state_dict("c2_extractor").items()}
    params = torch_layout.from_torch("c2_extractor", state)
    expected = torch_layout.from_torch("c2_extractor", {k: v.astype(np.float32) for k, v in state.items()})
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_what_is_no_array_of_floating_point_numbers(state_dict):
    broken = state_dict("c2_extractor") | {"epoch": 3, "more": [[1], [2, 3]]}
    whole, text, *_ = broken
    broken[whole] = broken[whole].astype(np.int8)
    broken[text] = "weights"
    with pytest.raises(InputError) as error:
        torch_layout.from_torch("c2_extractor", broken)
    for part in (
        "5 differences",
        f"missing: {text} (64,)",
        f"not an array: {text}: str",
        "not an array: epoch: int",
        "not an array: more: list",
        f"wrong type: {whole}: floating-point numbers expected, got int8",
    ):
        assert part in str(error.value)


def test_numbers_beyond_float32(state_dict):
    state = state_dict("c2_extractor")
    key = next(iter(state))
    state[key] = np.full(state[key].shape, 1e39)
    with pytest.raises(InputError, match=rf"{key}: float64 with numbers beyond float32"):
        torch_layout.from_torch("c2_extractor", state)
