"""Benchmark of the whole: `python -m rrsr_jax.bench [--part step|inference|match|data] [--batch N]`.

Full-size RRSR, float32: one reciprocal step (two passes, forward, backward, update) on a 160 x 160 image, and the
super-resolution of 128 x 128 to 512 x 512 with a 512 x 512 reference. `data` is the input pipeline on prepared pairs as in
CUFED (PNG records, augmentation, warp, both downsamplings): training samples per second of processor time, which is per
core. A single convolution (64 channels, 160 x 160, 1.9 GFLOP) is timed first and last, as a measure of the machine. Peak
memory is that of the process, so run one part at a time to know it.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from configs import cufed5
from rrsr_jax import models, train
from rrsr_jax.data import datasets, pipeline, prepare
from rrsr_jax.data.images import random_view
from rrsr_jax.models.matching import match_patches
from rrsr_jax.step import create_state, make_mesh, make_train_step, place


def timed(f, *arguments, repeats: int = 3) -> float:
    """Best of a few runs, in seconds; compiles first."""
    jax.block_until_ready(f(*arguments))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        best = min(best, time.perf_counter() - start)
    return best


def convolution() -> float:
    """Seconds of a 3x3 convolution, 64 to 64 channels, 160 x 160."""
    x, w = jnp.ones((1, 160, 160, 64)), jnp.ones((3, 3, 64, 64))
    dims = ("NHWC", "HWIO", "NHWC")
    return timed(jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)), x, w)


def images(rng, size: int, batch: int = 1) -> np.ndarray:
    """Random 8-bit images."""
    return rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def step(config, model, params, rng, batch_size: int) -> str:
    """One reciprocal training step."""
    sizes = {"lr": 40, "hr": 160, "ref": 160, "ref_p": 160, "ref_lr_p": 40}
    batch = {name: images(rng, size, batch_size) for name, size in sizes.items()}
    mesh = make_mesh()
    state = place(create_state(params, config), mesh)
    start = time.perf_counter()
    run = make_train_step(model, config, mesh).lower(state, batch).compile()
    compiling, temporary = time.perf_counter() - start, run.memory_analysis().temp_size_in_bytes
    times = []
    for _ in range(4):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(run(state, batch))
        times.append(time.perf_counter() - start)
    return (
        f"reciprocal step, batch {batch_size}, 160 x 160: {min(times[1:]):.2f} s "
        f"(compiled in {compiling:.0f} s, {temporary / 2**30:.2f} GiB of intermediates)"
    )


def inference(config, model, params, rng, batch_size: int) -> str:
    """Super-resolution of one larger image."""
    lr, ref = (jnp.asarray(images(rng, size, batch_size), jnp.float32) / 255 for size in (128, 512))
    apply = jax.jit(lambda params, lr, ref: model.apply({"params": params}, lr, ref))
    return f"inference, batch {batch_size}, 128 x 128 to 512 x 512: {timed(apply, params, lr, ref):.2f} s"


def match(config, model, params, rng, batch_size: int) -> str:
    """Patch matching alone, at the size of `inference`."""
    a, b = (jnp.asarray(rng.standard_normal((batch_size, 128, 128, 256)), jnp.float32) for _ in range(2))
    return f"matching, 128 x 128 on 128 x 128: {timed(jax.jit(match_patches), a, b):.2f} s"


def data(config, model, params, rng, batch_size: int, samples: int = 1_000) -> str:
    """The input pipeline alone, on crops of the embedded photographs."""
    photographs = datasets.embedded_photographs(datasets.EMBEDDED_TRAIN, 160)
    config = config.data.copy_and_resolve_references()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "source")
        for kind in ("input", "ref"):
            (source / kind).mkdir(parents=True)
        for i in range(samples):  # shuffling few is slower
            pair = random_view(photographs[i % len(photographs)], 160, rng)
            for kind, image in zip(("input", "ref"), pair, strict=True):
                Image.fromarray(image).save(source / kind / f"{i:05}.png")
        prepare.prepare("cufed", str(source), folder, count=samples)
        config.dir = folder
        batches = pipeline.training_batches(config, 10, seed=0)
        next(batches)  # threads and readers are there then
        wall, used = time.perf_counter(), time.process_time()
        for _ in range(samples // 10):
            next(batches)
        wall, used = time.perf_counter() - wall, time.process_time() - used
    return f"input pipeline: {samples / used:.0f} samples/s per core ({samples / wall:.0f} samples/s on {used / wall:.1f} cores)"


PARTS = {"step": step, "inference": inference, "match": match, "data": data}


def main() -> None:
    """Prints one line per part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="all of them without this")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind} x {jax.device_count()}, jax {jax.__version__}, float32", flush=True)
    print(f"one convolution: {1e3 * convolution():.1f} ms", flush=True)
    config = cufed5.get_config()
    model = models.build(config.model)
    parts = options.part or list(PARTS)
    params = train.initial_params(model, config) if parts != ["data"] else None
    for name in parts:
        print(PARTS[name](config, model, params, np.random.default_rng(0), options.batch), flush=True)
    print(f"one convolution: {1e3 * convolution():.1f} ms")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
