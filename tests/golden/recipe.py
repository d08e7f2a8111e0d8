"""Deterministic parameters for the reference outputs in this folder, computed with the authors' published code.

`recipe(key, shape, seed, gain)` is the value of one PyTorch parameter or buffer;
`state_dict(model, seed=1000)` builds the whole state dict of one model as NumPy arrays,
in PyTorch's own layout (conv weights are O, I, kH, kW).
"""

import json
import math
import pathlib
import re
import zlib

import numpy as np

KEYS = json.loads((pathlib.Path(__file__).parent / "state_dict_keys.json").read_text())

# Gain of the weights whose key contains the pattern; every other weight has the model's default gain.
GAINS = {
    "vgg19": (1.4, {}),
    "vgg19_full": (1.4, {}),
    "c2_extractor": (1.4, {}),
    "c2_restoration": (1.0, {"body": 0.4, "conv_offset_mask": 0.3}),
    "rrsr_restoration": (1.0, {"body": 0.4, "conv_offset_mask": 0.3}),
    "c2_discriminator": (1.4, {}),
    "masa": (1.0, {"blk": 0.5, "conv_gamma": 0.2, "conv_beta": 0.2}),
    "ttsr": (1.0, {"RB": 0.4, "slice": 1.4, "merge_tail.conv_tail2": 0.3}),
    "nlsn": (1.4, {"head": 3.0, "conv_match": 2.0, "conv_assembly": 6.0, "tail": 1.0}),
    "nlsn_small": (1.4, {"head": 3.0, "conv_match": 4.0, "conv_assembly": 6.0, "tail": 1.0}),
    "srgan": (1.2, {"trunk": 0.7, "conv3": 0.3}),
    "srgan_discriminator": (1.4, {}),
    "msrresnet": (1.2, {"body": 0.7, "conv_last": 0.3}),
    "esrgan": (1.2, {"conv_last": 0.3}),
    "vgg_style_discriminator": (1.4, {}),
    "ranksrgan": (1.2, {"recon_trunk": 0.7, "conv_last": 0.3}),
    "ranksrgan_ranker": (1.4, {}),
    "ranksrgan_discriminator": (1.4, {}),
    "enet": (1.3, {"Conv_24": 0.3}),
    "enet_discriminator": (1.4, {}),
    "lpips": (1.4, {"lin": 1.0}),
    "dists": (1.4, {}),
    # CrossNet, SRNTT, SSEN and DCSR.
    "crossnet": (1.0, {"FlowNet": 1.4, "FlowNet.flow": 6.0, "_up": 0.7, "flow_12": 6.0, "flow2.": 3.0, "final": 0.5}),
    "srntt": (1.0, {"blocks": 0.5, "conv1.weight": 1.0, "out": 0.15}),
    "srntt_vgg19": (1.4, {"features.0.": 0.02}),
    "ssen": (1.0, {"blocks": 0.4, "estimator": 1.0, "theta": 4.0, "phi": 4.0, "offset.": 8.0}),
    "dcsr_x2": (
        1.0,
        {"feature_extract": 1.4, "RBs": 0.5, "p_conv": 1.4, "p_conv.4": 6.0, "alpha": 1.0, "decoder_tail": 0.5},
    ),
    "dcsr_x4": (
        1.0,
        {"feature_extract": 1.4, "RBs": 0.5, "p_conv": 1.4, "p_conv.4": 6.0, "alpha": 1.0, "decoder_tail": 0.5},
    ),
}
# The fixed colour shift that some checkpoints carry as a 1x1 convolution.
SHIFT = np.array([0.4488, 0.4371, 0.4040], np.float32)
# Frozen normalisation of DCSR's matching network: a 1x1 convolution that is no parameter, though it lies in the file.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CONSTANTS = {
    "feature_match.sub_mean.weight": (np.eye(3) / _STD[:, None]).reshape(3, 3, 1, 1).astype(np.float32),
    "feature_match.sub_mean.bias": (-_MEAN / _STD).astype(np.float32),
}


def recipe(key, shape, seed, gain):
    if key in CONSTANTS:
        return CONSTANTS[key]
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    if key in ("sub_mean.weight", "add_mean.weight"):
        return np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    if key in ("sub_mean.bias", "add_mean.bias"):
        return -SHIFT if key.startswith("sub") else SHIFT
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{key}".encode()))
    n = np.asarray(rng.standard_normal(tuple(shape)), np.float32)
    if leaf in ("alpha", "beta") or re.fullmatch(r"lin\d.model.1.weight", key):  # weights of distances are positive
        n = np.abs(n)
    if leaf == "running_var":
        return (1 + 0.1 * np.abs(n)).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * n).astype(np.float32)
    if len(shape) >= 2:
        return (n * gain / math.sqrt(np.prod(shape[1:]))).astype(np.float32)
    bias = (0.05 * n).astype(np.float32)
    if leaf == "weight" and list(shape) == [1]:  # the slope of a PReLU
        return 0.25 + bias
    # A one-dimensional "weight" is a normalisation layer's scale.
    return (1 + 2 * bias).astype(np.float32) if leaf == "weight" else bias


def state_dict(model, seed=1000):
    default, patterns = GAINS[model]
    out = {}
    for key, shape in KEYS[model].items():
        gain = default
        for pattern, g in patterns.items():
            if pattern in key:
                gain = g
        out[key] = recipe(key, shape, seed, gain)
    return out
