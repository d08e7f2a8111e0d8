"""Pictures of what a trained model does inside: its features after each alignment (the paper's Fig. 7), and how it weights the
experts of the reference-aware selection (eq. 4).

python -m rrsr_jax.experiments.figures --workdir=runs/demo [--images=4] [--set FIELD=VALUE ...] [--out=DIR]
python -m rrsr_jax.experiments.figures --workdir=runs/demo --lr=SMALL.png --ref=SHARP.png

Takes the newest checkpoint and its config. Its inputs are the first images of the first test set, with the first way to choose a
reference (`--set eval.sets=cufed5 eval.references=stack` chooses others), or a low-resolution image and a reference of your own.
Writes `alignments/NAME.png`, `routing.png` and `routing.csv` to `WORKDIR/figures`.
"""

import argparse
import csv
import functools
import io
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import flax.linen as nn
import jax
import numpy as np
from absl import logging
from PIL import Image, ImageDraw

from rrsr_jax import SCALE_FACTOR, models
from rrsr_jax.console import log
from rrsr_jax.data.images import downscale, read_image, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import protocols
from rrsr_jax.evaluation.metrics import to_uint8
from rrsr_jax.experiments import config_files
from rrsr_jax.training.initial import GAN_PARTS
from rrsr_jax.workdir import saved_config
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.files import write_atomically
from rrsr_jax.workdir.integrity import description

TILE, GAP, TEXT = 320, 8, 22  # pixels
SMALLEST_LR = 3  # cells of a patch


def main(argv: Sequence[str] | None = None) -> None:
    """Bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.experiments.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="folder of a run of stage rec or gan")
    parser.add_argument("--images", type=int, default=4, help="number of images of the test set (default: 4)")
    parser.add_argument("--lr", help="a low-resolution image, instead of the test set; needs --ref")
    parser.add_argument("--ref", help="the reference of --lr")
    parser.add_argument("--out", type=pathlib.Path, help="folder (default: WORKDIR/figures)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="changes of the config"
    )
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax logs a lot
    try:
        draw(options.workdir, options.out or options.workdir / "figures", options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def draw(workdir: pathlib.Path, out: pathlib.Path, options: argparse.Namespace) -> None:
    """Draws the figures of `main`'s options.

    Raises:
      InputError: a run without checkpoint, or of a model without alignments; images that cannot be read; no room to write.
    """
    stage = description(workdir)["stage"]
    if stage not in ("rec", "gan"):
        raise InputError(f"--workdir={workdir}: a run of stage rec or gan expected, got one of stage {stage}")
    saved = f"{saved_config.__file__}:{workdir}"
    config_files.check_overrides(options.set, {saved: config_files.fields(config_files.load(saved))})
    config = config_files.load(saved, options.set)
    checkpoints = Checkpoints(workdir)
    log(f"restoring checkpoint {checkpoints.latest()}")
    params = {k: v for k, v in checkpoints.params(averaged=True).items() if k not in GAN_PARTS}
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
        names.append(name)
        for block, weights in routed.items():
            routing.setdefault(block, []).append(np.asarray(weights)[0])
        pictures = {"bicubic": upscale(lr), "reference": ref, "result": to_uint8(sr[0])}
        _save(
            alignment_sheet(pictures, jax.tree.map(lambda a: np.asarray(a)[0], aligned)),
            out / "alignments" / f"{name}.png",
        )
    if routing:
        routing = {block: np.stack(weights) for block, weights in routing.items()}
        _save(routing_sheet(names, routing), out / "routing.png")
        write_atomically(out / "routing.csv", _routing_csv(names, routing))
    log(f"figures of {len(names)} image(s) in {out}")


def _inputs(options: argparse.Namespace, config) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, low-resolution image and reference, uint8."""
    if bool(options.lr) != bool(options.ref):
        raise InputError("--lr and --ref expected together, got one of them")
    if options.lr:
        (lr, _), (ref, _) = read_image(options.lr, SMALLEST_LR), read_image(options.ref, SMALLEST_LR * SCALE_FACTOR)
        yield pathlib.Path(options.lr).stem, lr, ref
        return
    if options.images < 1:
        raise InputError(f"--images: at least 1 expected, got {options.images}")
    test_sets = protocols.test_sets(config.eval)
    if not test_sets:
        raise InputError("config.eval.sets is empty: --set eval.sets=NAME, or --lr and --ref, expected")
    how = next((how for how in test_sets[0].columns if how != "bicubic"), None)
    if how is None:
        raise InputError("config.eval.references: a way to choose a reference expected, got bicubic alone")
    for index in range(min(options.images, len(test_sets[0]))):
        example = test_sets[0][index]
        lr = downscale(protocols.crop_to_multiple(example["hr"]))
        yield example["name"], lr, test_sets[0].reference(how, index, example)


