"""The config of a workdir's newest checkpoint, as a config file: `--config=rrsr_jax/workdir/saved_config.py:WORKDIR`."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rrsr_jax.workdir.integrity import description

# Fields that runs of earlier versions did not have, with the values that they ran with.
_LATER = {"accumulate": 1, "pixel_loss": "l1", "weight_decay": 0.0}
_LATER_EVAL = {"niqe": False, "lpips": "", "dists": ""}
# Of stage gan.
_LATER_GAN = {
    "objective": "wgan_gp",
    "updates": ("discriminator", "generator"),
    "perceptual": {"layer_weights": {"relu5_1": 1.0}, "criterion": "frobenius", "normalise": False},
}


def get_config(workdir: str) -> ConfigDict:
    """The config that wrote the newest intact checkpoint; InputError if there is none."""
    return ConfigDict(completed(_with_tuples(description(pathlib.Path(workdir))["config"])))


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the fields that it does not have because an earlier version wrote it."""
    config = dict(config)
    if config.get("stage") == "gan" and "updates" not in config:
        config |= _LATER_GAN | {"discriminator": {"name": "rrsr"} | config.get("discriminator", {})}
    return _LATER | config | {"eval": _LATER_EVAL | config.get("eval", {})}


def _with_tuples(value: Any) -> Any:
    """A value from JSON, with tuples for lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value
