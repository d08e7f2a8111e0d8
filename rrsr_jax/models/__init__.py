"""The networks, one file per part of the paper's Fig. 2, and the models that a config can name.

A reference-based super-resolution model is a Flax module with `model.apply(variables, lr, ref) -> sr`; training and
evaluation ask for nothing else. Single-image models take part under the same call and ignore the reference.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.edsr import EDSR
from rrsr_jax.models.masa import MASA
from rrsr_jax.models.rcan import RCAN
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.models.srcnn import SRCNN
from rrsr_jax.models.ttsr import TTSR

MODELS = {
    "rrsr": RRSR,
    "c2_matching": C2Matching,
    "masa": MASA,
    "ttsr": TTSR,
    "srcnn": SRCNN,
    "edsr": EDSR,
    "rcan": RCAN,
}


def build(config: ConfigDict, models: Mapping[str, type[nn.Module]] = MODELS) -> nn.Module:
    """The one of `models` that is called `config.name`, with the other fields of `config` as its attributes."""
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in models:
        raise InputError(f"config.model.name: one of {', '.join(models)} expected, got {name!r}")
    known = [field.name for field in dataclasses.fields(models[name]) if field.name not in ("parent", "name")]
    if unknown := [field for field in fields if field not in known]:
        raise InputError(f"config.model: {name} has no {', '.join(unknown)}; it has: {', '.join(known)}")
    return models[name](**fields)
