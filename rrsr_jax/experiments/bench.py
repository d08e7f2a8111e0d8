"""Benchmark of the whole: `python -m rrsr_jax.experiments.bench [--part step] [--batch 9] [--dtype bfloat16] [--json FILE]`.

Full-size RRSR, or the model of `--config`, with random parameters. `step`: one reciprocal training step (two passes, forward,
backward, update) on 160 x 160. `inference`: 128 x 128 to 512 x 512 with a 512 x 512 reference. `cufed5`: a 500 x 500 result with
one reference of that size, and with five as a list. `match`: the patch search of `inference` alone, exact, in bfloat16 and
coarse-to-fine, and a PyTorch one of unfolded patches where PyTorch is installed. `data`: the input pipeline on prepared pairs as
in CUFED (PNG records, augmentation, warp, both downsamplings), training samples per second of processor time, which is per core.
A single convolution (64 channels, 160 x 160, 1.9 GFLOP) is timed first and last, as a measure of the machine. Where PyTorch is
installed, its convolution of that size is timed in turns with it. A time in units of that one (`units`) can be compared between
machines, and with other programs.
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from kernels.bench import Timed, in_turns, timed
from rrsr_jax import SCALE_FACTOR, config_checks, config_files, models
from rrsr_jax.console import exit_on_error
from rrsr_jax.data import datasets, pipeline, prepare
from rrsr_jax.data.images import random_view
from rrsr_jax.errors import InputError
from rrsr_jax.models.matching import match_patches
from rrsr_jax.models.search import match_patches_coarse_to_fine
from rrsr_jax.training.passes import make_train_step
from rrsr_jax.training.step import create_state, make_mesh, place
from rrsr_jax.workdir.files import write_atomically

# Sides of the images, in pixels.
SIZES = {"step": 160, "inference": 512, "cufed5": 500}
MATCHED = (128, 256)  # side and channels of the features in `match`
SAMPLES, SAMPLE_SIZE = 1_000, 160  # in `data`; shuffling few is slower


def published_config() -> ConfigDict:
    """What the benchmark needs of `configs/cufed5.py`, RRSR's published run."""
    c = ConfigDict()
    c.stage = "rec"
    c.model = ConfigDict(dict(name="rrsr", dtype="float32", match_dtype="float32", remat="none"))
    c.loss = ConfigDict(dict(rec=1.0, rtrr=0.4))
    c.adam_betas = (0.9, 0.999)
    c.learning_rates = ConfigDict(dict(default=1e-4, vgg=0.0, correspondence=0.0))
    c.schedule, c.decay_steps, c.decay_factor = "steps", (72_545, 211_040), 0.1
    c.accumulate, c.ema_decay = 1, 0.0
    c.data = ConfigDict(
        dict(
            name="cufed",
            dir="data",
            patch=160,
            warp=True,
            warp_range=(5.0, 20.0),
            view=dict(shift=0.25, corners=0.05, whole_pixels=False, rotation=0.0, zoom=(1.0, 1.0)),
            pairs="warp",
            reference_shares=dict(unrelated=0.0, none=0.0),
            light=dict(exposure=0.0, white_balance=0.0, contrast=0.0),
            degradation=dict(share=0.0, blur=0.0, noise=0.0, jpeg=100),
            reference_degradation=dict(share=0.0, blur=0.0, noise=0.0, jpeg=100),
            skip_damaged=False,
            threads=16,
            prefetch=16,
            workers=0,
        )
    )
    return c


