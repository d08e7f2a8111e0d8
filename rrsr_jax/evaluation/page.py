"""The page of a test set: one HTML file with the results as text, and images to compare by dragging a handle."""

import math
import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from rrsr_jax.evaluation import comparison_page, report
from rrsr_jax.evaluation.evaluate import Evaluation
from rrsr_jax.evaluation.metrics import COLUMNS, LOWER_IS_BETTER
from rrsr_jax.evaluation.protocols import TestSet, crop_to_multiple
from rrsr_jax.workdir.files import inside

LARGEST_SHOWN = 1_000  # pixels a side
REFERENCES_SHOWN = 5
_HINT = (
    "Images with the smallest gain come first, then those with the largest. Drag the handle, or use the arrow keys. The lists "
    "choose what is left and right of it. The page shows JPEG of quality 95; the results are beside it as PNG."
)


def write_page(path: pathlib.Path, test_set: TestSet, evaluation: Evaluation, shown: int) -> None:
    """Writes the page. It needs no other file.

    Args:
      path: of the page, in the folder that `evaluate_set` has written.
      test_set, evaluation: what was evaluated, and the outcome.
      shown: number of images on the page: half of them gain least over bicubic, the others most.
    """
    figures = []
    for index, gain in _smallest_and_largest_gains(evaluation, shown):
        example = test_set[index]
        name = example["name"]
        pictures = {"ground truth": crop_to_multiple(example["hr"])}
        for reference, rows in evaluation.scores.items():
            if name in rows:
                label = f"{reference.replace('_', ' ')}, {_scores(rows[name])}"
                with Image.open(inside(path.parent, reference, f"{name}.png"), formats=["PNG"]) as picture:
                    pictures[label] = np.asarray(picture)
        caption = f"{name}: {gain:+.2f} dB over bicubic"
        if max(pictures["ground truth"].shape) > LARGEST_SHOWN:
            pictures = {label: picture[:LARGEST_SHOWN, :LARGEST_SHOWN] for label, picture in pictures.items()}
            caption += f" (the top left {LARGEST_SHOWN} pixels)"
        refs = example["refs"][:REFERENCES_SHOWN]
        labels = [f"reference {number}" for number in range(1, len(refs) + 1)]
        figures.append(comparison_page.figure(caption, pictures, refs, labels))
    summary = report.as_text({test_set.name: evaluation.result})
    comparison_page.write(path, test_set.name, summary, _HINT, figures)


def _scores(row: Mapping[str, float]) -> str:
    """PSNR in dB, and what is lower for a better image."""
    shown = [f"{row['psnr_y']:.2f} dB"]
    for metric in LOWER_IS_BETTER:
        if not math.isnan(value := row.get(metric, math.nan)):
            title, digits = COLUMNS[metric]
            shown.append(f"{title} {value:.{digits}f}")
    return ", ".join(shown)


def _smallest_and_largest_gains(evaluation: Evaluation, shown: int) -> list[tuple[int, float]]:
    """Indices and gains over bicubic, in dB, with the first reference after bicubic: the smallest gains, then the largest."""
    reference = next((reference for reference in evaluation.scores if reference != "bicubic"), "")
    base, rows = evaluation.scores.get("bicubic", {}), evaluation.scores.get(reference, {})
    gains = {name: rows[name]["psnr_y"] - base[name]["psnr_y"] for name in rows if name in base}
    order = sorted(gains, key=gains.__getitem__)
    smallest = order[: min(shown // 2, len(order) // 2)]
    largest = order[len(smallest) :][::-1][: shown - len(smallest)]
    return [(evaluation.names.index(name), gains[name]) for name in smallest + largest]
