"""Weights from other people's files, and to them. Nothing that a file contains is ever executed.

`load` gives Flax variables of a file or of an imported folder; `from_torch` and `to_torch` translate state dicts in memory;
`import_weights` and `export_weights` do what `python -m rrsr_jax.weights` does. `KINDS` lists the kinds of weights there are.
"""

from rrsr_jax.weights.convert import export_weights, import_weights, load
from rrsr_jax.weights.kinds import KINDS, Kind
from rrsr_jax.weights.layouts import from_torch, to_torch

__all__ = ["KINDS", "Kind", "export_weights", "from_torch", "import_weights", "load", "to_torch"]
