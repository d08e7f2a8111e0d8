"""Benchmark of the modulated deformable convolution: `python -m kernels.bench [--shapes train] [--batch 9] [--json FILE]`.

It times the layers of RRSR, forward and forward with backward, for every implementation that runs here: `xla`; `triton` on a CUDA
GPU; `direct`, the straightforward program, which gathers all nine taps at once and is differentiated automatically; and
torchvision's `deform_conv2d` where PyTorch is installed. They run in turns in one process; on a busy machine only the ratios are
reliable. `--floors` prints what the layers must cost at least (kernels/FLOORS.md) and measures nothing.

`compiled` and `in_turns` time any other functions in the same way.
"""

import argparse
import functools
import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels import deform_conv, modulated_deform_conv

GROUPS, TAPS = 8, 9


class Shape(NamedTuple):
    """One kind of layer."""

    batch: int
    size: int  # side of features and output, in pixels
    channels: int  # in and out
    layers: int  # of this kind in RRSR


SHAPES = {
    "train_1x": Shape(9, 40, 256, 1),
    "train_2x": Shape(9, 80, 128, 3),
    "train_4x": Shape(9, 160, 64, 3),
    "inference_1x": Shape(1, 125, 256, 1),
    "inference_2x": Shape(1, 250, 128, 3),
    "inference_4x": Shape(1, 500, 64, 3),
}
PASSES = ("forward", "forward + backward")


class Floor(NamedTuple):
    """What a pass must cost, and what the plain path moves."""

    bytes: int  # of a kernel that reads and writes every array once
    operations: int  # multiplications and additions, of the products and of the interpolation
    plain_bytes: int  # of `xla`, with the corners, columns and sums of each tap going through memory


def floor(shape: Shape, passes: str, width: int) -> Floor:
    """The floor of one layer; features, weights and output have `width` bytes per number, offsets and masks four."""
    n, size, c, _ = shape
    pixels = n * size * size
    features, geometry, weight = pixels * c, pixels * GROUPS * TAPS * 3, TAPS * c * c
    products, interpolation = 2 * pixels * TAPS * c * c, 9 * pixels * TAPS * c
    read = width * (features + weight) + 4 * geometry
    # A tap: four corners gathered (read, written, read again), a column written and read, the sum read and written, float32.
    tap = features * (4 * width + 4 * (4 + 4 + 1 + 1 + 2))
    forward = Floor(read + width * features, products + interpolation, TAPS * tap + 4 * geometry)
    if passes == "forward":
        return forward
    # The backward pass reads the same arrays and the gradient of the output, and writes the gradient of each. The plain path also
    # reads and writes the gradient of the features at each corner, and the gradient of the column once.
    again = 2 * read + width * features
    plain = TAPS * (tap + 4 * features * (4 * 2 + 2)) + 8 * geometry
    return Floor(
        forward.bytes + again,
        forward.operations + 2 * products + 4 * interpolation,
        forward.plain_bytes + plain,
    )


