"""The config of a workdir's newest checkpoint, as a config file: `--config=rrsr_jax/workdir/saved_config.py:WORKDIR`."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from rrsr_jax.workdir.integrity import description

# Fields that runs of earlier versions did not have, with the values that they ran with.
_LATER = {"accumulate": 1}
_LATER_EVAL = {"niqe": False, "lpips": "", "dists": ""}


def get_config(workdir: str) -> ConfigDict:
    """The config that wrote the newest intact checkpoint; InputError if there is none."""
    config = _LATER | _with_tuples(description(pathlib.Path(workdir))["config"])
    return ConfigDict(config | {"eval": _LATER_EVAL | config["eval"]})


def _with_tuples(value: Any) -> Any:
    """A value from JSON, with tuples for lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(entry) for name, entry in value.items()}
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value
