"""What an evaluation shows: a table beside the published figures, a page to compare images on, pictures for a paper."""

import base64
import html
import io
import json
import math
import pathlib
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rrsr_jax.data import datasets
from rrsr_jax.evaluation.evaluate import Evaluation
from rrsr_jax.evaluation.protocols import TestSet, crop_to_multiple
from rrsr_jax.workdir.files import write_atomically

LARGEST_SHOWN = 1_000  # pixels a side, on the page

# PSNR and SSIM on Y as published (RRSR's Table 1 and its supplement; the best known in 2026).
PUBLISHED = {
    "cufed5": {
        "bicubic (border 0)": (24.22, 0.6843),
        "TTSR-rec": (27.09, 0.804),
        "MASA-rec": (27.54, 0.814),
        "C2-Matching-rec": (28.24, 0.841),
        "DATSR-rec": (28.72, 0.856),
        "RRSR-rec": (28.83, 0.856),
        "RRSR (GAN)": (28.09, 0.835),
        "best known": (29.40, 0.869),
    },
    "sun80": {
        "bicubic (border 0)": (28.65, 0.7666),
        "TTSR-rec": (30.02, 0.814),
        "MASA-rec": (30.15, 0.815),
        "C2-Matching-rec": (30.18, 0.817),
        "DATSR-rec": (30.20, 0.818),
        "RRSR-rec": (30.13, 0.816),
        "RRSR (GAN)": (29.57, 0.793),
        "best known": (30.40, 0.821),
    },
    "urban100": {
        "bicubic (border 0)": (23.13, 0.6592),
        "TTSR-rec": (25.87, 0.784),
        "MASA-rec": (26.09, 0.786),
        "C2-Matching-rec": (26.03, 0.785),
        "DATSR-rec": (26.52, 0.798),
        "RRSR-rec": (26.21, 0.790),
        "RRSR (GAN)": (25.68, 0.767),
        "best known": (27.01, 0.813),
    },
    "manga109": {
        "bicubic (border 0)": (24.95, 0.7892),
        "TTSR-rec": (30.09, 0.907),
        "MASA-rec": (30.28, 0.909),
        "C2-Matching-rec": (30.47, 0.911),
        "DATSR-rec": (30.49, 0.912),
        "RRSR-rec": (30.91, 0.913),
        "RRSR (GAN)": (29.82, 0.893),
        "best known": (31.55, 0.918),
    },
    "wr_sr": {
        "TTSR-rec": (27.97, 0.792),
        "MASA-rec": (28.19, 0.796),
        "C2-Matching-rec": (28.32, 0.801),
        "DATSR-rec": (28.34, 0.805),
        "RRSR-rec": (28.41, 0.804),
        "RRSR (GAN)": (27.89, 0.784),
        "best known": (28.67, 0.810),
    },
}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results of all sets as text; published figures stand beside a complete published set.

    What was written before there was GMSD has `nan` in its place.
    """
    lines = []
    for name, result in results.items():
        base = result["columns"].get("bicubic", {}).get("psnr_y")
        border = f"{result['border']} pixels of border left out"
        lines.append(f"{name}: {result['images']} images, on Y, {border}; GMSD: the lower the better")
        lines.append(f"{'':24}{'PSNR':>10}{'SSIM':>9}{'GMSD':>9}{'gain':>10}{'worse than LR itself':>23}")
        for column, row in result["columns"].items():
            gain = f"{row['psnr_y'] - base:+.2f} dB" if base is not None and column != "bicubic" else ""
            worse = row.get("worse_than_lr_itself")
            worse = "" if worse is None else f"{worse} of {result['images']}"
            label = column.replace("_", " ")
            scores = f"{row['psnr_y']:7.2f} dB{row['ssim_y']:9.4f}{row.get('gmsd_y', math.nan):9.4f}"
            lines.append(f"{label:24}{scores}{gain:>10}{worse:>23}".rstrip())
        whole = name in datasets.BUILDERS and result["images"] == datasets.BUILDERS[name].COUNT
        whole = whole and result["exact"] and not result["failed"]
        for method, (psnr, ssim) in PUBLISHED.get(name, {}).items() if whole else ():
            lines.append(f"{'published: ' + method:30}{psnr:>7.2f}{ssim:9.3f}")
        if result["failed"]:
            lines.append(f"FAILED, and in no mean: {len(result['failed'])}")
            lines += [f"  {what}: {reason}" for what, reason in result["failed"].items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def write_page(path: pathlib.Path, test_set: TestSet, evaluation: Evaluation, shown: int) -> None:
    """One HTML file that needs no other: the table, and the images that gain least and most, to compare by dragging a handle.

    Args:
      path: in the folder that `evaluate` has written.
      test_set, evaluation: what was evaluated, and the outcome.
      shown: number of images, half of them the worst.
    """
    figures = []
    for index, gain in _worst_and_best(evaluation, shown):
        example = test_set[index]
        name = example["name"]
        pictures = {"ground truth": crop_to_multiple(example["hr"])}
        for column, rows in evaluation.scores.items():
            if name in rows:
                label = f"{column.replace('_', ' ')}, {rows[name]['psnr_y']:.2f} dB, GMSD {rows[name]['gmsd_y']:.4f}"
                pictures[label] = np.asarray(Image.open(path.parent / column / f"{name}.png"))
        caption = f"{name}: {gain:+.2f} dB over bicubic"
        if max(pictures["ground truth"].shape) > LARGEST_SHOWN:
            pictures = {label: picture[:LARGEST_SHOWN, :LARGEST_SHOWN] for label, picture in pictures.items()}
            caption += f" (the top left {LARGEST_SHOWN} pixels)"
        figures.append(_figure(caption, pictures, [_thumbnail(ref) for ref in example["refs"][:5]]))
    page = string.Template(resources.files("rrsr_jax.evaluation").joinpath("page.html").read_text())
    text = page.substitute(
        title=html.escape(test_set.name),
        table=html.escape(table({test_set.name: evaluation.summary})),
        figures="\n".join(figures),
    )
    write_atomically(path, text)


def _worst_and_best(evaluation: Evaluation, shown: int) -> list[tuple[int, float]]:
    """Index and gain over bicubic of the images that gain least and most in the first column with a model."""
    column = next((column for column in evaluation.scores if column != "bicubic"), None)
    base, rows = evaluation.scores.get("bicubic", {}), evaluation.scores.get(column, {})
    gains = {n: rows[n]["psnr_y"] - base[n]["psnr_y"] for n in rows if n in base}
    order = sorted(gains, key=gains.get)
    worst = order[: min(shown // 2, len(order) // 2)]
    best = order[len(worst) :][::-1][: shown - len(worst)]
    return [(evaluation.names.index(name), gains[name]) for name in worst + best]


def _figure(caption: str, pictures: Mapping[str, np.ndarray], references: Sequence[np.ndarray]) -> str:
    """One comparison as HTML; images are part of it."""
    data = json.dumps({label: _data_url(picture) for label, picture in pictures.items()}).replace("<", "\\u003c")
    shown = "".join(
        f'<div><img src="{_data_url(ref)}" alt=""><br>reference {i + 1}</div>' for i, ref in enumerate(references)
    )
    return f"""<figure>
