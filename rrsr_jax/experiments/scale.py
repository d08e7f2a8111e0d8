"""What a training step exchanges between devices, from compiling it for them: `python -m rrsr_jax.experiments.scale --devices 8`.

Nothing runs, so the devices need not be there. `--devices N` compiles for N CPUs. `--topology v5e:2x4` compiles for TPUs on any
machine with `jax[tpu]`; it takes minutes for RRSR. Each row has, for one device: the collectives in the compiled program, their
number and the bytes of their results; the memory of intermediates and of arguments, which are state and batch; and the
operations, two for a multiplication with addition. Of a loop XLA counts one round, collectives included.

The second table is computed from the first, by published rates. In a ring of n devices each one sends 2 (n - 1) / n times the
bytes of an all-reduce. The batch is the one at which that takes a tenth of the step, if the operations run at the device's peak,
nothing else takes time, and nothing overlaps. Real operations are slower, so the real share at that batch is smaller.
"""

import argparse
import contextlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR, config_files, models
from rrsr_jax.console import exit_on_error
from rrsr_jax.errors import InputError
from rrsr_jax.experiments.bench import published_config
from rrsr_jax.training.initial import initialise_model
from rrsr_jax.training.passes import make_train_step
from rrsr_jax.training.step import create_state, make_mesh

COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
SHARE = 0.1  # of the step, that communication may take


class Link(NamedTuple):
    """Published rates of a device: bfloat16 operations per second, and bytes per second that it can send."""

    operations: float
    bytes: float


LINKS = {
    "TPU v5e, within a slice": Link(197e12, 200e9),
    "TPU v5p, within a slice": Link(459e12, 600e9),
    "H100, NVLink": Link(989e12, 450e9),
    "H100, a network of 400 Gbit/s per GPU": Link(989e12, 50e9),
}


class Program(NamedTuple):
    """What the compiler says of one device's part.

    Attributes:
      collectives: number and bytes, by kind.
      intermediates, arguments: bytes of memory.
      operations: in a step.
    """

    collectives: dict[str, tuple[int, int]]
    intermediates: int
    arguments: int
    operations: float


