"""Where compiled programs are kept between processes."""

import os
import pathlib

import jax


def use() -> None:
    """Keeps compiled programs in `~/.cache/rrsr_jax`, unless JAX was told another place, or how long a program must take.

    Programs of any size are kept: an image is computed by many that take less than a second each.
    """
    known = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if known is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "rrsr_jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