<figcaption>{html.escape(caption)}</figcaption>
<script type="application/json">{data}</script>
<div class="stage"><img alt="right"><img class="over" alt="left">
<div class="handle" role="slider" tabindex="0" aria-label="divide" aria-valuemin="0" aria-valuemax="100"></div></div>
<div class="sides"><label>left <select></select></label><label>right <select></select></label></div>
<div class="references">{shown}</div>
</figure>"""


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    small.thumbnail((300, 300))
    return np.asarray(small)


def _data_url(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def write_sheets(folder: pathlib.Path, test_set: TestSet, evaluation: Evaluation, number: int) -> None:
    """Some images, evenly chosen, as one picture each: `sheets/NAME.png` in the folder that `evaluate` has written."""
    column = next((column for column in evaluation.scores if column != "bicubic"), None)
    chosen = np.linspace(0, len(evaluation.names) - 1, min(number, len(evaluation.names))).round().astype(int)
    for index in chosen.tolist():
        name = evaluation.names[index]
        scores = [evaluation.scores.get(c, {}).get(name) for c in ("bicubic", column)]
        if all(scores):
            example = test_set[index]
            bicubic, sr = (np.asarray(Image.open(folder / c / f"{name}.png")) for c in ("bicubic", column))
            ref = test_set.reference(column, index, example)
            psnr = [score["psnr_y"] for score in scores]
            (folder / "sheets").mkdir(exist_ok=True)
            _sheet(crop_to_multiple(example["hr"]), ref, bicubic, sr, psnr).save(folder / "sheets" / f"{name}.png")


def _sheet(hr: np.ndarray, ref: np.ndarray, bicubic: np.ndarray, sr: np.ndarray, psnr: Sequence[float]) -> Image.Image:
    """Bicubic, reference, result, ground truth; below each the detail that gains most."""
    tile, gap, text = 320, 8, 22
    box = _detail_box(bicubic, sr, hr, side=max(16, min(hr.shape[:2]) // 4))
    columns = {
        f"bicubic  {psnr[0]:.2f} dB": bicubic,
        "reference": ref,
        f"result  {psnr[1]:.2f} dB": sr,
        "ground truth": hr,
    }
    scaled = [Image.fromarray(image) for image in columns.values()]
    scaled = [p.resize([round(n * tile / max(p.size)) for n in p.size], Image.Resampling.LANCZOS) for p in scaled]
    below = gap + text + max(picture.height for picture in scaled) + gap
    sheet = Image.new("RGB", (len(columns) * (tile + gap) + gap, below + tile + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(columns.items()):
        x, y = gap + i * (tile + gap), gap + text
        draw.text((x, gap // 2), label, fill="black", font_size=16)
        sheet.paste(scaled[i], (x, y))
        if label != "reference":  # it shows the detail elsewhere, or not at all
            detail = Image.fromarray(image).resize((tile, tile), Image.Resampling.NEAREST, box=box)
            sheet.paste(detail, (x, below))
            corners = [c * scaled[i].width / image.shape[1] + o for c, o in zip(box, (x, y, x, y), strict=True)]
            draw.rectangle(corners, outline="red", width=2)
    return sheet


def _detail_box(bicubic, sr, hr, side):
    """(left, top, right, bottom) of the square window in which the squared error falls most."""
    gain = ((bicubic.astype(float) - hr) ** 2 - (sr.astype(float) - hr) ** 2).sum(-1)
    total = np.pad(gain.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return (int(left), int(top), int(left) + side, int(top) + side)
