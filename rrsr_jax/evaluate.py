"""Evaluation: one code path, for the end of training and for `--mode=eval`."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from rrsr_jax.data import datasets
from rrsr_jax.data.images import downscale, random_view, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.metrics import quality, to_uint8

COLUMNS = ("bicubic", "right_reference", "unrelated_reference")
EVAL_SEED = 20220  # the same crops for every run, whatever its own seed

Upscaler = Callable[[Mapping, np.ndarray, np.ndarray], np.ndarray]  # parameters, lr, ref to sr; images (., ., 3) uint8
SSIM_WINDOW = 11


class Sample(NamedTuple):
    """One test image with its reference and one that has nothing to do with it, all uint8."""

    name: str
    hr: np.ndarray
    ref: np.ndarray
    unrelated: np.ndarray


def samples(config: ConfigDict) -> list[Sample]:
    """The test set that the `eval` part of a config names; empty if it names none."""
    if not config.name:
        return []
    if config.name != "embedded":
        raise InputError(f"config.eval.name: embedded, or empty for no evaluation, expected, got {config.name!r}")
    if config.patch % 4 or config.patch - 2 * config.border < SSIM_WINDOW:
        raise InputError(
            f"config.eval.patch: a multiple of 4, at least {SSIM_WINDOW} larger than two borders of {config.border}, "
            f"expected, got {config.patch}"
        )
    names = datasets.EMBEDDED_TEST
    photographs = datasets.embedded_photographs(names, config.patch)
    rng = np.random.default_rng(EVAL_SEED)
    out = []
    for i in range(config.crops):
        which = i % len(names)
        hr, ref = random_view(photographs[which], config.patch, rng)
        unrelated, _ = random_view(photographs[(which + 1) % len(names)], config.patch, rng)
        out.append(Sample(f"{names[which]}_{i // len(names)}", hr, ref, unrelated))
    return out


def make_upscaler(model: nn.Module) -> Upscaler:
    """The model as a function of parameters and 8-bit images; compiled once per pair of sizes."""
    apply = jax.jit(lambda params, lr, ref: model.apply({"params": params}, lr, ref))

    def run(params, lr, ref):
        return to_uint8(apply(params, *(image[None].astype(np.float32) / 255 for image in (lr, ref)))[0])

    return run


def evaluate(
    upscaler: Callable[[np.ndarray, np.ndarray], np.ndarray],
    test_set: Sequence[Sample],
    border: int,
    sheets: int = 0,
    out: pathlib.Path | None = None,
) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM on Y over all samples: {column: {"psnr_y": .., "ssim_y": ..}} for `COLUMNS`.

    `upscaler` makes `sr` of `lr` and `ref`, all (., ., 3) uint8.
    The first `sheets` samples are also drawn, as PNG files in the folder `out`.
    """
    scores = {column: [] for column in COLUMNS}
    for i, sample in enumerate(test_set):
        lr = downscale(sample.hr)
        results = {
            "bicubic": upscale(lr),
            "right_reference": upscaler(lr, sample.ref),
            "unrelated_reference": upscaler(lr, sample.unrelated),
        }
        for column, image in results.items():
            scores[column].append(quality(image, sample.hr, border))
        if i < sheets:
            write_sheet(out / f"{sample.name}.png", sample, results["bicubic"], results["right_reference"], border)
    assert all(len(rows) == len(test_set) for rows in scores.values())
    return {
        column: {metric: float(np.mean([score[metric] for score in rows])) for metric in ("psnr_y", "ssim_y")}
        for column, rows in scores.items()
    }


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as text."""
    base = results["bicubic"]["psnr_y"]
    lines = [f"{'':22}{'PSNR-Y':>10}{'SSIM-Y':>10}{'gain':>10}"]
    for column, row in results.items():
        gain = f"{row['psnr_y'] - base:+.2f} dB"
        lines.append(f"{column.replace('_', ' '):22}{row['psnr_y']:7.2f} dB{row['ssim_y']:10.4f}{gain:>10}")
    return "\n".join(lines)


def write_sheet(path: pathlib.Path, sample: Sample, bicubic: np.ndarray, sr: np.ndarray, border: int) -> None:
    """One picture: bicubic, reference, result, ground truth; below each the detail that gains most."""
    tile, gap, text = 320, 8, 22
    box = _detail_box(bicubic, sr, sample.hr, side=max(16, min(sample.hr.shape[:2]) // 4))
    columns = {
        f"bicubic  {quality(bicubic, sample.hr, border)['psnr_y']:.2f} dB": bicubic,
        "reference": sample.ref,
        f"result  {quality(sr, sample.hr, border)['psnr_y']:.2f} dB": sr,
        "ground truth": sample.hr,
    }
    sheet = Image.new("RGB", (len(columns) * (tile + gap) + gap, 2 * tile + 3 * gap + text), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(columns.items()):
        x = gap + i * (tile + gap)
        picture = Image.fromarray(image)
        draw.text((x, gap // 2), label, fill="black", font_size=16)
        sheet.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS), (x, gap + text))
        sheet.paste(picture.resize((tile, tile), Image.Resampling.NEAREST, box=box), (x, 2 * gap + text + tile))
        corners = [coordinate * tile / image.shape[0] for coordinate in box]
        offset = (x, gap + text, x, gap + text)
        draw.rectangle([c + o for c, o in zip(corners, offset, strict=True)], outline="red", width=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _detail_box(bicubic, sr, hr, side):
    """(left, top, right, bottom) of the square window in which the squared error falls most."""
    gain = ((bicubic.astype(float) - hr) ** 2 - (sr.astype(float) - hr) ** 2).sum(-1)
    total = np.pad(gain.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return (int(left), int(top), int(left) + side, int(top) + side)
