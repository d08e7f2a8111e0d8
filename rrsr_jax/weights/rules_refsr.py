"""Renaming rules of CrossNet, SRNTT, SSEN and DCSR, as those of `rules.py`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rrsr_jax.errors import InputError
from rrsr_jax.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from rrsr_jax.weights.object_arrays import ENTRY
from rrsr_jax.weights.rules import VGG_INDEX, Rules

CROSSNET: Rules = {
    r"flow_net/(conv\d|conv\d_1|flow\d)": r"FlowNet.\1.0",
    r"flow_net/(flow\d_up)": r"FlowNet.\1",
    r"flow_net/up(\d)": r"FlowNet.deconv\1.0",
    r"flow_net/full(\d)": r"FlowNet.concat0_conv\1.0",
    r"flow_net/flow_full": "FlowNet.flow_12.0",
    r"encoder/head": "Encoder.layer_f.0",
    r"encoder/(conv\d)": r"Encoder.\1.0",
    r"decoder/up(\d)": r"UNet_decoder_2.warp_deconv\1.0",
    r"decoder/(post_fusion\d)": r"UNet_decoder_2.\1.0",
    r"decoder/last": "UNet_decoder_2.final.0",
}

_SIZES = {"1": "small", "2": "medium", "4": "large"}  # by scale
_PLACE = {"first": "1", "second": "2"}
_SRNTT_LAYERS = {"conv": "conv", "norm": "bn"}
_SRNTT_BLOCK = r"block_(\d+)_(first|second)_(conv|norm)"

SRNTT: Rules = {
    r"content/head": "content_extractor.head",
    rf"content/trunk/{_SRNTT_BLOCK}": lambda m: f"content_extractor.blocks.{m[1]}.{_SRNTT_LAYERS[m[3]]}{_PLACE[m[2]]}",
    r"content/trunk/conv": "content_extractor.mid",
    r"content/trunk/norm": "content_extractor.mid_bn",
    r"content/up_(\d)x": r"content_extractor.up\1",
    r"content/last": "content_extractor.out",
    r"texture/merge_(\d)x": lambda m: f"texture_transfer.{_SIZES[m[1]]}.conv1",
    rf"texture/trunk_(\d)x/{_SRNTT_BLOCK}": lambda m: (
        f"texture_transfer.{_SIZES[m[1]]}.blocks.{m[2]}.{_SRNTT_LAYERS[m[4]]}{_PLACE[m[3]]}"
    ),
    r"texture/trunk_(\d)x/conv": lambda m: f"texture_transfer.{_SIZES[m[1]]}.conv2",
    r"texture/trunk_(\d)x/norm": lambda m: f"texture_transfer.{_SIZES[m[1]]}.bn2",
    r"texture/up_(\d)x": lambda m: f"texture_transfer.{_SIZES[m[1]]}.conv3",
    r"texture/tail": "texture_transfer.large.conv3",
    r"texture/last": "texture_transfer.out",
}


def _srntt_trunk(prefix: str, blocks: int, last: str, last_norm: str) -> list[str]:
    """Names of the arrays in the order of the authors' files, of residual blocks, a convolution and a normalisation."""
    pairs = [(f"{prefix}blocks.{i}.conv{k}", f"{prefix}blocks.{i}.bn{k}") for i in range(blocks) for k in (1, 2)]
    pairs.append((prefix + last, prefix + last_norm))
    norm = ("bias", "weight", "running_mean", "running_var")
    return [name for conv, bn in pairs for name in (f"{conv}.weight", *(f"{bn}.{leaf}" for leaf in norm))]


def _with_bias(*modules: str) -> list[str]:
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]


def _srntt_files() -> dict[str, list[str]]:
    """The names in each of the authors' files."""
    content, texture = "content_extractor.", "texture_transfer."
    upscale = _with_bias(content + "head") + _srntt_trunk(content, 16, "mid", "mid_bn")
    upscale += _with_bias(*(content + name for name in ("up1", "up2", "out")))
    transfer = []
    for size, blocks in (("small", 16), ("medium", 8), ("large", 4)):
        prefix = f"{texture}{size}."
        transfer += _with_bias(f"{prefix}conv1") + _srntt_trunk(prefix, blocks, "conv2", "bn2")
        transfer += _with_bias(f"{prefix}conv3")
    return {"upscale.npz": upscale, "srntt.npz": transfer + _with_bias(f"{texture}out")}


