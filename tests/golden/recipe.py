"""Deterministic parameters for the reference outputs in this folder, computed with the authors' PyTorch code.

`recipe(key, shape, seed, gain)` is the value of one PyTorch parameter or buffer;
`state_dict(model, seed=1000)` builds the whole state dict of one model as NumPy arrays,
in PyTorch's own layout (conv weights are O, I, kH, kW).
"""

import json
import math
import pathlib
import zlib

import numpy as np

KEYS = json.loads((pathlib.Path(__file__).parent / "state_dict_keys.json").read_text())

# Gain of the weights whose key contains the pattern; every other weight has the model's default gain.
GAINS = {
    "vgg19": (1.4, {}),
    "c2_extractor": (1.4, {}),
    "c2_restoration": (1.0, {"body": 0.4, "conv_offset_mask": 0.3}),
    "rrsr_restoration": (1.0, {"body": 0.4, "conv_offset_mask": 0.3}),
    "c2_discriminator": (1.4, {}),
    "masa": (1.0, {"blk": 0.5, "conv_gamma": 0.2, "conv_beta": 0.2}),
    "ttsr": (1.0, {"RB": 0.4, "slice": 1.4, "merge_tail.conv_tail2": 0.3}),
}


def recipe(key, shape, seed, gain):
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{key}".encode()))
    n = np.asarray(rng.standard_normal(tuple(shape)), np.float32)
    if leaf == "running_var":
        return (1 + 0.1 * np.abs(n)).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * n).astype(np.float32)
    if len(shape) >= 2:
        return (n * gain / math.sqrt(np.prod(shape[1:]))).astype(np.float32)
    bias = (0.05 * n).astype(np.float32)
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
