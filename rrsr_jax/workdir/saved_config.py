"""The config of a workdir's newest checkpoint, as a config file: `--config=rrsr_jax/workdir/saved_config.py:WORKDIR`."""

import pathlib
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
    saved = _with_tuples(description(pathlib.Path(workdir))["config"])
    if saved["stage"] == "gan" and "updates" not in saved:
        saved |= _LATER_GAN | {"discriminator": {"name": "rrsr"} | saved["discriminator"]}
    return ConfigDict(_LATER | saved | {"eval": _LATER_EVAL | saved["eval"]})


def _with_tuples(value: Any) -> Any:
    """A value from JSON, with tuples for lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value
