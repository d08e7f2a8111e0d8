"""Renaming rules: module paths of our Flax variables to module names of the published PyTorch checkpoints.

Each mapping has a regular expression for the Flax path, `fas_2x_0/align`, and what it becomes: a replacement with groups,
`\\1`, or a function of the match. The first expression that matches the path in full counts. The name of the array itself
(`kernel`, `bias`, ...) is not part of the path; `layouts.py` translates it, in the same way for every kind.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rrsr_jax.errors import InputError
from rrsr_jax.models.edsr import DIV2K_MEAN

Rules = Mapping[str, str | Callable[[re.Match[str]], str]]

# Index in torchvision's `features` by layer of VGG-19: a ReLU follows each convolution, and a pooling each stage. VGG-16 has the
# same indices up to conv3_3.
VGG_INDEX = {
    "1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14, "3_4": 16, "4_1": 19, "4_2": 21, "4_3": 23,
    "4_4": 25, "5_1": 28, "5_2": 30, "5_3": 32, "5_4": 34,
}  # fmt: skip

_VGG16_INDEX = VGG_INDEX | {"4_1": 17, "4_2": 19, "4_3": 21, "5_1": 24, "5_2": 26, "5_3": 28}

VGG: Rules = {r"conv(\d_\d)": lambda m: f"features.{VGG_INDEX[m[1]]}"}

CORRESPONDENCE: Rules = {
    r"branch_lr/(\w+)": r"feature_extraction_image1.model.\1",
    r"branch_ref/(\w+)": r"feature_extraction_image2.model.\1",
}

DISCRIMINATOR: Rules = {
    r"\w+/block(\d)_conv(\d)": lambda m: f"conv_block{m[1]}.{3 * int(m[2]) - 3}",
    r"\w+/block(\d)_norm(\d)": lambda m: f"conv_block{m[1]}.{3 * int(m[2]) - 2}",
    r"\w+/head(\d)": lambda m: f"out_block.{2 * int(m[1]) - 1}",
}

_SIZES = {"1": "small", "2": "medium", "4": "large"}  # by scale


def _rrsr_suffix(scale: str, index: int) -> str:
    """RRSR has one alignment block at 1x, which has no suffix, and three at 2x and 4x."""
    suffixes = ("",) if scale == "1" else ("_first", "_second", "_third")
    if index >= len(suffixes):
        raise InputError(
            f"RRSR's PyTorch layout has no block {index + 1} at {scale}x; it has 1 at 1x, 3 at 2x and 3 at 4x"
        )
    return suffixes[index]


def _c2_matching_suffix(scale: str, index: int) -> str:
    """C2-Matching has one alignment block at each scale, without a suffix."""
    if index:
        raise InputError(f"C2-Matching's PyTorch layout has no block {index + 1} at {scale}x; it has 1 at each scale")
    return ""


def _in_block(suffix: Callable[[str, int], str], name: str, match: re.Match[str], rest: str = "") -> str:
    """A module of the alignment block whose scale and index are the first two groups of `match`.

    SIZE in `name` stands for the word of the scale; `suffix` of scale and index ends the name, and `rest` follows.
    """
    return f"dyn_agg_restore.{name.replace('SIZE', _SIZES[match[1]])}{suffix(match[1], int(match[2]))}{rest}"


def _restoration(suffix: Callable[[str, int], str]) -> Rules:
    """The rules that RRSR and C2-Matching have in common."""
    block = functools.partial(_in_block, suffix)
    return {
        r"context_encoder/conv_first": r"content_extractor.conv_first",
        r"context_encoder/block_(\d+)/(\w+)": r"content_extractor.body.\1.\2",
        r"fas_(\d)x_(\d)/align": lambda m: block("SIZE_dyn_agg", m),
        r"fas_(\d)x_(\d)/align/offset_\dx/head": lambda m: block("SIZE_dyn_agg", m, ".conv_offset_mask"),
        r"fas_(\d)x_(\d)/align/offset_\dx/(\w+)": lambda m: block(f"SIZE_offset_{m[3]}", m),
        r"fas_(\d)x_(\d)/block_(\d+)/(\w+)": lambda m: block("body_SIZE", m, f".{m[3]}.{m[4]}"),
        r"up_(\d)x": lambda m: f"dyn_agg_restore.tail_{_SIZES[m[1]]}.0",
        r"tail(\d)": lambda m: f"dyn_agg_restore.tail_large.{2 * int(m[1]) - 2}",
    }


RRSR: Rules = {
    **_restoration(_rrsr_suffix),
    r"fas_(\d)x_(\d)/select": lambda m: _in_block(_rrsr_suffix, "head_SIZE", m),
    r"fas_(\d)x_(\d)/select/router": lambda m: _in_block(_rrsr_suffix, "head_SIZE", m, ".routing_func.0"),
    r"fas_(\d)x_(\d)/select/gate(\d)": lambda m: _in_block(_rrsr_suffix, "head_SIZE", m, f".se.{2 * int(m[3]) - 2}"),
}

C2_MATCHING: Rules = {
    **_restoration(_c2_matching_suffix),
    r"fas_(\d)x_(\d)/merge": lambda m: _in_block(_c2_matching_suffix, "head_SIZE", m, ".0"),
}

_TTSR_LEVEL = {"1": "1", "2": "2", "4": "3"}  # by scale
_TTSR_EXCHANGE = {"2": "ex12", "4": "ex123"}  # by scale
_TTSR_SLICE = {"1_1": "1", "1_2": "2", "2_1": "2", "2_2": "3", "3_1": "3"}  # by layer of VGG-19

TTSR: Rules = {
    r"vgg/conv(\d_\d)": lambda m: f"LTE.slice{_TTSR_SLICE[m[1]]}.{VGG_INDEX[m[1]]}",
    r"head": "MainNet.SFE.conv_head",
    r"head_body/block_(\d+)/(\w+)": r"MainNet.SFE.RBs.\1.\2",
    r"head_body/conv": "MainNet.SFE.conv_tail",
    r"up_2x": "MainNet.conv12",
    r"up_4x": "MainNet.conv23",
    r"merge_(\d)x": lambda m: f"MainNet.conv{_TTSR_LEVEL[m[1]]}{_TTSR_LEVEL[m[1]]}_head",
    r"body_(\d)x_(\d)x/block_(\d+)/(\w+)": lambda m: f"MainNet.RB{_TTSR_LEVEL[m[1]]}{_TTSR_LEVEL[m[2]]}.{m[3]}.{m[4]}",
    r"body_(\d)x_(\d)x/conv": lambda m: f"MainNet.conv{_TTSR_LEVEL[m[1]]}{_TTSR_LEVEL[m[2]]}_tail",
    r"exchange_(\d)x/merge_(\d)x": lambda m: f"MainNet.{_TTSR_EXCHANGE[m[1]]}.conv_merge{_TTSR_LEVEL[m[2]]}",
    r"exchange_(\d)x/from_(\d)x_to_(\d)x(_\d)?": lambda m: (
        f"MainNet.{_TTSR_EXCHANGE[m[1]]}.conv{_TTSR_LEVEL[m[2]]}{_TTSR_LEVEL[m[3]]}{m[4] or ''}"
    ),
    r"tail_(\d)x": lambda m: f"MainNet.merge_tail.conv{_TTSR_LEVEL[m[1]]}3",
    r"tail_merge": "MainNet.merge_tail.conv_merge",
    r"tail(\d)": r"MainNet.merge_tail.conv_tail\1",
}


def ttsr_extractor_copy(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """TTSR's second texture extractor, `LTE_copy`, which belongs to its loss: equal to the first one, `LTE`."""
    return {k.replace("LTE.", "LTE_copy."): v.copy() for k, v in state_dict.items() if k.startswith("LTE.")}


