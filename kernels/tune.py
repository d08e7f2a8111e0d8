"""Block sizes of the deformable convolution's kernels: measured on this GPU, or compiled for one that is not there.

    python -m kernels.tune [--channels 64 128 256] [--dtypes float32 bfloat16] [--json FILE]
    python -m kernels.tune --ahead-of-time H200 --ptxas FILE

Every variant of `blocks.Blocks` is tried in each kernel, with the others as they are, on the layer of RRSR with so many
channels, in turns. The kernel `forward` is timed forward, the other two forward with backward. The fastest are the choice
for `blocks.blocks_for`.

`--ahead-of-time` needs no GPU: it takes JAX's CUDA plugin, and `ptxas` of the same CUDA. For each kernel it prints registers,
bytes of registers that are spilled to memory, shared memory, and the share of a multiprocessor's threads that fit at once.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kernels.bench import SHAPES, Shape, in_turns, inputs, timed, with_gradients
from kernels.blocks import Blocks, Choice, blocks_for
from kernels.deform_conv_triton import sample_and_multiply

LAYERS = {shape.channels: shape for name, shape in SHAPES.items() if name.startswith("train")}
DTYPES = ("float32", "bfloat16")
VARIANTS = [Blocks(*sizes) for sizes in itertools.product((16, 32, 64), (32, 64), (32, 64, 128), (4, 8))]

# What XLA is told of a GPU. H100 and H200 have the same multiprocessor (compute capability 9.0), and other memories.
MEMORIES = {"H100": "3350000000000 l2_cache_size: 52428800", "H200": "4800000000000 l2_cache_size: 62914560"}
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: %s clock_rate_ghz: 1.98
  device_memory_size: 80000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA %s"
"""
_THREADS, _REGISTERS, _SHARED, _PROGRAMS = 2048, 65536, 233472, 32  # of a multiprocessor
_OWN_SHARED = 1024  # bytes that the system takes for each program


