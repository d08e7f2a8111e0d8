"""Names and layouts of the published checkpoints: PyTorch state dicts to Flax variables and back.

vgg19             torchvision's VGG-19 up to relu5_1     -> parameters of `VGG("relu5_1")`
c2_extractor      C2-Matching's correspondence network   -> parameters of `CorrespondenceNet`
rrsr_restoration  RRSR's trained part                    -> parameters of `RRSR`, without `vgg` and `correspondence`
c2_restoration    C2-Matching's trained part             -> parameters of `C2Matching`, likewise
ttsr              TTSR's texture extractor and main net  -> parameters of `TTSR`
masa              MASA                                   -> parameters of `MASA`
c2_discriminator  the GAN stage's image discriminator    -> variables of `Discriminator` (`params`, `batch_stats`)
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rrsr_jax.errors import InputError, check_shapes
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.masa import MASA
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.models.ttsr import TTSR

_SIZES = {"1": "small", "2": "medium", "4": "large"}
_ORDINALS = ("first", "second", "third")
_IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
_TTSR_MAP = {"1": "1", "2": "2", "4": "3"}
_TTSR_EXCHANGE = {"2": "ex12", "4": "ex123"}
_TTSR_SLICE = {"1_1": "1", "1_2": "2", "2_1": "2", "2_2": "3", "3_1": "3"}
_LEAVES = {"kernel": "weight", "experts": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Axes that bring a PyTorch array to Flax layout, by leaf name and rank; every other array is the same in both.
_AXES = {("kernel", 2): (1, 0), ("kernel", 4): (2, 3, 1, 0), ("experts", 5): (0, 3, 4, 2, 1)}
# Counts training batches in PyTorch's batch normalisation; with a fixed momentum nothing depends on it.
_COUNTER = "num_batches_tracked"
# TTSR's checkpoints hold its texture extractor twice; the copy, behind a loss, is made anew from the first.
_EXTRACTOR, _EXTRACTOR_COPY = "LTE.", "LTE_copy."
# What checkpoints hold and the Flax variables do not; torchvision's file goes beyond relu5_1 and has the classifier.
_LEFT_OUT = {
    "vgg19": r"(features\.(30|32|34)|classifier\.[036])\.(weight|bias)",
    "c2_discriminator": rf".*\.{_COUNTER}",
    "ttsr": rf"{re.escape(_EXTRACTOR_COPY)}.*",
}

_VGG19_INDEX = {
    "1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14, "3_4": 16, "4_1": 19, "4_2": 21, "4_3": 23,
    "4_4": 25, "5_1": 28,
}  # fmt: skip


def _ordinal(scale: str, index: int) -> str:
    """What tells RRSR's blocks of one scale apart."""
    if index >= (1 if scale == "1" else len(_ORDINALS)):
        raise InputError(
            f"the PyTorch layout has no block {index + 1} at {scale}x; 1 at 1x and 3 at 2x and 4x have names"
        )
    return "" if scale == "1" else f"_{_ORDINALS[index]}"


def _only(scale: str, index: int) -> str:
    """C2-Matching's blocks are one to a scale."""
    if index:
        raise InputError(
            f"C2-Matching's PyTorch layout has no block {index + 1} at {scale}x; 1 at each scale has a name"
        )
    return ""


def _part(order: Callable[[str, int], str], part: str, match: re.Match, rest: str = "") -> str:
    """Name of a part of the block that `match` names: SIZE stands for the scale's word, `order` gives the ending."""
    return f"dyn_agg_restore.{part.replace('SIZE', _SIZES[match[1]])}{order(match[1], int(match[2]))}{rest}"


def _trunk_rules(order: Callable[[str, int], str]) -> dict[str, Callable | str]:
    """What RRSR and C2-Matching share."""
    part = functools.partial(_part, order)
    return {
        r"context_encoder/conv_first": r"content_extractor.conv_first",
        r"context_encoder/block_(\d+)/(\w+)": r"content_extractor.body.\1.\2",
        r"fas_(\d)x_(\d)/align": lambda m: part("SIZE_dyn_agg", m),
        r"fas_(\d)x_(\d)/align/offset_\dx/head": lambda m: part("SIZE_dyn_agg", m, ".conv_offset_mask"),
        r"fas_(\d)x_(\d)/align/offset_\dx/(\w+)": lambda m: part(f"SIZE_offset_{m[3]}", m),
        r"fas_(\d)x_(\d)/block_(\d+)/(\w+)": lambda m: part("body_SIZE", m, f".{m[3]}.{m[4]}"),
        r"up_(\d)x": lambda m: f"dyn_agg_restore.tail_{_SIZES[m[1]]}.0",
        r"tail(\d)": lambda m: f"dyn_agg_restore.tail_large.{2 * int(m[1]) - 2}",
    }