MASA: Rules = {
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
}

# NLSN's trunk is one numbered list: for each group an attention and eight blocks; then an attention, then a convolution.
_NLSN_BLOCKS = 8
_NLSN_LAYERS = {"match": "conv_match.0", "assembly": "conv_assembly.0"}


def nlsn(groups: int) -> Rules:
    """The rules of an NLSN with so many groups of eight blocks."""

    def number(group: int, block: int) -> int:
        if group > groups or block > _NLSN_BLOCKS:
            raise InputError(f"this PyTorch layout of NLSN has {groups} groups of {_NLSN_BLOCKS} blocks, and no more")
        return (1 + _NLSN_BLOCKS) * group + block

    return {
        r"head": "head.0",
        r"attention_(\d+)/(\w+)": lambda m: f"body.{number(int(m[1]), 0)}.{_NLSN_LAYERS[m[2]]}",
        r"group_(\d+)_block_(\d+)/conv(\d)": lambda m: (
            f"body.{number(int(m[1]), int(m[2]) + 1)}.body.{2 * int(m[3]) - 2}"
        ),
        r"body": f"body.{number(groups, 1)}",
        r"upsampler/up_(\d)x": lambda m: f"tail.0.{2 * int(m[1]) - 2}",
        r"upsampler/tail": "tail.1",
    }