def floors_table(width: int, bandwidth: float, rate: float) -> str:
    """The floors of all shapes as a Markdown table; `bandwidth` in bytes and `rate` in operations per second."""
    lines = [
        "| layers | pass | kernel | plain path | operations | time of the bytes | of the operations |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, shape in SHAPES.items():
        for passes in PASSES:
            f = Floor(*(shape.layers * value for value in floor(shape, passes, width)))
            lines.append(
                f"| {shape.layers} x {name} | {passes} | {f.bytes / 1e6:,.0f} MB | {f.plain_bytes / 1e6:,.0f} MB | "
                f"{f.operations / 1e9:,.0f} G | {1e3 * f.bytes / bandwidth:.2f} ms | {1e3 * f.operations / rate:.2f} ms |"
            )
    return "\n".join(lines)


def direct(x, offset, mask, weight, bias):
    """The definition, vectorised over pixels, groups and taps."""
    n, h, w, c = x.shape
    groups = offset.shape[3]
    taps = jnp.arange(TAPS)
    rows, cols = (jnp.arange(h) - 1)[:, None] + taps[None] // 3, (jnp.arange(w) - 1)[:, None] + taps[None] % 3
    y, z = offset[..., 0] + rows[None, :, None, None], offset[..., 1] + cols[None, None, :, None]
    y0, z0 = jnp.floor(y), jnp.floor(z)
    pixels = x.reshape(n, h * w, groups, c // groups)
    image, group = jnp.arange(n)[:, None, None, None, None], jnp.arange(groups)[:, None]
    columns = jnp.zeros((*offset.shape[:5], c // groups))
    for dy, dz in ((0, 0), (0, 1), (1, 0), (1, 1)):
        yi, zi = (y0 + dy).astype(jnp.int32), (z0 + dz).astype(jnp.int32)
        inside = (yi >= 0) & (yi < h) & (zi >= 0) & (zi < w)
        share = (1 - jnp.abs(y - yi)) * (1 - jnp.abs(z - zi)) * inside * mask
        value = pixels[image, jnp.clip(yi, 0, h - 1) * w + jnp.clip(zi, 0, w - 1), group]
        columns += value * share[..., None]
    out = jnp.einsum("nhwgtc,tgco->nhwo", columns, weight.reshape(TAPS, groups, c // groups, -1))
    return out + bias.reshape(1, 1, 1, -1)


def inputs(shape: Shape, dtype: str = "float32") -> list[jax.Array]:
    """Random features, and offsets as matching gives them: piecewise smooth, with jumps."""
    n, size, c, _ = shape
    rng = np.random.default_rng(0)
    cell = -(-size // 8)
    flow = rng.integers(-size // 4, size // 4, (n, 8, 8, 1, 1, 2)).repeat(cell, 1).repeat(cell, 2)
    offset = flow[:, :size, :size] + 0.5 * rng.standard_normal((n, size, size, GROUPS, TAPS, 2))
    arrays = {
        "x": (rng.standard_normal((n, size, size, c)), dtype),
        "offset": (offset, "float32"),
        "mask": (rng.random((n, size, size, GROUPS, TAPS)), "float32"),
        "weight": (0.05 * rng.standard_normal((3, 3, c, c)), dtype),
        "bias": (np.zeros(c), "float32"),
    }
    return [jnp.asarray(array, kind) for array, kind in arrays.values()]


class Timed(NamedTuple):
    """A function ready to run on its arguments, and what is known of it."""

    run: Callable[[], Any]  # returns when the work is done
    compile_seconds: float = 0.0
    temporary_bytes: int | None = None
    operations: float | None = None  # as XLA counts them: of a loop, one round


def timed(f: Callable, *arguments: Any, carry: bool = False) -> Timed:
    """`f`, a function of JAX arrays or one that `jax.jit` returned, compiled for `arguments`.

    Args:
      f: the function.
      *arguments: what it is run on.
      carry: `f` returns a pair, and the next run takes the first of it as first argument, as a training step takes its state.
        Needed where `f` donates that argument.
    """
    start = time.perf_counter()
    compiled = (f if hasattr(f, "lower") else jax.jit(f)).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    first, *rest = arguments

    def run():
        nonlocal first
        result = jax.block_until_ready(compiled(first, *rest))
        if carry:
            first = result[0]
        return result

    operations = (compiled.cost_analysis() or {}).get("flops")
    memory = compiled.memory_analysis()
    return Timed(run, seconds, memory.temp_size_in_bytes if memory else None, operations)


def with_gradients(f: Callable) -> Callable:
    """`f` together with its gradients by all arguments; the result itself is the cotangent."""

    def both(*arguments):
        y, vjp = jax.vjp(f, *arguments)
        return y, vjp(y)

    return both


def torchvision_timed(passes: str, arguments: list) -> Timed:
    """torchvision's operator on the same numbers, on the GPU if there is one."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchvision.ops import deform_conv2d  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, str(arguments[0].dtype))

    def tensor(array, *axes):
        array = np.array(np.asarray(array, np.float32).transpose(axes), order="C")  # a copy that may be written to
        return torch.from_numpy(array).to(device, dtype).requires_grad_(passes != "forward")

    x, offset, mask, weight, bias = arguments
    x, weight, bias = tensor(x, 0, 3, 1, 2), tensor(weight, 3, 2, 0, 1), tensor(bias, 0)
    n, size, _, groups, taps, _ = offset.shape
    offset = tensor(offset.reshape(n, size, size, -1), 0, 3, 1, 2).detach().requires_grad_(passes != "forward")
    mask = tensor(mask.reshape(n, size, size, groups * taps), 0, 3, 1, 2).detach().requires_grad_(passes != "forward")

    def run():
        y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        if passes != "forward":
            torch.autograd.grad(y, (x, offset, mask, weight, bias), y.detach())
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    return Timed(run)


def prepare(name: str, passes: str, arguments: list) -> Timed:
    """An implementation by name."""
    if name == "torchvision":
        return torchvision_timed(passes, arguments)
    f = direct if name == "direct" else functools.partial(modulated_deform_conv, implementation=name)
    return timed(f if passes == "forward" else with_gradients(f), *arguments)


def available(dtype: str = "float32") -> list[str]:
    """The implementations that run here, the default first; torchvision's has no bfloat16."""
    names = [deform_conv.default_implementation(), "xla", "direct"]
    if dtype == "float32" and all(importlib.util.find_spec(package) for package in ("torch", "torchvision")):
        names.append("torchvision")
    return list(dict.fromkeys(names))


def in_turns(functions: Mapping[Any, Timed], repeats: int) -> dict[Any, float]:
    """Best time of each function in seconds, after one round to warm up."""
    times: dict[Any, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function.run()
            times[name].append(time.perf_counter() - start)
    return {name: min(seconds[1:]) for name, seconds in times.items()}


def machine(dtype: str) -> tuple[float, float]:
    """Measured bytes per second of a copy and operations per second of a matrix product: the rates behind a floor in seconds."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((side, side), dtype)
    many = jnp.ones(2**25 if jax.default_backend() == "cpu" else 2**28, jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    copy = jax.jit(lambda many: many + 1)
    functions = {
        name: Timed(lambda f=f, x=x: jax.block_until_ready(f(x)))
        for name, f, x in (("product", product, a), ("copy", copy, many))
    }
    seconds = in_turns(functions, 5)
    return 2 * many.nbytes / seconds["copy"], 2 * side**3 / seconds["product"]


def measure(name: str, passes: str, options: argparse.Namespace, limits: tuple[float, float]) -> list[dict]:
    """One row per implementation."""
    shape = SHAPES[name]
    shape = shape._replace(batch=options.batch or shape.batch)
    arguments = inputs(shape, options.dtype)
    functions = {i: prepare(i, passes, arguments) for i in options.implementations or available(options.dtype)}
    seconds = in_turns(functions, options.repeats)
    least = floor(shape, passes, jnp.dtype(options.dtype).itemsize)
    lowest = max(least.bytes / limits[0], least.operations / limits[1])
    return [
        {
            "shape": name,
            "batch": shape.batch,
            "pass": passes,
            "implementation": i,
            "milliseconds": 1e3 * seconds[i],
            "times_xla": seconds["xla"] / seconds[i] if "xla" in seconds else math.nan,
            "percent_of_floor": 100 * lowest / seconds[i],
            "compile_seconds": function.compile_seconds,
            "temporary_mib": None if function.temporary_bytes is None else function.temporary_bytes / 2**20,
        }
        for i, function in functions.items()
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="", help="only names that begin so, e.g. train or inference_4x")
    parser.add_argument("--batch", type=int, default=0, help="instead of each shape's own")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--implementations", type=lambda names: names.split(","), help="instead of all that run here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--floors", action="store_true", help="print what the layers must cost on an H200, and stop")
    options = parser.parse_args()
    if options.floors:
        rate = 67e12 if options.dtype == "float32" else 989e12
        print(floors_table(jnp.dtype(options.dtype).itemsize, 4.8e12, rate))
        return
    if not any(name.startswith(options.shapes) for name in SHAPES):
        parser.error(f"--shapes: the beginning of one of {', '.join(SHAPES)} expected, got {options.shapes}")
    limits = machine(options.dtype)
    about = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "dtype": options.dtype,
        "copy_gb_per_second": limits[0] / 1e9,
        "product_gflop_per_second": limits[1] / 1e9,
    }
    print(", ".join(f"{k} {v:,.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in about.items()))
    print(f"{'layer':14}{'pass':20}{'':12}{'time':>10}{'x xla':>8}{'floor':>8}{'compile':>9}{'memory':>10}")
    rows = []
    for name in (name for name in SHAPES if name.startswith(options.shapes)):
        for passes in PASSES:
            for row in measure(name, passes, options, limits):
                rows.append(row)
                memory = "" if row["temporary_mib"] is None else f"{row['temporary_mib']:6,.0f} MiB"
                print(
                    f"{name:14}{passes:20}{row['implementation']:12}{row['milliseconds']:7,.1f} ms{row['times_xla']:7.2f}x"
                    f"{row['percent_of_floor']:7.1f}%{row['compile_seconds']:7.1f} s{memory:>10}",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"about": about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