class Compiled(NamedTuple):
    """What one kernel takes: of each thread, registers and spilled bytes; of each program, bytes of shared memory and threads."""

    registers: int
    spilled: int
    shared: int
    threads: int

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's threads that fit at once. Registers are given to a warp in units of 256."""
        warps = self.threads // 32
        fit = _REGISTERS // (warps * -(-32 * self.registers // 256) * 256)
        fit = min(fit, _THREADS // self.threads, _SHARED // (self.shared + _OWN_SHARED), _PROGRAMS)
        return fit * self.threads / _THREADS


def layer(choice: Choice) -> Callable[..., jax.Array]:
    """The convolution with these blocks, without bias."""
    return lambda x, offset, mask, weight: sample_and_multiply(
        x, offset, mask, weight, stride=1, padding=1, dilation=1, choice=choice
    )


def variants(channels: int, chosen: Sequence[Blocks] = ()) -> list[Blocks]:
    """Those that can be told apart for so many channels, after those in use."""
    others = (one for one in VARIANTS if max(one.channels, one.outs) <= channels)
    return list(dict.fromkeys([*chosen, *others]))


def measure(shape: Shape, dtype: str, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each kernel and variant, on this GPU; a variant that does not run is named with its error."""
    arguments, chosen = inputs(shape, dtype)[:4], blocks_for(shape.channels, dtype)
    for kernel in Choice._fields:
        ready: dict[Blocks, Any] = {}
        for blocks in variants(shape.channels, [getattr(chosen, kernel)]):
            f = layer(chosen._replace(**{kernel: blocks}))
            try:
                one = timed(f if kernel == "forward" else with_gradients(f), *arguments)
                one.run()
            except Exception as error:  # of a compiler or a driver: a variant may be too large for this GPU
                yield {**_about(shape, dtype, blocks, kernel), "error": (str(error) or repr(error)).splitlines()[0]}
            else:
                ready[blocks] = one
        seconds: dict[Any, float] = in_turns(ready, repeats)
        for blocks in sorted(seconds, key=lambda blocks: seconds[blocks]):
            yield {**_about(shape, dtype, blocks, kernel), "milliseconds": 1e3 * seconds[blocks]}


def compiled_for(gpu: str, shape: Shape, dtype: str, blocks: Blocks, ptxas: str) -> dict[str, Compiled]:
    """The kernels `forward`, `data` and `weight`, compiled for a GPU of `MEMORIES`, which need not be there."""
    from jax.experimental import topologies

    target = _TARGET % (MEMORIES[gpu], gpu)
    devices = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=target).devices
    mesh = jax.sharding.Mesh(np.array(devices), ("device",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    abstract = jax.eval_shape(lambda: inputs(shape, dtype))[:4]
    abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole) for a in abstract]
    function = jax.jit(with_gradients(layer(Choice(blocks, blocks, blocks))), out_shardings=whole)
    with tempfile.TemporaryDirectory() as folder:
        scope = jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else contextlib.nullcontext()
        with scope:
            function.lower(*abstract).compile(compiler_options={"xla_dump_to": folder})
        dumped = pathlib.Path(folder)
        launches = "".join(path.read_text() for path in dumped.glob("*thunk_sequence.txt"))
        reports = "".join(_ptxas(ptxas, path) for path in dumped.glob("*.ptx") if path.stat().st_size)
    return kernels_in(launches, reports)


def _ptxas(ptxas: str, path: pathlib.Path) -> str:
    command = [ptxas, "-v", "--maxrregcount", "255", "-arch=sm_90a", str(path), "-o", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def kernels_in(launches: str, reports: str) -> dict[str, Compiled]:
    """Reads XLA's list of launches and the messages of `ptxas -v`."""
    sizes = {
        name: (int(threads), int(shared))
        for name, threads, shared in re.findall(
            r"deform_conv_(\w+)_kernel .*?threads: \[(\d+).*?shared_memory: (\d+)", launches
        )
    }
    found = re.findall(
        r"properties for deform_conv_(\w+)_kernel\n.*?(\d+) bytes spill stores.*?\n.*?Used (\d+) registers", reports
    )
    return {
        name: Compiled(int(registers), int(spilled), sizes[name][1], sizes[name][0])
        for name, spilled, registers in found
    }


def _about(shape: Shape, dtype: str, blocks: Blocks, kernel: str = "") -> dict[str, Any]:
    return {"layer": shape.channels, "dtype": dtype} | ({"kernel": kernel} if kernel else {}) | blocks._asdict()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [names, ["---"] * len(names), *([cell(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--batch", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--ahead-of-time", choices=MEMORIES, metavar="GPU", help=f"one of {', '.join(MEMORIES)}")
    parser.add_argument("--ptxas", default="ptxas", help="the program (default: found in PATH)")
    parser.add_argument("--json", type=pathlib.Path, help="file for the rows")
    options = parser.parse_args(argv)
    if not options.ahead_of_time and jax.default_backend() != "gpu":
        parser.error(f"a CUDA GPU expected, JAX runs on {jax.default_backend()}; or name a GPU with --ahead-of-time")
    rows: list[dict[str, Any]] = []
    for channels, dtype in itertools.product(options.channels, options.dtypes):
        shape = LAYERS[channels]._replace(batch=options.batch)
        if not options.ahead_of_time:
            rows += measure(shape, dtype, options.repeats)
            continue
        for blocks in variants(channels, blocks_for(channels, dtype)):
            found = compiled_for(options.ahead_of_time, shape, dtype, blocks, options.ptxas)
            told = {
                name: f"{k.registers} registers, {k.spilled} B spilled, {k.shared // 1024} KiB, {100 * k.occupancy:.0f} %"
                for name, k in found.items()
            }
            rows.append({**_about(shape, dtype, blocks), **told})
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"about": {"device": _device(options)}, "rows": rows}, indent=1))


def _device(options: argparse.Namespace) -> str:
    return f"{options.ahead_of_time}, ahead of time" if options.ahead_of_time else jax.devices()[0].device_kind


if __name__ == "__main__":
    main()