def random_params(model: nn.Module) -> dict[str, Any]:
    """Parameters from N(0, 0.02), variances above 1, without compiling the model's own initialisation; new ones at every call."""
    lr, ref = (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32) for side in (12, 12 * SCALE_FACTOR))
    shapes = jax.eval_shape(model.init, jax.random.key(0), lr, ref)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = 0.02 * rng.standard_normal(leaf.shape)
        return jnp.asarray(1 + np.abs(values) if path[-1].key == "var" else values, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def rows(functions: dict[str, Timed], repeats: int = 3) -> list[dict[str, Any]]:
    """One row per function; they run in turns."""
    seconds = in_turns(functions, repeats)
    return [
        {
            "what": name,
            "seconds": seconds[name],
            "compile_seconds": function.compile_seconds,
            "temporary_gib": None if function.temporary_bytes is None else function.temporary_bytes / 2**30,
        }
        for name, function in functions.items()
    ]


def convolutions() -> dict[str, float]:
    """Seconds of a 3x3 convolution, 64 to 64 channels, 160 x 160, float32: `jax`, and `torch` where PyTorch is installed."""
    x, w = jnp.ones((1, 160, 160, 64)), jnp.ones((3, 3, 64, 64))
    dims = ("NHWC", "HWIO", "NHWC")
    f = {"jax": timed(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims), x, w)}
    if importlib.util.find_spec("torch"):
        f["torch"] = torch_convolution()
    return in_turns(f, 10)


def torch_convolution() -> Timed:
    """The same with PyTorch, in its default layout (NCHW)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device)
    x = torch.ones(1, 64, 160, 160, device=device)

    def run():
        with torch.no_grad():
            layer(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return Timed(run)


def images(rng: np.random.Generator, size: int, batch: int = 1) -> np.ndarray:
    """Random 8-bit images."""
    return rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def square(side: int) -> str:
    """A square's size, for a row's name."""
    return f"{side} x {side}"


def step(config: ConfigDict, rng: np.random.Generator, batch_size: int) -> list[dict[str, Any]]:
    """One reciprocal training step."""
    hr = SIZES["step"]
    sizes = {"lr": hr // SCALE_FACTOR, "hr": hr, "ref": hr, "ref_p": hr, "ref_lr_p": hr // SCALE_FACTOR}
    mesh, model = make_mesh(), models.build(config.model)
    batch = {name: jnp.asarray(images(rng, size, batch_size)) for name, size in sizes.items()}
    state = place(create_state(config, random_params(model)), mesh)
    function = timed(make_train_step(model, config, mesh), state, batch, carry=True)
    return rows({f"reciprocal step, {square(hr)}": function})


def upscaling(config: ConfigDict, rng: np.random.Generator, batch_size: int, size: int, references: int = 1) -> Timed:
    """The model from `size` / 4 to `size` with references of that size."""
    model = models.build(config.model)
    sides = (size // SCALE_FACTOR, *[size] * references)
    lr, *refs = (jnp.asarray(images(rng, side, batch_size), jnp.float32) / 255 for side in sides)
    apply = lambda params, lr, refs: model.apply({"params": params}, lr, refs)  # noqa: E731
    return timed(apply, random_params(model), lr, refs)


def inference(config: ConfigDict, rng: np.random.Generator, batch_size: int) -> list[dict[str, Any]]:
    """Super-resolution of one larger image."""
    size = SIZES["inference"]
    return rows({f"{square(size // SCALE_FACTOR)} to {square(size)}": upscaling(config, rng, batch_size, size)})


def cufed5(config: ConfigDict, rng: np.random.Generator, batch_size: int) -> list[dict[str, Any]]:
    """Images as large as those of CUFED5 get."""
    size = SIZES["cufed5"]
    names = {f"{square(size // SCALE_FACTOR)} to {square(size)}, one reference": 1, "the same, five references": 5}
    return rows({name: upscaling(config, rng, batch_size, size, number) for name, number in names.items()})


def match(config: ConfigDict, rng: np.random.Generator, batch_size: int) -> list[dict[str, Any]]:
    """Patch matching alone, at the size of `inference`."""
    side, channels = MATCHED
    a, b = (jnp.asarray(rng.standard_normal((batch_size, side, side, channels)), jnp.float32) for _ in range(2))
    functions = {
        "exact": timed(match_patches, a, b),
        "bfloat16": timed(functools.partial(match_patches, dtype=jnp.bfloat16), a, b),
        "coarse to fine, factor 4": timed(match_patches_coarse_to_fine, a, b),
    }
    if importlib.util.find_spec("torch"):
        functions["PyTorch, unfolded patches"] = torch_match(a, b)
    return [row | {"what": f"matching {square(side)} on {square(side)}, {row['what']}"} for row in rows(functions)]


def torch_match(a: jax.Array, b: jax.Array) -> Timed:
    """The definition as it is usually written: patches unfolded, normalised, multiplied in chunks."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = [torch.from_numpy(np.array(f)).to(device).permute(0, 3, 1, 2) for f in (a, b)]

    def run():
        patches = [functional.unfold(functional.normalize(f, dim=1), 3) for f in features]
        queries, keys = (p / (p.norm(dim=1, keepdim=True) + 1e-5) for p in patches)
        for chunk in queries.split(2048, dim=2):
            (chunk.transpose(1, 2) @ keys).max(2)
        if device == "cuda":
            torch.cuda.synchronize()

    return Timed(run)


