"""Draws what a trained model does inside: its features after each alignment (the paper's Fig. 7), and the weights of the experts
in the reference-aware selection (eq. 4).

python -m rrsr_jax.experiments.figures --workdir=runs/demo [--images=4] [--set FIELD=VALUE ...] [--out=DIR]
python -m rrsr_jax.experiments.figures --workdir=runs/demo --lr=SMALL.png --ref=SHARP.png

Takes the newest checkpoint and its config, and the first images of the first test set with the first of its references
(`--set eval.sets=cufed5 eval.references=stack` chooses others), or a low-resolution image and a reference of your own.
Writes `alignments/NAME.png`, `routing.png` and `routing.csv` to `WORKDIR/figures`. Other figures that are there under these names
are kept as `NAME.1.png` and so on.
"""

import argparse
import csv
import functools
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from PIL import Image

from rrsr_jax import SCALE_FACTOR, config_checks, config_files, models
from rrsr_jax.console import exit_on_error, log
from rrsr_jax.data import records
from rrsr_jax.data.images import downscale, to_uint8, upscale
from rrsr_jax.data.pictures import read_rgb8
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import drawing, protocols, results
from rrsr_jax.evaluation.drawing import Tile
from rrsr_jax.workdir import lock, saved_config
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.files import inside
from rrsr_jax.workdir.integrity import description
from rrsr_jax.workdir.state import eval_params

SMALLEST_LR = 3  # pixels a side: one patch of the matching


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir", required=True, type=pathlib.Path, help="folder of a run of a super-resolution model"
    )
    parser.add_argument("--images", type=int, default=4, help="number of images of the test set (default: 4)")
    parser.add_argument("--lr", help="a low-resolution image, instead of the test set; needs --ref")
    parser.add_argument("--ref", help="the reference of --lr")
    parser.add_argument("--out", type=pathlib.Path, help="folder (default: WORKDIR/figures)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="changes of the config"
    )
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax logs a lot
    out = options.out or options.workdir / "figures"
    with lock.only_writer(out / lock.NAME, f"--out={out}"):
        draw_figures(options.workdir, out, options)


def draw_figures(workdir: pathlib.Path, out: pathlib.Path, options: argparse.Namespace) -> None:
    """Draws the figures that the options ask for.

    Args:
      workdir: folder of a run of a super-resolution model.
      out: folder for the figures.
      options: `images`, `lr`, `ref` and `set`, as on the command line.

    Raises:
      InputError: a run without a checkpoint, or of a model without alignments; images that cannot be read; figures that cannot
        be written.
    """
    description(workdir)  # raises InputError here; within a config file it gives a traceback
    saved = f"{saved_config.__file__}:{workdir}"
    config_files.check_overrides(options.set, {saved: config_files.fields(config_files.load(saved))})
    config = config_files.load(saved, options.set)
    config_checks.check(config)
    if config.model.name not in models.MODELS:
        raise InputError(
            f"--workdir={workdir}: a run of a super-resolution model expected, got one of {config.model.name}"
        )
    checkpoints = Checkpoints(workdir)
    log(f"restoring checkpoint {checkpoints.latest()}")
    params = eval_params(checkpoints.read_state())
    checkpoints.close()
    observe = jax.jit(functools.partial(_observe, models.build(config.model)))
    names, routing = [], {}
    for name, lr, ref in _inputs(options, config):
        log(f"drawing {name}")
        sr, aligned, routed = observe(
            {"params": params}, *(image[None].astype(np.float32) / 255 for image in (lr, ref))
        )
        if not aligned:
            raise InputError(
                f"--workdir={workdir}: {config.model.name} has no alignments to draw; a run of rrsr or c2_matching expected"
            )
        if not np.isfinite(sr).all():
            raise InputError(f"--workdir={workdir}: the result for {name} is not finite; choose another run")
        names.append(name)
        for block, weights in routed.items():
            routing.setdefault(block, []).append(np.asarray(weights)[0])
        images = {"bicubic": upscale(lr), "reference": ref, "result": to_uint8(sr[0])}
        sheet = alignment_sheet(images, jax.tree.map(lambda a: np.asarray(a)[0], aligned))
        _save(sheet, inside(out, "alignments", f"{name}.png"))
    if routing:
        routing = {block: np.stack(weights) for block, weights in routing.items()}
        _save(routing_sheet(names, routing), inside(out, "routing.png"))
        results.write_file(inside(out, "routing.csv"), _routing_csv(names, routing))
    log(f"figures of {len(names)} image(s) in {out}")