def _observe(
    model: nn.Module, variables: Mapping, lr: jax.Array, ref: jax.Array
) -> tuple[jax.Array, dict[str, dict[int, jax.Array]], dict[str, jax.Array]]:
    """`sr`; the mean over channels of the aligned features, (N, H, W), by scale and number; routing, (N, K), by FAS block."""
    applied: Any = model.apply(variables, lr, ref, mutable=["intermediates"])
    sr, intermediates = applied[0], applied[1].get("intermediates", {})
    aligned, routing = {}, {}
    for block in sorted(block for block in intermediates if block.startswith("fas_")):
        _, scale, number = block.split("_")  # fas_2x_0
        aligned.setdefault(scale, {})[int(number)] = intermediates[block]["aligned"][0].mean(-1)
        if "select" in intermediates[block]:
            routing[f"{scale} {int(number) + 1}"] = intermediates[block]["select"]["routing"][0]
    return sr, aligned, routing


def alignment_sheet(pictures: Mapping[str, np.ndarray], aligned: Mapping[str, Mapping[int, np.ndarray]]) -> Image.Image:
    """Images in the first row; below, a row per scale, the features after each alignment.

    Args:
      pictures: (., ., 3) uint8 by title.
      aligned: by scale and number, (H, W). One range of colours for all of a scale, so that they can be compared.
    """
    rows = [[(title, picture) for title, picture in pictures.items()]]
    for scale, maps in aligned.items():
        low, high = np.percentile(np.stack(list(maps.values())), (1, 99))
        colours = {number: _colour((a - low) / max(high - low, 1e-12)) for number, a in maps.items()}
        rows.append([(f"{scale}, alignment {number + 1}", colours[number]) for number in sorted(colours)])
    tiles = [[(title, _fit(picture)) for title, picture in row] for row in rows]
    heights = [max(tile.height for _, tile in row) + TEXT + GAP for row in tiles]
    sheet = Image.new("RGB", (max(map(len, tiles)) * (TILE + GAP) + GAP, sum(heights) + GAP), "white")
    pen, top = ImageDraw.Draw(sheet), GAP // 2
    for row, height in zip(tiles, heights, strict=True):
        for i, (title, tile) in enumerate(row):
            left = GAP + i * (TILE + GAP)
            pen.text((left, top), title, fill="black", font_size=16)
            sheet.paste(tile, (left, top + TEXT))
        top += height
    return sheet


def routing_sheet(names: Sequence[str], routing: Mapping[str, np.ndarray]) -> Image.Image:
    """A matrix per FAS block: a row per image, a column per expert, each cell a weight from 0 to 1.

    Args:
      names: of the images.
      routing: by block, (images, K).
    """
    cell, label, experts = 40, 160, max(weights.shape[1] for weights in routing.values())
    height = TEXT + len(names) * cell // 2 + GAP
    sheet = Image.new("RGB", (label + experts * cell + GAP, len(routing) * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (block, weights) in enumerate(routing.items()):
        top = GAP + i * height
        pen.text((GAP, top), f"{block}: alpha 1 to {weights.shape[1]}", fill="black", font_size=15)
        for row, (name, values) in enumerate(zip(names, weights, strict=True)):
            y = top + TEXT + row * cell // 2
            pen.text((GAP, y), name[:20], fill="black", font_size=13)
            for k, (value, colour) in enumerate(zip(values, _colour(values[None])[0], strict=True)):
                x = label + k * cell
                pen.rectangle((x, y, x + cell - 2, y + cell // 2 - 2), fill=tuple(colour.tolist()))
                pen.text((x + 4, y + 2), f"{value:.2f}", fill="black" if value > 0.6 else "white", font_size=12)
    return sheet


def _routing_csv(names: Sequence[str], routing: Mapping[str, np.ndarray]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    experts = max(weights.shape[1] for weights in routing.values())
    writer.writerow(["image", "block", *(f"alpha_{k + 1}" for k in range(experts))])
    for block, weights in routing.items():
        writer.writerows([name, block, *map(float, values)] for name, values in zip(names, weights, strict=True))
    return text.getvalue()


def _colour(values: np.ndarray) -> np.ndarray:
    """(H, W) from 0 to 1, clipped, to (H, W, 3) uint8."""
    grey = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _fit(picture: np.ndarray) -> Image.Image:
    """Scaled to `TILE` pixels, the longer side."""
    image = Image.fromarray(picture)
    return image.resize([max(1, round(n * TILE / max(image.size))) for n in image.size], Image.Resampling.BICUBIC)


def _save(image: Image.Image, path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    main()
