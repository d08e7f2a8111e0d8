"""RRSR: reciprocal reference-based image super-resolution (ECCV 2022), in JAX and Flax.

Vocabulary, everywhere: `lr` low-resolution input (N, h, w, 3); `hr` its ground truth (N, 4h, 4w, 3); `ref` reference image
(N, H, W, 3); `sr` output (N, 4h, 4w, 3). NHWC, float32, RGB in [0, 1]. "1x", "2x", "4x" count from the grid of `lr`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrsr_jax.inference.upscaler import Upscaler

__all__ = ["SCALE_FACTOR", "Upscaler", "__version__"]

__version__ = "0.1.0"

SCALE_FACTOR = 4


def __getattr__(name: str) -> Any:
    """`rrsr_jax.Upscaler`, imported when it is asked for: it brings JAX."""
    if name == "Upscaler":
        from rrsr_jax.inference.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
