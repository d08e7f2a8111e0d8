"""What the models cost, as a Markdown table: `python -m rrsr_jax.experiments.costs [--models rrsr edsr ...]`.

One 40 x 40 image to 160 x 160 with a 160 x 160 reference, full-size, float32. Operations are those XLA counts in the compiled
program, two for a multiplication with addition; of a loop it counts one round, so that eight of the nine taps of the deformable
convolutions are missing (12 GFLOP in RRSR, 5 in C2-Matching), and all but one block of MASA's coarse
search. Times are the best of three after compilation, here.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import c2_matching, cufed5, edsr, masa, rcan, srcnn, ttsr
from rrsr_jax import models
from rrsr_jax.training.step import parameter_rates, split

CONFIGS = {
    "rrsr": cufed5, "c2_matching": c2_matching, "masa": masa, "ttsr": ttsr, "rcan": rcan, "edsr": edsr, "srcnn": srcnn,
}  # fmt: skip


class Cost(NamedTuple):
    """Of one model.

    Attributes:
      trained, frozen: numbers of parameters.
      operations: of one image.
      seconds: likewise.
      pretrained: the modules whose weights the config asks for.
    """

    trained: int
    frozen: int
    operations: float
    seconds: float
    pretrained: tuple[str, ...]


def cost(config: ConfigDict, size: int = 40, repeats: int = 3) -> Cost:
    """Counts and measures the config's model on a `size` x `size` image with a reference four times as large."""
    model = models.build(config.model)
    rng = np.random.default_rng(0)
    lr, ref = (jnp.asarray(rng.random((1, side, side, 3)), jnp.float32) for side in (size, 4 * size))
    shapes = jax.eval_shape(model.init, jax.random.key(0), lr, ref)["params"]
    params = jax.tree.map(lambda a: (0.02 * rng.standard_normal(a.shape)).astype(np.float32), shapes)
    trained, frozen = split(params, parameter_rates(params, config.learning_rates))
    apply = jax.jit(lambda params, lr, ref: model.apply({"params": params}, lr, ref)).lower(params, lr, ref).compile()
    params, seconds = jax.device_put(params), []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        jax.block_until_ready(apply(params, lr, ref))
        seconds.append(time.perf_counter() - start)
    count = [sum(a.size for a in part.values()) for part in (trained, frozen)]
    pretrained = tuple(part for part in config.weights if part in params)
    return Cost(*count, apply.cost_analysis()["flops"], min(seconds[1:]), pretrained)


def row(name: str, cost: Cost) -> str:
    """One line of the table."""
    frozen = f" + {cost.frozen:,} frozen" if cost.frozen else ""
    needs = ", ".join(cost.pretrained) or "nothing"
    return f"| {name} | {cost.trained:,}{frozen} | {cost.operations / 1e9:.1f} | {cost.seconds:.2f} s | {needs} |"


def main() -> None:
    """Prints the table, row by row."""
    available = [name for name in CONFIGS if name in models.MODELS]
    parser = argparse.ArgumentParser(prog="python -m rrsr_jax.experiments.costs", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=available, default=available)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, float32\n")
    print("| model | trained parameters | GFLOP | 40 x 40 to 160 x 160 | pretrained |")
    print("|---|---|---|---|---|", flush=True)
    for name in options.models:
        print(row(name, cost(CONFIGS[name].get_config())), flush=True)


if __name__ == "__main__":
    main()