def _inputs(options: argparse.Namespace, config) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, low-resolution image and reference, uint8."""
    if bool(options.lr) != bool(options.ref):
        raise InputError("--lr and --ref expected together, got one of them")
    if options.lr:
        (lr, _), (ref, _) = read_rgb8(options.lr, SMALLEST_LR), read_rgb8(options.ref, SMALLEST_LR * SCALE_FACTOR)
        yield pathlib.Path(options.lr).stem, lr, ref
        return
    if options.images < 1:
        raise InputError(f"--images: at least 1 expected, got {options.images}")
    test_sets = protocols.test_sets(config.eval)
    if not test_sets:
        raise InputError("config.eval.sets is empty: --set eval.sets=NAME, or --lr and --ref, expected")
    reference = next((reference for reference in test_sets[0].references if reference != "bicubic"), None)
    if reference is None:
        raise InputError("config.eval.references: a reference other than bicubic expected, got bicubic alone")
    for index in range(min(options.images, len(test_sets[0]))):
        example = test_sets[0][index]
        lr = downscale(protocols.crop_to_multiple(example["hr"]))
        yield example["name"], lr, test_sets[0].reference_image(reference, index, example)


def _observe(
    model: nn.Module, variables: Mapping, lr: jax.Array, ref: jax.Array
) -> tuple[jax.Array, dict[str, dict[int, jax.Array]], dict[str, jax.Array]]:
    """Applies a model, and returns what it does inside.

    Returns:
      sr; the aligned features' mean over channels, (N, H, W), by scale and number; the routing weights, (N, K), by FAS block.
    """
    sr, variables = model.apply(variables, lr, ref, mutable=["intermediates"])
    found: Any = variables.get("intermediates", {})
    blocks = {block: kept for block, kept in found.items() if block.startswith("fas_")}
    aligned, routing = {}, {}
    for block in sorted(blocks):
        _, scale, number = block.split("_")  # fas_2x_1
        aligned.setdefault(scale, {})[int(number)] = blocks[block]["aligned"][0].mean(-1)
        if "select" in blocks[block]:
            routing[f"{scale} {int(number) + 1}"] = blocks[block]["select"]["routing"][0]
    return sr, aligned, routing


def alignment_sheet(images: Mapping[str, np.ndarray], aligned: Mapping[str, Mapping[int, np.ndarray]]) -> Image.Image:
    """Images in the first row; below, one row per scale, the features after each alignment.

    Args:
      images: (., ., 3) uint8 by title.
      aligned: features (H, W) by scale and number. All of a scale share one range of colours, so that they can be compared.
    """
    rows = [[Tile(title, drawing.fit(image)) for title, image in images.items()]]
    for scale, maps in aligned.items():
        low, high = np.percentile(np.stack(list(maps.values())), (1, 99))
        shades = {number: drawing.colours((a - low) / max(high - low, 1e-12)) for number, a in maps.items()}
        rows.append([Tile(f"{scale}, alignment {n + 1}", drawing.fit(shades[n])) for n in sorted(shades)])
    return drawing.sheet(rows)


def routing_sheet(names: Sequence[str], routing: Mapping[str, np.ndarray]) -> Image.Image:
    """One matrix per FAS block: a row per image, a column per expert, each cell a weight.

    Args:
      names: of the images.
      routing: weights in [0, 1] by block, (images, K).
    """
    return drawing.sheet(
        [
            [Tile(f"{block}: alpha 1 to {weights.shape[1]}", drawing.matrix(names, weights))]
            for block, weights in routing.items()
        ]
    )


def _routing_csv(names: Sequence[str], routing: Mapping[str, np.ndarray]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    experts = max(weights.shape[1] for weights in routing.values())
    writer.writerow(["image", "block", *(f"alpha_{k + 1}" for k in range(experts))])
    for block, weights in routing.items():
        writer.writerows([name, block, *map(float, values)] for name, values in zip(names, weights, strict=True))
    return text.getvalue()


def _save(image: Image.Image, path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_file(path, records.png(np.asarray(image)).getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    main()