# Module path -> PyTorch module name, as regular expressions; the leaf is translated apart from it.
_RULES = {
    "vgg19": {r"conv(\d_\d)": lambda m: f"features.{_VGG19_INDEX[m[1]]}"},
    "c2_extractor": {
        r"branch_lr/(\w+)": r"feature_extraction_image1.model.\1",
        r"branch_ref/(\w+)": r"feature_extraction_image2.model.\1",
    },
    "c2_discriminator": {
        r"\w+/block(\d)_conv(\d)": lambda m: f"conv_block{m[1]}.{3 * int(m[2]) - 3}",
        r"\w+/block(\d)_norm(\d)": lambda m: f"conv_block{m[1]}.{3 * int(m[2]) - 2}",
        r"\w+/head(\d)": lambda m: f"out_block.{2 * int(m[1]) - 1}",
    },
    "rrsr_restoration": _trunk_rules(_ordinal)
    | {
        r"fas_(\d)x_(\d)/select": lambda m: _part(_ordinal, "head_SIZE", m),
        r"fas_(\d)x_(\d)/select/router": lambda m: _part(_ordinal, "head_SIZE", m, ".routing_func.0"),
        r"fas_(\d)x_(\d)/select/gate(\d)": lambda m: _part(_ordinal, "head_SIZE", m, f".se.{2 * int(m[3]) - 2}"),
    },
    "c2_restoration": _trunk_rules(_only) | {r"fas_(\d)x_(\d)/merge": lambda m: _part(_only, "head_SIZE", m, ".0")},
    "ttsr": {
        r"vgg/conv(\d_\d)": lambda m: f"LTE.slice{_TTSR_SLICE[m[1]]}.{_VGG19_INDEX[m[1]]}",
        r"head": "MainNet.SFE.conv_head",
        r"head_body/block_(\d+)/(\w+)": r"MainNet.SFE.RBs.\1.\2",
        r"head_body/conv": "MainNet.SFE.conv_tail",
        r"up_2x": "MainNet.conv12",
        r"up_4x": "MainNet.conv23",
        r"merge_(\d)x": lambda m: f"MainNet.conv{_TTSR_MAP[m[1]]}{_TTSR_MAP[m[1]]}_head",
        r"body_(\d)x_(\d)x/block_(\d+)/(\w+)": lambda m: f"MainNet.RB{_TTSR_MAP[m[1]]}{_TTSR_MAP[m[2]]}.{m[3]}.{m[4]}",
        r"body_(\d)x_(\d)x/conv": lambda m: f"MainNet.conv{_TTSR_MAP[m[1]]}{_TTSR_MAP[m[2]]}_tail",
        r"exchange_(\d)x/merge_(\d)x": lambda m: f"MainNet.{_TTSR_EXCHANGE[m[1]]}.conv_merge{_TTSR_MAP[m[2]]}",
        r"exchange_(\d)x/from_(\d)x_to_(\d)x(_\d)?": lambda m: (
            f"MainNet.{_TTSR_EXCHANGE[m[1]]}.conv{_TTSR_MAP[m[2]]}{_TTSR_MAP[m[3]]}{m[4] or ''}"
        ),
        r"tail_(\d)x": lambda m: f"MainNet.merge_tail.conv{_TTSR_MAP[m[1]]}3",
        r"tail_merge": "MainNet.merge_tail.conv_merge",
        r"tail(\d)": r"MainNet.merge_tail.conv_tail\1",
    },
    "masa": {
        r"encoder/level_(\d)/conv": r"enc.conv_L\1",
        r"encoder/level_(\d)/block_(\d+)/(\w+)": r"enc.blk_L\1.\2.\3",
        r"decoder_(\d)/conv": r"decoder.conv_L\1",
        r"decoder_(\d)/block_(\d+)/(\w+)": r"decoder.blk_L\1.\2.\3",
        r"merge_1x/conv": "decoder.merge_warp_x1",
        r"merge_1x/block_(\d+)/(\w+)": r"decoder.blk_x1.\1.\2",
        r"merge_([24])x/merge": r"decoder.dram_x\1.conv_cat",
        r"merge_([24])x/(\w+)": r"decoder.dram_x\1.conv_\2",
        r"block_([24])x_(\d+)/(\w+)": r"decoder.blk_x\1.\2.\3",
        r"adapt/shared": "decoder.pAda.conv_shared.0",
        r"adapt/(\w+)": r"decoder.pAda.conv_\1",
        r"last": "decoder.conv_out",
    },
}


def _all(model):
    small = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), small, _IMAGE)["params"]


