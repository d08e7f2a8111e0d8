"""The networks, one file per part of the paper's Fig. 2, and the models that a config can name.

A reference-based super-resolution model is a Flax module with `model.apply(variables, lr, ref) -> sr`; training and
evaluation ask for nothing else.
"""

import flax.linen as nn
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.models.masa import MASA
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.models.ttsr import TTSR

MODELS = {"rrsr": RRSR, "ttsr": TTSR, "masa": MASA}


def build(config: ConfigDict) -> nn.Module:
    """The model `config.name`, with the other fields of `config` as its attributes."""
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in MODELS:
        raise InputError(f"config.model.name: one of {', '.join(MODELS)} expected, got {name!r}")
    return MODELS[name](**fields)