def compile_step(config: ConfigDict, devices: Sequence[Any], batch: int) -> Program:
    """Compiles the step of stage rec for `devices`, with `batch` images on each."""
    mesh, model = make_mesh(devices), models.build(config.model)
    state = jax.eval_shape(lambda key: create_state(config, initialise_model(model, key)), jax.random.key(0))
    patch = config.data.patch
    sides = {"lr": patch // SCALE_FACTOR, "hr": patch, "ref": patch}
    if config.loss.rtrr:
        sides |= {"ref_p": patch, "ref_lr_p": patch // SCALE_FACTOR}
    number = batch * len(devices)
    images = {name: jax.ShapeDtypeStruct((number, side, side, 3), jnp.uint8) for name, side in sides.items()}
    step: Any = make_train_step(model, config, mesh)
    compiled = step.lower(state, images).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Program(
        collectives(compiled.as_text()),
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        cost["flops"],
    )


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """Number and bytes of the results of each kind of collective in a compiled program's text."""
    found: dict[str, tuple[int, int]] = {}
    for line in program.splitlines():
        if match := re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line):
            result, kind, start = match.groups()
            sizes = list(_array_bytes(result))
            # An asynchronous all-reduce has its result alone, other kinds have their operand beside it.
            size = max(sizes) if start and kind != "all-reduce" else sum(sizes)
            number, before = found.get(kind, (0, 0))
            found[kind] = number + 1, before + size
    return found


def _array_bytes(shapes: str) -> Iterable[int]:
    for kind, bits, dimensions in re.findall(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]", shapes):
        yield math.prod(int(n) for n in dimensions.split(",") if n) * (1 if kind == "pred" else int(bits) // 8)


def smallest_batch(program: Program, devices: int, link: Link) -> float:
    """Images on each device at which communication takes `SHARE` of the step; `program` has one image on each."""
    size = sum(size for _, size in program.collectives.values())
    sending = 2 * (devices - 1) / devices * size / link.bytes
    return (1 - SHARE) / SHARE * sending / (program.operations / link.operations)


def cpu_devices(number: int) -> list[Any]:
    """So many CPU devices, of a process that has none yet."""
    with contextlib.suppress(RuntimeError):  # JAX has started, with those that there are
        jax.config.update("jax_num_cpu_devices", number)
    devices = jax.devices("cpu")
    if len(devices) < number:
        raise InputError(f"--devices: at most the {len(devices)} CPU devices of this process expected, got {number}")
    return devices[:number]


def tpu_devices(topology: str) -> list[Any]:
    """The devices of a TPU slice that need not be there; InputError without `jax[tpu]`, or for a slice that does not exist."""
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask where it is
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # libtpu's and the plugin's have no common class
        raise InputError(
            f"--topology={topology}: a TPU slice such as v5e:2x4 expected, and jax[tpu] in the environment; got {error}"
        ) from error


def row(name: str, dtype: str, batch: int, program: Program) -> str:
    """One line of the first table."""
    exchanged = [f"{number} {kind}, {size / 1e6:,.2f} MB" for kind, (number, size) in program.collectives.items()]
    memory = f"{program.intermediates / 2**30:.2f} + {program.arguments / 2**30:.2f} GiB"
    return f"| {name} | {dtype} | {batch} | {'; '.join(exchanged) or 'none'} | {memory} | {program.operations / 1e12:.3g} T |"


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables, row by row; bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[], help="numbers of CPU devices")
    parser.add_argument("--topology", nargs="+", default=[], help="TPU slices, such as v5e:2x4 or v5p:2x2x2")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), help="both without this")
    parser.add_argument("--batch", type=int, default=1, help="images on each device")
    parser.add_argument("--config", help="a config of stage rec, FILE or FILE:ROW, instead of RRSR's published one")
    options = parser.parse_args(argv)
    config = config_files.load(options.config) if options.config else published_config()
    tables(config, options)


def tables(config: ConfigDict, options: argparse.Namespace) -> None:
    """Compiles what `main`'s options name, and prints it."""
    if config.stage != "rec":
        raise InputError(f"--config={options.config}: a config of stage rec expected, got one of stage {config.stage}")
    if not options.devices + options.topology or min([*options.devices, options.batch]) < 1:
        raise InputError("--devices or --topology: at least one expected, and numbers and --batch of at least 1")
    dtypes = options.dtype or (["float32", "bfloat16"] if "dtype" in config.model else ["float32"])
    if "dtype" not in config.model and dtypes != ["float32"]:
        raise InputError(f"--dtype: float32 expected, the model {config.model.name} has no field dtype")
    jax.config.update("jax_platforms", "cpu")  # where constants are computed
    every_cpu = cpu_devices(max(options.devices, default=1))
    slices = {f"{n} x cpu": every_cpu[:n] for n in options.devices}
    slices |= {name: tpu_devices(name) for name in options.topology}
    print(f"jax {jax.__version__}, model {config.model.name}, patches of {config.data.patch} pixels\n")
    print("| devices | dtype | batch of each | collectives | intermediates + arguments | operations |")
    print("|---|---|---|---|---|---|", flush=True)
    programs = {}
    for name, devices in slices.items():
        for dtype in dtypes:
            if "dtype" in config.model:
                config.model.dtype = dtype
            programs[name, dtype] = compile_step(config, devices, options.batch)
            print(row(name, dtype, options.batch, programs[name, dtype]), flush=True)
    print(f"\n| batch of each device where communication takes {SHARE:.0%} | {' | '.join(LINKS)} |")
    print(f"|---|{'---|' * len(LINKS)}")
    for (name, dtype), program in programs.items():
        one = program._replace(operations=program.operations / options.batch)
        batches = [f"{smallest_batch(one, len(slices[name]), link):.2g}" for link in LINKS.values()]
        print(f"| {name}, {dtype} | {' | '.join(batches)} |")


if __name__ == "__main__":
    main()