def nlsn_shift(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The subtraction and the addition of the mean colour, which NLSN's checkpoints hold as 1x1 convolutions."""
    mean, identity = np.array(DIV2K_MEAN, np.float32), np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    parts = {"sub_mean": -mean, "add_mean": mean}
    return {f"{k}.weight": identity.copy() for k in parts} | {f"{k}.bias": bias for k, bias in parts.items()}


def check_nlsn_shift(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """`state_dict`, if it has the shift of `nlsn_shift` or none; InputError otherwise, as for images in [0, 255]."""
    for key, expected in nlsn_shift({}).items():
        found = state_dict.get(key, expected)
        if not hasattr(found, "dtype"):
            continue
        if np.shape(found) != expected.shape or not np.allclose(np.asarray(found, np.float32), expected, atol=1e-3):
            raise InputError(
                f"{key}: {_short(expected)} expected, for images in [0, 1] and their mean colour, got {_short(found)}; "
                "weights for images of another range do not fit"
            )
    return state_dict


def _short(array: Any) -> list[float]:
    return np.round(np.ravel(array).astype(np.float64), 4).tolist()[:9]


SRGAN: Rules = {
    r"head": "conv1.0",
    r"head_prelu": "conv1.1",
    r"block_(\d+)_conv(\d)": lambda m: f"trunk.{m[1]}.rcb.{3 * int(m[2]) - 3}",
    r"block_(\d+)_norm(\d)": lambda m: f"trunk.{m[1]}.rcb.{3 * int(m[2]) - 2}",
    r"block_(\d+)_prelu": r"trunk.\1.rcb.2",
    r"body": "conv2.0",
    r"body_norm": "conv2.1",
    r"up_(\d)x": lambda m: f"upsampling.{int(m[1]) - 1}.upsample_block.0",
    r"up_(\d)x_prelu": lambda m: f"upsampling.{int(m[1]) - 1}.upsample_block.2",
    r"tail": "conv3",
}


def _srgan_index(match: re.Match[str], offset: int) -> str:
    """Convolutions, but for the first, are followed by a normalisation and an activation."""
    layer = 2 * int(match[1]) + int(match[2]) - 3  # from 0 on
    return f"features.{max(3 * layer - 1, 0) + offset}"


SRGAN_DISCRIMINATOR: Rules = {
    r"\w+/block(\d)_conv(\d)": lambda m: _srgan_index(m, 0),
    r"\w+/block(\d)_norm(\d)": lambda m: _srgan_index(m, 1),
    r"\w+/linear(\d)": lambda m: f"classifier.{2 * int(m[1]) - 2}",
}

MSRRESNET: Rules = {
    r"head": "conv_first",
    r"block_(\d+)/(\w+)": r"body.\1.\2",
    r"up_(\d)x": r"upconv\1",
    r"tail1": "conv_hr",
    r"tail2": "conv_last",
}

RANKSRGAN: Rules = {
    r"head": "conv_first",
    r"block_(\d+)/(\w+)": r"recon_trunk.\1.\2",
    r"body": "LRconv",
    r"up_(\d)x": r"upconv\1",
    r"tail1": "HRconv",
    r"tail2": "conv_last",
}

VGG_STYLE_DISCRIMINATOR: Rules = {
    r"\w+/trunk/conv(\d_\d)": r"conv\1",
    r"\w+/trunk/norm(\d_\d)": r"bn\1",
    r"\w+/linear(\d)": r"linear\1",
}

RANKER: Rules = VGG_STYLE_DISCRIMINATOR | {r"\w+/linear(\d)": lambda m: f"classifier.{2 * int(m[1]) - 2}"}

ESRGAN: Rules = {
    r"head": "conv_first",
    r"rrdb_(\d+)/dense_(\d)/(\w+)": r"RRDB_trunk.\1.RDB\2.\3",
    r"body": "trunk_conv",
    r"up_2x": "upconv1",
    r"up_4x": "upconv2",
    r"tail1": "HRconv",
    r"tail2": "conv_last",
}

# Names in BasicSR (and Real-ESRGAN), and in the first releases, which number the layers.
_ESRGAN_NAMES = {
    r"body\.(\d+)\.rdb(\d)\.(\w+)": r"RRDB_trunk.\1.RDB\2.\3",
    r"conv_body": "trunk_conv",
    r"conv_up(\d)": r"upconv\1",
    r"conv_hr": "HRconv",
    r"model\.0": "conv_first",
    r"model\.1\.sub\.(\d+)\.RDB(\d)\.(\w+)\.0": r"RRDB_trunk.\1.RDB\2.\3",
    r"model\.1\.sub\.\d+": "trunk_conv",
    r"model\.3": "upconv1",
    r"model\.6": "upconv2",
    r"model\.8": "HRconv",
    r"model\.10": "conv_last",
}


def esrgan_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with ESRGAN's present names, given that of any of the three layouts."""

    def rename(key: str) -> str:
        module, _, leaf = key.rpartition(".")
        found = (match.expand(name) for rule, name in _ESRGAN_NAMES.items() if (match := re.fullmatch(rule, module)))
        return f"{next(found, module)}.{leaf}"

    return {rename(key): value for key, value in state_dict.items()}


def _enet_layer(index: int) -> str:
    return f"generator.Conv_{index}" if index else "generator.Conv"


ENET: Rules = {
    r"head": _enet_layer(0),
    r"block_(\d+)/conv(\d)": lambda m: _enet_layer(2 * int(m[1]) + int(m[2])),
    r"up_2x": _enet_layer(21),
    r"up_4x": _enet_layer(22),
    r"tail(\d)": lambda m: _enet_layer(22 + int(m[1])),
}

_VGG16: Rules = {r"vgg/conv(\d_\d)": lambda m: f"features.{_VGG16_INDEX[m[1]]}"}
LPIPS: Rules = _VGG16 | {r"linear_(\d)": r"lin\1.model.1"}
DISTS: Rules = _VGG16 | {"": ""}  # alpha and beta


def torchvision_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with torchvision's names of VGG-16, given that or the whole LPIPS or DISTS."""

    def rename(key: str) -> str:
        match = re.fullmatch(r"(net\.slice|stage)\d\.(\d+\.(weight|bias))", key)
        return f"features.{match[2]}" if match else key

    return {rename(key): value for key, value in state_dict.items()}


ENET_DISCRIMINATOR: Rules = {
    r"\w+/conv(\d)": r"discriminator.conv\1",
    r"\w+/linear(\d)": lambda m: f"discriminator.fc{int(m[1]) - 1}",
}


def tensorflow_to_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict in PyTorch's layout, given that or TensorFlow's variables.

    Those have names like `generator/Conv_1/weights:0` and kernels (kH, kW, I, O), or (I, O); the others are as they are.
    """
    result = {}
    for key, value in state_dict.items():
        if match := re.fullmatch(r"([\w/]+)/(weights|kernel|biases|bias)(:0)?", key):
            kernel = match[2] in ("weights", "kernel")
            key = f"{match[1].replace('/', '.')}.{'weight' if kernel else 'bias'}"
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(np.ndim(value)) if kernel else None
            value = value if axes is None else np.transpose(value, axes)
        result[key] = value
    return result
