"""Shows the results of super-resolution: as text beside published figures, and as sheets, one picture per image."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from rrsr_jax.data import datasets, records
from rrsr_jax.evaluation import drawing, published
from rrsr_jax.evaluation.drawing import Tile
from rrsr_jax.evaluation.evaluate import Evaluation
from rrsr_jax.evaluation.metrics import ALWAYS, COLUMNS, LOWER_IS_BETTER, NIQE_NOTICE
from rrsr_jax.evaluation.protocols import TestSet, crop_to_multiple
from rrsr_jax.evaluation.results import Results, SetResult
from rrsr_jax.workdir.files import inside, write_atomically


def as_text(results: Results) -> str:
    """A table per test set, a row per reference; below it published figures, if the evaluation is comparable with them."""
    return "\n\n".join("\n".join(_set_lines(name, result)) for name, result in results.items())


def _set_lines(name: str, result: SetResult) -> list[str]:
    images, base = result["images"], result["references"].get("bicubic", {}).get("psnr_y")
    measured = [metric for metric in COLUMNS if any(metric in row for row in result["references"].values())] or ALWAYS
    lower = " and ".join(COLUMNS[metric][0] for metric in measured if metric in LOWER_IS_BETTER)
    border = f"{result.get('border', 0)} pixels of border left out"
    titles = "".join(f"{COLUMNS[metric][0]:>{10 if metric == 'psnr_y' else 9}}" for metric in measured)
    lines = [
        f"{name}: {images} images, on Y, {border}; lower {lower} {'is' if lower == 'GMSD' else 'are'} better",
        f"{'':24}{titles}{'gain':>10}{'worse than LR itself':>23}",
    ]
    for reference, row in result["references"].items():
        gain = f"{row['psnr_y'] - base:+.2f} dB" if base is not None and reference != "bicubic" else ""
        worse = f"{row['worse_than_lr_itself']} of {images}" if "worse_than_lr_itself" in row else ""
        scores = "".join(_score(row, metric) for metric in measured)
        lines.append(f"{reference.replace('_', ' '):24}{scores}{gain:>10}{worse:>23}".rstrip())
    if _is_comparable(name, result):
        for method, (psnr, ssim) in published.TEST_SETS.get(name, {}).items():
            lines.append(f"{'published: ' + method:30}{psnr:>7.2f}{ssim:9.3f}")
    if result["failed"]:
        lines.append(f"FAILED, and in no mean: {len(result['failed'])}")
        lines += [f"  {image}: {reason}" for image, reason in result["failed"].items()]
    if "niqe" in measured:
        lines.append(NIQE_NOTICE)
    return lines


def _score(row: Mapping[str, float], metric: str) -> str:
    """A cell of the table, 9 characters wide, PSNR 10; empty where no image has the metric."""
    if metric not in row:
        return " " * 9
    return f"{row[metric]:7.2f} dB" if metric == "psnr_y" else f"{row[metric]:9.{COLUMNS[metric][1]}f}"


def _is_comparable(name: str, result: SetResult) -> bool:
    """Whether these are all images of a benchmark, padded as published."""
    complete = name in datasets.BUILDERS and result["images"] == datasets.BUILDERS[name].COUNT and not result["failed"]
    return complete and result.get("published_padding", False)


def write_sheets(folder: pathlib.Path, test_set: TestSet, evaluation: Evaluation, number: int) -> None:
    """Draws `number` images, evenly spaced in the set, with the first reference after bicubic, as `FOLDER/sheets/NAME.png`.

    Args:
      folder: the one that `evaluate_set` has written.
      test_set, evaluation: what was evaluated, and the outcome.
      number: at most this many; images that failed are left out.
    """
    reference = next((reference for reference in evaluation.scores if reference != "bicubic"), None)
    if reference is None:
        return
    names = evaluation.names
    for index in np.linspace(0, len(names) - 1, min(number, len(names))).round().astype(int).tolist():
        name = names[index]
        scores = [evaluation.scores[r][name] for r in ("bicubic", reference) if name in evaluation.scores[r]]
        if len(scores) == 2:
            example = test_set[index]
            bicubic, sr = (_read(inside(folder, r, f"{name}.png")) for r in ("bicubic", reference))
            ref = test_set.reference_image(reference, index, example)
            psnr = [score["psnr_y"] for score in scores]
            path = inside(folder, "sheets", f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = _sheet(crop_to_multiple(example["hr"]), ref, bicubic, sr, psnr)
            write_atomically(path, records.png(np.asarray(sheet)).getvalue())


def _read(path: pathlib.Path) -> np.ndarray:
    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture)


def _sheet(hr: np.ndarray, ref: np.ndarray, bicubic: np.ndarray, sr: np.ndarray, psnr: Sequence[float]) -> Image.Image:
    """Bicubic, reference, result and ground truth; below all but the reference the detail that gains most."""
    box = _detail_box(bicubic, sr, hr, side=max(16, min(hr.shape[:2]) // 4))
    images = {f"bicubic  {psnr[0]:.2f} dB": bicubic, f"result  {psnr[1]:.2f} dB": sr, "ground truth": hr}
    tiles = [Tile(title, _outlined(image, box)) for title, image in images.items()]
    details = [Tile(image=_detail(image, box)) for image in images.values()]
    # The reference shows the detail elsewhere, or not at all.
    tiles.insert(1, Tile("reference", drawing.fit(ref)))
    details.insert(1, Tile())
    return drawing.sheet([tiles, details])


def _outlined(image: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    tile = drawing.fit(image)
    scale = tile.width / image.shape[1]
    ImageDraw.Draw(tile).rectangle([scale * corner for corner in box], outline="red", width=2)
    return tile


def _detail(image: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(image).resize((drawing.TILE, drawing.TILE), Image.Resampling.NEAREST, box=box)


def _detail_box(bicubic: np.ndarray, sr: np.ndarray, hr: np.ndarray, side: int) -> tuple[int, int, int, int]:
    """The square window of `side` pixels in which the squared error falls most from `bicubic` to `sr`.

    Returns:
      left, top, right, bottom in pixels.
    """
    gain = ((bicubic.astype(float) - hr) ** 2 - (sr.astype(float) - hr) ** 2).sum(-1)
    total = np.pad(gain.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return int(left), int(top), int(left) + side, int(top) + side
