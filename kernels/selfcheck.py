"""Whether a kernel computes on this device what plain JAX computes: both run on small random cases before the first use.

That they agree is remembered in `~/.cache/rrsr_jax/kernels`, one file per device, versions and source of the kernels. A fault is
not remembered: it may have been a lack of memory, and the next process tries again.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Device = Any  # a `jax.Device`, which type checkers take for a variable
# fn(x, offset, mask, weight, *, stride, padding, dilation) -> (N, Ho, Wo, Co) float32.
Implementation = Callable[..., jax.Array]

GROUPS = 8
CHANNELS = (64, 128, 256)  # in and out, of the layers of RRSR: each has blocks of another shape
# Largest relative error, |a - b| / |b|. Sums differ by their order alone in float32; in bfloat16 the columns are rounded, too.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
RESULTS = ("output", "gradient of x", "gradient of offset", "gradient of mask", "gradient of weight")


def fault(kernel: Implementation, plain: Implementation, device: Device, sources: Sequence[str] = ()) -> str:
    """Why `kernel` must not be used on `device`: what it raised, or how far it is from `plain`. Empty if the two agree.

    Takes seconds, forward and backward, in this process alone. It may be called while JAX traces a function.

    Args:
      kernel: the implementation to check.
      plain: the one to compare with.
      device: a device of this process.
      sources: files whose content the answer depends on.
    """
    mark = _mark(device, sources)
    with contextlib.suppress(OSError):
        if mark.exists():
            return ""
    # JAX keeps the trace and the mesh that it works in per thread. In a thread of its own the check is outside of both.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        found = thread.submit(_first_fault, kernel, plain, device).result()
    if not found:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps(_identity(device, sources)))
    return found


def _identity(device: Device, sources: Sequence[str]) -> dict[str, str]:
    source = hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in sources)).hexdigest()
    return {
        "device": device.device_kind,
        "platform": device.client.platform_version,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "source": source,
    }


def _mark(device: Device, sources: Sequence[str]) -> pathlib.Path:
    name = hashlib.sha256(json.dumps(_identity(device, sources)).encode()).hexdigest()[:16]
    return pathlib.Path("~/.cache/rrsr_jax/kernels").expanduser() / f"{name}.json"


def _first_fault(kernel: Implementation, plain: Implementation, device: Device) -> str:
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        for channels in CHANNELS:
            for dtype, tolerance in TOLERANCES.items():
                case = f"{channels} channels, {dtype}"
                arrays = _case(channels, dtype)
                expected = _outputs(plain, arrays)
                try:
                    got = _outputs(kernel, arrays)
                except Exception as error:  # whatever a compiler or a driver raises: the plain path is right without it
                    reason = (str(error) or type(error).__name__).splitlines()[0]
                    return f"{case}: {reason}"
                for name, a, b in zip(RESULTS, got, expected, strict=True):
                    distance = np.linalg.norm(a - b) / np.linalg.norm(b)
                    if not distance < tolerance:  # also if it is NaN
                        return f"{case}: {name}: relative error {distance:.1e}, less than {tolerance:.0e} expected"
    return ""


def _case(channels: int, dtype: str) -> tuple[jax.Array, ...]:
    """x, offset, mask, weight and the gradient of the output; positions inside and outside, several at the same pixels."""
    rng = np.random.default_rng(channels)
    n, height, width, out_height, out_width = 2, 9, 7, 6, 11

    def normal(*shape):
        return rng.standard_normal(shape)

    x, weight = normal(n, height, width, channels), normal(3, 3, channels, channels) / channels**0.5
    offset = 3 * normal(n, out_height, out_width, GROUPS, 9, 2)
    mask = rng.random((n, out_height, out_width, GROUPS, 9))
    cotangent = normal(n, out_height, out_width, channels)
    dtypes = (dtype, "float32", "float32", dtype, "float32")
    return tuple(jnp.asarray(*pair) for pair in zip((x, offset, mask, weight, cotangent), dtypes, strict=True))


def _outputs(f: Implementation, arrays: tuple[jax.Array, ...]) -> list[np.ndarray]:
    """One array for each of `RESULTS`, float64."""

    @jax.jit
    def run(*arguments):
        *arguments, cotangent = arguments
        y, vjp = jax.vjp(lambda *a: f(*a, stride=1, padding=1, dilation=1), *arguments)
        return y, *vjp(cotangent)

    return [np.asarray(a, np.float64) for a in run(*arrays)]
