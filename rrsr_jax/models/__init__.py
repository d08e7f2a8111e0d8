"""The networks: one file for each part of the paper's Fig. 2 and for each other model, and the models that a config can name.

`contract` says what the rest of the project asks of a model. Single-image models have the same call and ignore the reference.
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
    """The model that `config.name` names, with the other fields of `config` as its attributes.

    Raises:
      InputError: `models` has no such name, or the model no such attribute.
    """
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in models:
        raise InputError(f"config.model.name: one of {', '.join(models)} expected, got {name!r}")
    known = [field.name for field in dataclasses.fields(models[name]) if field.name not in ("parent", "name")]
    if unknown := [field for field in fields if field not in known]:
        raise InputError(f"config.model: {name} has no {', '.join(unknown)}; it has: {', '.join(known)}")
    return models[name](**fields)
