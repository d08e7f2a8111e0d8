"""Benchmark of the whole: `python -m rrsr_jax.experiments.bench [--part step] [--batch 9] [--dtype bfloat16] [--json FILE]`.

Full-size RRSR with random parameters. `step`: one reciprocal training step (two passes, forward, backward, update) on 160 x 160.
`inference`: 128 x 128 to 512 x 512 with a 512 x 512 reference. `cufed5`: a 500 x 500 result with one reference of that size, and
with five as a list. `match`: the patch search of `inference` alone, exact, in bfloat16 and coarse-to-fine, and a PyTorch one of
unfolded patches where PyTorch is installed. `data`: the input pipeline on prepared pairs as in CUFED (PNG records,
augmentation, warp, both downsamplings), training samples per second of processor time, which is per core. A single
convolution (64 channels, 160 x 160, 1.9 GFLOP) is timed first and last, as a measure of the machine.
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from configs import cufed5 as full_size
from kernels.bench import Timed, in_turns
from rrsr_jax import models
from rrsr_jax.data import datasets, pipeline, prepare
from rrsr_jax.data.images import random_view
from rrsr_jax.models.matching import match_patches, match_patches_coarse_to_fine
from rrsr_jax.training import initial
from rrsr_jax.training.step import create_state, make_mesh, make_train_step, place


def compiled(f, *arguments) -> Timed:
    """`f` compiled for and applied to `arguments`."""
    start = time.perf_counter()
    run = jax.jit(f).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return Timed(lambda: jax.block_until_ready(run(*arguments)), seconds, run.memory_analysis().temp_size_in_bytes)


def rows(functions: dict[str, Timed], repeats: int = 3) -> list[dict]:
    """One row per function; they run in turns."""
    seconds = in_turns(functions, repeats)
    return [
        {
            "what": name,
            "seconds": seconds[name],
            "compile_seconds": timed.compile_seconds,
            "temporary_gib": None if timed.temporary_bytes is None else timed.temporary_bytes / 2**30,
        }
        for name, timed in functions.items()
    ]


def convolution() -> float:
    """Seconds of a 3x3 convolution, 64 to 64 channels, 160 x 160."""
    x, w = jnp.ones((1, 160, 160, 64)), jnp.ones((3, 3, 64, 64))
    dims = ("NHWC", "HWIO", "NHWC")
    f = compiled(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims), x, w)
    return in_turns({"": f}, 10)[""]


def images(rng, size: int, batch: int = 1) -> np.ndarray:
    """Random 8-bit images."""
    return rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def step(config, model, params, rng, batch_size: int) -> list[dict]:
    """One reciprocal training step."""
    sizes = {"lr": 40, "hr": 160, "ref": 160, "ref_p": 160, "ref_lr_p": 40}
    mesh = make_mesh()
    batch = {name: jnp.asarray(images(rng, size, batch_size)) for name, size in sizes.items()}
    state = place(create_state(params, config), mesh)
    start = time.perf_counter()
    run = make_train_step(model, config, mesh).lower(state, batch).compile()
    seconds = time.perf_counter() - start

    def once():
        nonlocal state
        state, _ = jax.block_until_ready(run(state, batch))

    return rows({"reciprocal step, 160 x 160": Timed(once, seconds, run.memory_analysis().temp_size_in_bytes)})


def upscaling(model, params, rng, batch_size: int, size: int, references: int = 1) -> Timed:
    """The model from `size` / 4 to `size` with references of that size."""
    lr, *refs = (jnp.asarray(images(rng, n, batch_size), jnp.float32) / 255 for n in (size // 4, *[size] * references))
    return compiled(lambda params, lr, refs: model.apply({"params": params}, lr, refs), params, lr, refs)


def inference(config, model, params, rng, batch_size: int) -> list[dict]:
    """Super-resolution of one larger image."""
    return rows({"128 x 128 to 512 x 512": upscaling(model, params, rng, batch_size, 512)})


def cufed5(config, model, params, rng, batch_size: int) -> list[dict]:
    """Images as large as those of CUFED5 get."""
    names = {"125 x 125 to 500 x 500, one reference": 1, "the same, five references": 5}
    return rows({name: upscaling(model, params, rng, batch_size, 500, number) for name, number in names.items()})


def match(config, model, params, rng, batch_size: int) -> list[dict]:
    """Patch matching alone, at the size of `inference`."""
    a, b = (jnp.asarray(rng.standard_normal((batch_size, 128, 128, 256)), jnp.float32) for _ in range(2))
    functions = {
        "exact": compiled(match_patches, a, b),
        "bfloat16": compiled(functools.partial(match_patches, dtype=jnp.bfloat16), a, b),
        "coarse to fine, factor 4": compiled(match_patches_coarse_to_fine, a, b),
    }
    if importlib.util.find_spec("torch"):
        functions["PyTorch, unfolded patches"] = torch_match(a, b)
    return [row | {"what": f"matching 128 x 128 on 128 x 128, {row['what']}"} for row in rows(functions)]


def torch_match(a: jax.Array, b: jax.Array) -> Timed:
    """The definition as it is usually written: patches unfolded, normalised, multiplied in chunks."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.from_numpy(np.array(f)).to(device).permute(0, 3, 1, 2) for f in (a, b))

    def run():
        patches = [functional.unfold(functional.normalize(f, dim=1), 3) for f in (a, b)]
        queries, keys = (p / (p.norm(dim=1, keepdim=True) + 1e-5) for p in patches)
        for chunk in queries.split(2048, dim=2):
            (chunk.transpose(1, 2) @ keys).max(2)
        if device == "cuda":
            torch.cuda.synchronize()

    return Timed(run)


def data(config, model, params, rng, batch_size: int, samples: int = 1_000) -> list[dict]:
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
    return [{"what": f"input pipeline, on {used / wall:.1f} cores", "samples_per_second_and_core": samples / used}]


PARTS = {"step": step, "inference": inference, "cufed5": cufed5, "match": match, "data": data}


def main() -> None:
    """Prints one line per row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="all of them without this")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of computation and matching"
    )
    parser.add_argument("--remat", default="none", choices=("none", "blocks", "fas"))
    parser.add_argument("--json", help="file for the rows")
    options = parser.parse_args()
    config = full_size.get_config()
    config.model.update(dtype=options.dtype, match_dtype=options.dtype, remat=options.remat)
    model = models.build(config.model)
    about = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    about |= {"batch": options.batch, "dtype": options.dtype, "remat": options.remat, "convolution": convolution()}
    print(", ".join(f"{k} {v:.2g} s" if isinstance(v, float) else f"{k} {v}" for k, v in about.items()), flush=True)
    parts = options.part or list(PARTS)
    params = initial.initial_params(model, config) if parts != ["data"] else None
    measured = []
    for name in parts:
        for row in PARTS[name](config, model, params, np.random.default_rng(0), options.batch):
            measured.append(row)
            print(
                ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items() if v is not None)
            )
    about["convolution_after"] = convolution()
    print(f"convolution {about['convolution_after']:.2g} s")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"about": about, "rows": measured}, indent=1))


if __name__ == "__main__":
    main()
