"""What the models cost, as a Markdown table: `python -m rrsr_jax.experiments.costs [--models rrsr edsr ...]`.

One 40 x 40 image to 160 x 160 with a 160 x 160 reference, with the models' published fields, which are their defaults, float32.
XLA counts the operations in the compiled program, two for a multiplication with addition. Of a loop it counts one round: eight of
the nine taps of the deformable convolutions are missing (12 GFLOP in RRSR, 5 in C2-Matching), and all but one block of MASA's
coarse search. Times are the best of three after compilation, on this machine; on a CPU processor time, of all cores together, so
that other work on the machine does not count. Memory is that of intermediate results in the compiled program, without parameters
and images.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kernels.bench import timed
from rrsr_jax import SCALE_FACTOR, models
from rrsr_jax.experiments.bench import random_params
from rrsr_jax.models.layers import STATISTICS


class Cost(NamedTuple):
    """Of one model.

    Attributes:
      trained, frozen: numbers of parameters, without running statistics.
      operations: for one image.
      seconds: for one image; of processor time on a CPU.
      memory: bytes of intermediate results.
      pretrained: the modules that start from files of weights.
    """

    trained: int
    frozen: int
    operations: float | None
    seconds: float
    memory: int | None
    pretrained: tuple[str, ...]


def cost(model: nn.Module, size: int = 40, repeats: int = 3) -> Cost:
    """Counts and measures the model on a `size` x `size` image with a reference four times as large."""
    rng = np.random.default_rng(0)
    lr, ref = (jnp.asarray(rng.random((1, side, side, 3)), jnp.float32) for side in (size, size * SCALE_FACTOR))
    params = random_params(model)
    function = timed(lambda params, lr, ref: model.apply({"params": params}, lr, ref), params, lr, ref)
    arrays: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(params))
    flat = {path: array.size for path, array in arrays.items() if path[-1] not in STATISTICS}
    frozen = sum(size for path, size in flat.items() if path[0] in getattr(model, "frozen", ()))
    return Cost(
        trained=sum(flat.values()) - frozen,
        frozen=frozen,
        operations=function.operations,
        seconds=min(_seconds(function.run) for _ in range(repeats)),
        memory=function.temporary_bytes,
        pretrained=tuple(getattr(model, "pretrained", ())),
    )


def _seconds(run: Callable[[], Any]) -> float:
    """What one run takes."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    start = clock()
    run()
    return clock() - start


def row(name: str, cost: Cost) -> str:
    """One line of the table."""
    frozen = f" + {cost.frozen:,} frozen" if cost.frozen else ""
    operations = "" if cost.operations is None else f"{cost.operations / 1e9:.1f}"
    memory = "" if cost.memory is None else f"{cost.memory / 2**20:,.0f} MiB"
    needs = ", ".join(cost.pretrained) or "nothing"
    return f"| {name} | {cost.trained:,}{frozen} | {operations} | {cost.seconds:.2f} s | {memory} | {needs} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=list(models.MODELS), default=list(models.MODELS))
    options = parser.parse_args(argv)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, float32\n")
    print("| model | trained parameters | GFLOP | 40 x 40 to 160 x 160 | memory | pretrained |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        print(row(name, cost(models.MODELS[name]())), flush=True)


if __name__ == "__main__":
    main()