def _trained(model: RRSR):
    return {k: v for k, v in _all(model).items() if k not in ("vgg", "correspondence")}


# What each kind's variables look like: names and shapes, without computing anything.
_TEMPLATES: dict[str, Callable] = {
    "vgg19": lambda: jax.eval_shape(VGG("relu5_1").init, jax.random.key(0), _IMAGE)["params"],
    "c2_extractor": lambda: jax.eval_shape(CorrespondenceNet().init, jax.random.key(0), _IMAGE, _IMAGE)["params"],
    "c2_discriminator": lambda: jax.eval_shape(
        functools.partial(Discriminator().init, train=False), jax.random.key(0), _IMAGE
    ),
    "rrsr_restoration": lambda: _trained(RRSR()),
    "c2_restoration": lambda: _trained(C2Matching()),
    "ttsr": lambda: _all(TTSR()),
    "masa": lambda: _all(MASA()),
}
KINDS = tuple(_TEMPLATES)


class _Entry(NamedTuple):
    """How one Flax array is called and laid out in PyTorch."""

    key: str
    axes: tuple[int, ...] | None


def _entry(kind: str, path: str, rank: int) -> _Entry:
    module, _, leaf = path.rpartition("/")
    for pattern, replacement in _RULES[kind].items():
        if match := re.fullmatch(pattern, module):
            name = replacement(match) if callable(replacement) else match.expand(replacement)
            return _Entry(f"{name}.{_LEAVES.get(leaf, leaf)}", _AXES.get((leaf, rank)))
    raise InputError(f"{kind}: parameter {path} has no counterpart in the PyTorch checkpoint")


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a kind's Flax variables by their paths, `conv1_1/kernel`.

    Raises:
      InputError: an unknown kind.
    """
    _check_kind(kind)
    return {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(_TEMPLATES[kind](), sep="/").items()}


def from_torch(kind: str, state_dict: Mapping[str, np.ndarray]) -> dict:
    """Flax variables, float32, from a PyTorch-layout state dict.

    Args:
      kind: one of `KINDS`.
      state_dict: arrays of floating-point numbers by key, convolution weights as (O, I, kH, kW).

    Raises:
      InputError: an unknown kind; or values that are missing, unexpected, of a wrong shape or no such arrays, listing all of
        them; or numbers beyond float32.
    """
    template = shapes(kind)
    entries = {path: _entry(kind, path, len(shape)) for path, shape in template.items()}
    got = {k: v for k, v in state_dict.items() if not re.fullmatch(_LEFT_OUT.get(kind, ""), k)}
    _check(kind, {e.key: _torch_shape(template[path], e.axes) for path, e in entries.items()}, got)
    flat = {}
    for path, (key, axes) in entries.items():
        array = np.asarray(got[key])
        flat[path] = _float32(key, array if axes is None else array.transpose(axes))
    return traverse_util.unflatten_dict(flat, sep="/")


def _check(kind: str, expected: Mapping[str, tuple], got: Mapping) -> None:
    """Raises InputError that lists everything about `got` that is not as expected."""
    arrays = {k: v for k, v in got.items() if hasattr(v, "dtype")}
    wrong = [f"not an array: {k}: {type(v).__name__}" for k, v in got.items() if k not in arrays]
    wrong += [
        f"wrong type: {k}: floating-point numbers expected, got {v.dtype}"
        for k, v in arrays.items()
        if k in expected and not jnp.issubdtype(v.dtype, jnp.floating)
    ]
    check_shapes(f"{kind} weights", expected, {k: v.shape for k, v in arrays.items()}, wrong)


def _float32(key: str, array: np.ndarray) -> np.ndarray:
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return np.ascontiguousarray(array, dtype=np.float32)
    except FloatingPointError as error:
        raise InputError(f"{key}: {array.dtype} with numbers beyond float32") from error


def to_torch(kind: str, params: Mapping) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`; takes variables of other widths and depths, too."""
    _check_kind(kind)
    state_dict = {}
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
        key, axes = _entry(kind, path, np.ndim(value))
        value = np.asarray(value)
        state_dict[key] = np.ascontiguousarray(value if axes is None else value.transpose(np.argsort(axes)))
        if key.endswith(".running_var"):
            state_dict[key.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    copied = {
        k.replace(_EXTRACTOR, _EXTRACTOR_COPY): v.copy() for k, v in state_dict.items() if k.startswith(_EXTRACTOR)
    }
    return state_dict | copied


def _check_kind(kind: str) -> None:
    if kind not in _TEMPLATES:
        raise InputError(f"unknown kind of weights {kind!r}; there are: {', '.join(KINDS)}")


def _torch_shape(shape, axes):
    return tuple(shape) if axes is None else tuple(shape[i] for i in np.argsort(axes))