def srntt_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with names, given one or the numbered arrays of one of the authors' files, with kernels (kH, kW, I, O)."""
    if not all(key.startswith(f"{ENTRY}.") for key in state_dict):
        return dict(state_dict)
    files = _srntt_files()
    names = next((names for names in files.values() if len(names) == len(state_dict)), None)
    keys = [f"{ENTRY}.{i}" for i in range(len(state_dict))]
    if names is None or not set(keys) <= set(state_dict):
        expected = " or ".join(f"{len(names)} ({file})" for file, names in files.items())
        raise InputError(f"arrays without names: {expected} expected, got {len(state_dict)}")
    return {
        name: np.transpose(state_dict[key], (3, 2, 0, 1)) if np.ndim(state_dict[key]) == 4 else state_dict[key]
        for name, key in zip(names, keys, strict=True)
    }


SSEN: Rules = {
    r"ref_down(\d)": lambda m: f"ref_down.{int(m[1]) - 1}",
    r"(extractor|reconstruction)/block_(\d+)/(\w+)": r"\1.blocks.\2.\3",
    r"align_(\d)": lambda m: f"align.{int(m[1]) - 1}",
    r"estimator_(\d)/head": lambda m: f"align.{int(m[1]) - 1}.estimator.offset",
    r"estimator_(\d)/non_local_(\d)/(\w+)": lambda m: f"align.{int(m[1]) - 1}.estimator.non_local.{m[2]}.{m[3]}",
    r"estimator_(\d)/(down|up)_(\d)": lambda m: f"align.{int(m[1]) - 1}.estimator.{m[2]}.{m[3]}",
    r"up_(\d)x": lambda m: f"up.{int(m[1]) - 1}",
    r"(head|merge|last)": r"\1",
}

_ALIGN = {"image": "aa1", "2x": "aa3", "4x": "aa4"}
_STEM = {"image": "conv1", "head": "p_conv"}

DCSR: Rules = {
    r"vgg/conv(\d_\d)": lambda m: f"feature_match.feature_extract.{VGG_INDEX[m[1]]}",
    r"match_reduce": "feature_match.feature_extract.map.0",
    r"ref_encoder_(\d)/conv(\d)": lambda m: f"ref_encoder{m[1]}.{int(m[2]) - 1}.0",
    r"ref_body_(\d)/block_(\d+)/(\w+)": r"res\1.RBs.\2.\3",
    r"ref_body_(\d)/conv": r"res\1.conv_tail",
    r"head": "input_encoder.conv_head",
    r"encoder/block_(\d+)/(\w+)": r"input_encoder.RBs.\1.\2",
    r"encoder/conv": "input_encoder.conv_tail",
    r"fusion_(\d)/conv(\d)": lambda m: f"fusion{m[1]}.{int(m[2]) - 1}.0",
    r"attention_(\d)/conv(\d)": lambda m: f"alpha{m[1]}.{int(m[2]) - 1}.0",
    r"decoder_(\d)/block_(\d+)/(\w+)": r"decoder\1.RBs.\2.\3",
    r"decoder_(\d)/conv": r"decoder\1.conv_tail",
    r"align_(\w+)/(image|head)/conv": lambda m: f"{_ALIGN[m[1]]}.align.{_STEM[m[2]]}.0",
    r"align_(\w+)/(image|head)/block/(\w+)": lambda m: f"{_ALIGN[m[1]]}.align.{_STEM[m[2]]}.2.{m[3]}",
    r"align_(\w+)/affine": lambda m: f"{_ALIGN[m[1]]}.align.p_conv.4",
    r"tail(\d)": lambda m: f"decoder_tail.{2 * int(m[1]) - 2}",
}


def dcsr_normalisation(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ImageNet's normalisation of colours, which DCSR's checkpoints hold as a 1x1 convolution."""
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    weight = (np.eye(3) / std[:, None]).reshape(3, 3, 1, 1)
    names = {"weight": weight, "bias": -mean / std}
    return {f"feature_match.sub_mean.{leaf}": value.astype(np.float32) for leaf, value in names.items()}