def data(config: ConfigDict, rng: np.random.Generator, batch_size: int) -> list[dict[str, Any]]:
    """The input pipeline alone, on crops of the embedded photographs."""
    batch = 10
    photographs = datasets.embedded_photographs(datasets.EMBEDDED_TRAIN, SAMPLE_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "source")
        for kind in ("input", "ref"):
            (source / kind).mkdir(parents=True)
        for i in range(SAMPLES):
            pair = random_view(photographs[i % len(photographs)], SAMPLE_SIZE, rng)
            for kind, image in zip(("input", "ref"), pair, strict=True):
                Image.fromarray(image).save(source / kind / f"{i:05}.png")
        prepare.prepare("cufed", str(source), folder, count=SAMPLES)
        settings = config.data.copy_and_resolve_references()
        settings.update(name="cufed", dir=folder, patch=SAMPLE_SIZE)
        batches = pipeline.training_batches(settings, batch, seed=0)
        next(batches)  # threads and readers are there then
        wall, used = time.perf_counter(), time.process_time()
        for _ in range(SAMPLES // batch):
            next(batches)
        wall, used = time.perf_counter() - wall, time.process_time() - used
    return [{"what": f"input pipeline, on {used / wall:.1f} cores", "samples_per_second_and_core": SAMPLES / used}]


PARTS = {"step": step, "inference": inference, "cufed5": cufed5, "match": match, "data": data}


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per row; bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="all of them without this")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of computation and matching")
    parser.add_argument("--remat", choices=("none", "blocks", "fas"))
    parser.add_argument("--config", help="a config of stage rec, FILE or FILE:ROW, instead of RRSR's published one")
    parser.add_argument("--json", help="file for the rows")
    options = parser.parse_args(argv)
    config = config_files.load(options.config) if options.config else published_config()
    if options.config:
        config_checks.check(config)
    measure(config, options)


def measure(config: ConfigDict, options: argparse.Namespace) -> None:
    """Runs the parts of `main`'s options one after another; each makes its own model, parameters and inputs."""
    changes = {"dtype": options.dtype, "match_dtype": options.dtype, "remat": options.remat}
    changes = {field: value for field, value in changes.items() if value}
    if config.stage != "rec":
        raise InputError(f"--config={options.config}: a config of stage rec expected, got one of stage {config.stage}")
    if unknown := [field for field in changes if field not in config.model]:
        raise InputError(f"--{unknown[0]}: the model {config.model.name} has no field {unknown[0]}")
    config.model.update(changes)
    about = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    about |= {"model": config.model.name, "batch": options.batch, **changes, **_named(convolutions())}
    print(", ".join(f"{k} {v:.2g} s" if isinstance(v, float) else f"{k} {v}" for k, v in about.items()), flush=True)
    measured = []
    for name in options.part or PARTS:
        for row in PARTS[name](config, np.random.default_rng(0), options.batch):
            if "seconds" in row and "torch_convolution" in about:
                row["units"] = row["seconds"] / about["torch_convolution"]
            measured.append(row)
            values = {k: v for k, v in row.items() if v is not None}
            print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in values.items()), flush=True)
    after = {f"{name}_after": seconds for name, seconds in _named(convolutions()).items()}
    print(", ".join(f"{name} {seconds:.2g} s" for name, seconds in after.items()))
    about |= after
    if options.json:
        write_atomically(pathlib.Path(options.json), json.dumps({"about": about, "rows": measured}, indent=1))


def _named(seconds: dict[str, float]) -> dict[str, float]:
    return {("" if name == "jax" else f"{name}_") + "convolution": value for name, value in seconds.items()}


if __name__ == "__main__":
    main()
