"""PyTorch-layout state dicts: there and back, and what does not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.errors import InputError
from rrsr_jax.weights import layouts
from tests.golden import recipe
from tests.helpers import any_bits, tiny_rrsr

# torchvision's VGG-16, whose keys are not in the golden list: `features.N` and channels of each convolution.
VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}


def vgg16(stop):
    """Weights of torchvision's VGG-16 up to `features.<stop>`."""
    rng, state, before = np.random.default_rng(0), {}, 3
    for index, channels in VGG16.items():
        if index <= stop:
            state[f"features.{index}.weight"] = rng.standard_normal((channels, before, 3, 3), np.float32)
            state[f"features.{index}.bias"] = rng.standard_normal(channels, np.float32)
        before = channels
    return state


@pytest.mark.parametrize("kind", weights.KINDS, ids=lambda kind: kind.name)
def test_round_trip_keeps_every_bit(kind, state_dict):
    if kind.name == "vgg16":
        original = vgg16(stop=14)
    else:
        original = {k: v for k, v in state_dict(kind.layout).items() if not k.startswith("LTE_copy.")}
        original |= {k.replace("LTE.", "LTE_copy."): v for k, v in original.items() if k.startswith("LTE.")}
        assert original.keys() == recipe.KEYS[kind.layout].keys()
    back = weights.to_torch(kind.layout, weights.from_torch(kind.layout, original))
    assert back.keys() == original.keys()
    for key, value in original.items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("kind", weights.KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_a_network_by_both_names(kind):
    network = models.published(kind.name)
    assert network == models.published(kind.layout)
    if kind.name in models.MODELS and kind.name != "srntt":  # whose published VGG is MatConvNet's
        assert network == models.MODELS[kind.name]()


def test_unknown_network():
    with pytest.raises(InputError, match=r"kind of network: one of rrsr, .*, dists expected, got 'vdsr'"):
        models.published("vdsr")


def basicsr(key):
    """A key of ESRGAN's in BasicSR."""
    names = {"trunk_conv": "conv_body", "upconv1": "conv_up1", "upconv2": "conv_up2", "HRconv": "conv_hr"}
    for old, new in {"RRDB_trunk": "body", "RDB": "rdb", **names}.items():
        key = key.replace(old, new)
    return key


def first_esrgan(key):
    """A key of ESRGAN's in its first release."""
    module, leaf = key.rsplit(".", 1)
    names = {
        "conv_first": "0",
        "trunk_conv": "1.sub.23",
        "upconv1": "3",
        "upconv2": "6",
        "HRconv": "8",
        "conv_last": "10",
    }
    if module in names:
        return f"model.{names[module]}.{leaf}"
    return f"{module.replace('RRDB_trunk', 'model.1.sub')}.0.{leaf}"


@pytest.mark.parametrize("rename", [basicsr, first_esrgan])
def test_other_names_of_esrgan(rename, state_dict):
    state = state_dict("esrgan")
    renamed = {rename(key): value for key, value in state.items()}
    changed = len(renamed.keys() - state.keys())
    assert changed == len(state) - (4 if rename is basicsr else 0)
    found, expected = weights.from_torch("esrgan", renamed), weights.from_torch("esrgan", state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("weight", "bias"), [("weights:0", "biases:0"), ("kernel", "bias")])
def test_variables_of_tensorflow(weight, bias, state_dict):
    state, variables = state_dict("enet"), {}
    for key, value in state.items():
        layer, leaf = key.rsplit(".", 1)
        array = value.transpose(2, 3, 1, 0) if leaf == "weight" else value
        variables[f"{layer.replace('.', '/')}/{weight if leaf == 'weight' else bias}"] = array
    assert variables.keys().isdisjoint(state)
    found, expected = weights.from_torch("enet", variables), weights.from_torch("enet", state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_linear_layers_of_tensorflow(state_dict):
    key = "discriminator.fc1.weight"
    state = state_dict("enet_discriminator")
    renamed = {k: v for k, v in state.items() if k != key} | {"discriminator/fc1/weights": state[key].T}
    found = weights.from_torch("enet_discriminator", renamed)["params"]["linear2"]["kernel"]
    np.testing.assert_array_equal(found, state[key].T)


def test_nlsn_for_images_of_another_range_is_refused(state_dict):
    state = state_dict("nlsn_small")
    weights.from_torch("nlsn_small", {k: v for k, v in state.items() if "_mean" not in k})
    state["sub_mean.bias"] = state["sub_mean.bias"] * 255
    with pytest.raises(
        InputError, match=r"sub_mean\.bias: \[-0\.4488, -0\.4371, -0\.404\] expected, for images in \[0, 1\]"
    ):
        weights.from_torch("nlsn_small", state)


def test_deeper_nlsn_has_no_names():
    bias = {"bias": np.zeros(3)}
    for path in ("attention_5", "group_0_block_8"):
        module = {"match": bias} if "attention" in path else {"conv1": bias}
        with pytest.raises(InputError, match="has 4 groups of 8 blocks, and no more"):
            weights.to_torch("nlsn", {path: module})


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
    for translate in (weights.from_torch, weights.to_torch):
        with pytest.raises(
            InputError, match=r"unknown kind of weights 'vgg'; there are: vgg19, vgg16, correspondence, "
        ):
            translate("vgg", {})


def test_kinds_differ():
    names = [name for kind in weights.KINDS for name in {kind.name, kind.layout}]
    assert len(names) == len(set(names))
    settings = [kind.setting for kind in weights.KINDS]
    assert len(settings) == len(set(settings))


@pytest.mark.parametrize("kind", weights.KINDS, ids=lambda kind: kind.name)
def test_every_rule_is_the_first_to_match_something(kind):
    modules = {path.rpartition("/")[0] for path in layouts.shapes(kind.name)}
    used = {next(rule for rule in kind.rules if re.fullmatch(rule, module)) for module in modules}
    assert used == set(kind.rules)


def test_a_kind_has_two_names(state_dict):
    state = state_dict("c2_extractor")
    params, same = weights.from_torch("c2_extractor", state), weights.from_torch("correspondence", state)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert weights.to_torch("correspondence", params).keys() == state.keys()


def test_blocks_without_a_name_are_refused():
    with pytest.raises(InputError, match="no block 2 at 1x"):
        weights.to_torch("rrsr_restoration", {"fas_1x_1": {"align": {"bias": np.zeros(3)}}})
    with pytest.raises(InputError, match="no block 4 at 4x"):
        weights.to_torch("rrsr_restoration", {"fas_4x_3": {"align": {"bias": np.zeros(3)}}})


def test_layouts_of_rrsr_and_c2_matching_are_not_mixed_up():
    bias = {"bias": np.zeros(3)}
    with pytest.raises(InputError, match="no block 2 at 2x; it has 1 at each scale"):
        weights.to_torch("c2_restoration", {"fas_2x_1": {"align": bias}})
    with pytest.raises(InputError, match="fas_2x_0/select/bias has no counterpart"):
        weights.to_torch("c2_restoration", {"fas_2x_0": {"select": bias}})
    with pytest.raises(InputError, match="fas_2x_0/merge/bias has no counterpart"):
        weights.to_torch("rrsr_restoration", {"fas_2x_0": {"merge": bias}})


def test_vgg_file_may_go_further_than_the_network(state_dict):
    more = {
        "features.30.weight": np.zeros((512, 512, 3, 3), np.float32),
        "classifier.0.bias": np.zeros(4096, np.float32),
    }
    assert "conv5_1" in weights.from_torch("vgg19", state_dict("vgg19") | more)
    with pytest.raises(InputError, match=r"1 differences(.|\n)*unexpected: features\.29\.weight \(4,\)"):
        weights.from_torch("vgg19", state_dict("vgg19") | {"features.29.weight": np.zeros(4)})


def test_branches_of_the_correspondence_net_fit_into_vgg16():
    """torchvision's file goes to conv5_3 and a classifier; the layers that the branches have are those up to conv3_1."""
    state = vgg16(stop=28) | {"classifier.6.weight": np.zeros((1000, 4096), np.float32)}
    layers = weights.from_torch("vgg16", state)
    np.testing.assert_array_equal(layers["conv3_1"]["kernel"], state["features.10.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(layers["conv2_2"]["bias"], state["features.7.bias"])
    shapes = {path: shape for path, shape in layouts.shapes("correspondence").items() if path.startswith("branch_ref")}
    assert len(shapes) == 10
    for path, shape in shapes.items():
        _, layer, leaf = path.split("/")
        assert layers[layer][leaf].shape == shape


def test_files_of_vgg16_and_vgg19_are_not_mixed_up(state_dict):
    with pytest.raises(InputError, match=r"vgg16 weights do not fit(.|\n)*unexpected: features\.16\.weight"):
        weights.from_torch("vgg16", state_dict("vgg19"))
    with pytest.raises(InputError, match=r"vgg19 weights do not fit(.|\n)*unexpected: features\.17\.weight"):
        weights.from_torch("vgg19", vgg16(stop=28))


def test_small_models_export_under_the_same_names():
    lr, ref = np.zeros((1, 3, 3, 3), np.float32), np.zeros((1, 12, 12, 3), np.float32)
    params = jax.eval_shape(tiny_rrsr(alignments=(1, 3, 3)).init, jax.random.key(0), lr, ref)["params"]
    trained = {k: v for k, v in params.items() if k not in ("vgg", "correspondence")}
    exported = weights.to_torch("rrsr_restoration", jax.tree.map(lambda a: np.zeros(a.shape, np.float32), trained))
    assert set(exported) < set(recipe.KEYS["rrsr_restoration"])
    assert exported["dyn_agg_restore.head_medium_third.weight"].shape == (2, 8, 14, 3, 3)


@pytest.mark.parametrize("kind", ["c2_extractor", "masa"])
def test_round_trip_of_any_bits(kind):
    original = any_bits(kind)
    params = weights.from_torch(kind, original)
    back = weights.to_torch(kind, params)
    assert {k: v.tobytes() for k, v in back.items()} == {k: v.tobytes() for k, v in original.items()}
    again = weights.from_torch(kind, back)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32)), again, params)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_precisions_become_float32(dtype, state_dict):
    state = {k: v.astype(dtype) for k, v in state_dict("c2_extractor").items()}
    params = weights.from_torch("c2_extractor", state)
    expected = weights.from_torch("c2_extractor", {k: v.astype(np.float32) for k, v in state.items()})
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_what_is_no_array_of_floating_point_numbers(state_dict):
    broken = state_dict("c2_extractor") | {"epoch": 3, "more": [[1], [2, 3]]}
    integers, text, *_ = broken
    broken[integers] = broken[integers].astype(np.int8)
    broken[text] = "weights"
    with pytest.raises(InputError) as error:
        weights.from_torch("c2_extractor", broken)
    for part in (
        "5 differences",
        f"missing: {text} (64,)",
        f"not an array: {text}: str",
        "not an array: epoch: int",
        "not an array: more: list",
        f"wrong type: {integers}: floating-point numbers expected, got int8",
    ):
        assert part in str(error.value)


def test_numbers_beyond_float32(state_dict):
    state = state_dict("c2_extractor")
    key = next(iter(state))
    state[key] = np.full(state[key].shape, 1e39)
    with pytest.raises(InputError, match=rf"{key}: float64 with numbers beyond float32"):
        weights.from_torch("c2_extractor", state)
