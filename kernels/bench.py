"""Benchmark of the modulated deformable convolution: `python -m kernels.bench [--batch N] [--size PIXELS]`.

One row per layer shape of RRSR: time of the forward pass and of forward and backward, and the memory XLA sets aside for
intermediates, in multiples of the features. `direct` is what most would write first: all nine taps gathered at once, gradients by
automatic differentiation. Both run alternately in one process; only their ratio means much on a busy machine.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from kernels import modulated_deform_conv

LAYERS = {"1x": (4, 256), "2x": (2, 128), "4x": (1, 64)}  # divisor of the image's side, channels
GROUPS = 8


def direct(x, offset, mask, weight, bias):
    """The definition, vectorised over everything."""
    n, h, w, c = x.shape
    groups = offset.shape[3]
    taps = jnp.arange(9)
    y = offset[..., 0] + (jnp.arange(h) - 1)[:, None, None, None] + taps // 3
    z = offset[..., 1] + (jnp.arange(w) - 1)[None, :, None, None] + taps % 3
    y0, z0 = jnp.floor(y), jnp.floor(z)
    pixels = x.reshape(n, h * w, groups, c // groups)
    image, group = jnp.arange(n)[:, None, None, None, None], jnp.arange(groups)[:, None]
    columns = 0.0
    for dy, dz in ((0, 0), (0, 1), (1, 0), (1, 1)):
        yi, zi = (y0 + dy).astype(jnp.int32), (z0 + dz).astype(jnp.int32)
        inside = (yi >= 0) & (yi < h) & (zi >= 0) & (zi < w)
        share = (1 - jnp.abs(y - yi)) * (1 - jnp.abs(z - zi)) * inside * mask
        value = pixels[image, jnp.clip(yi, 0, h - 1) * w + jnp.clip(zi, 0, w - 1), group]
        columns += value * share[..., None]
    return jnp.einsum("nhwgtc,tgco->nhwo", columns, weight.reshape(9, groups, c // groups, -1)) + bias


def inputs(batch: int, size: int, channels: int) -> list[jax.Array]:
    """Random features; offsets as matching gives them: smooth, with jumps."""
    rng = np.random.default_rng(0)
    flow = np.repeat(
        np.repeat(rng.integers(-size // 4, size // 4, (batch, 8, 8, 1, 1, 2)), -(-size // 8), 1), -(-size // 8), 2
    )
    offset = flow[:, :size, :size] + 0.5 * rng.standard_normal((batch, size, size, GROUPS, 9, 2))
    arrays = [
        rng.standard_normal((batch, size, size, channels)),
        offset,
        rng.random((batch, size, size, GROUPS, 9)),
        0.05 * rng.standard_normal((3, 3, channels, channels)),
        np.zeros(channels),
    ]
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def measure(functions: dict, arguments: list, repeats: int = 5) -> dict[str, tuple[float, float]]:
    """Best time in milliseconds and temporary memory in bytes of each function, run in turns."""
    compiled = {name: jax.jit(f).lower(*arguments).compile() for name, f in functions.items()}
    times = {name: [] for name in compiled}
    for _ in range(repeats + 1):
        for name, f in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(f(*arguments))
            times[name].append(time.perf_counter() - start)
    memory = {name: f.memory_analysis().temp_size_in_bytes for name, f in compiled.items()}
    return {name: (1e3 * min(t[1:]), memory[name]) for name, t in times.items()}


def both_ways(f):
    """Forward and backward, all gradients."""

    def run(*arguments):
        y, vjp = jax.vjp(f, *arguments)
        return y, vjp(y)

    return run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=160, help="side of the high-resolution image")
    options = parser.parse_args()
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {options.batch}, {options.size} x {options.size}"
    )
    print(f"{'layer':8}{'pass':12}{'xla':>10}{'direct':>10}{'ratio':>8}{'memory: xla':>14}{'direct':>10}")
    for layer, (divisor, channels) in LAYERS.items():
        arguments = inputs(options.batch, options.size // divisor, channels)
        for label, wrap in (("forward", lambda f: f), ("+ backward", both_ways)):
            functions = {"xla": wrap(modulated_deform_conv), "direct": wrap(direct)}
            rows = measure(functions, arguments)
            (time_xla, memory_xla), (time_direct, memory_direct) = rows["xla"], rows["direct"]
            size = arguments[0].nbytes
            print(
                f"{layer:8}{label:12}{time_xla:7.0f} ms{time_direct:7.0f} ms{time_direct / time_xla:7.1f}x"
                f"{memory_xla / size:13.1f}x{memory_direct / size:9.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
