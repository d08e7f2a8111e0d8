"""The page of a test set: one HTML file with the results as text, and images to compare by dragging a handle."""

import base64
import html
import io
import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from PIL import Image

from rrsr_jax.evaluation import report
from rrsr_jax.evaluation.evaluate import Evaluation
from rrsr_jax.evaluation.protocols import TestSet, crop_to_multiple
from rrsr_jax.workdir.files import write_atomically

LARGEST_SHOWN = 1_000  # pixels a side
THUMBNAIL = 300  # pixels a side of a reference
REFERENCES_SHOWN = 5


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
                label = f"{reference.replace('_', ' ')}, {rows[name]['psnr_y']:.2f} dB, GMSD {rows[name]['gmsd_y']:.4f}"
                pictures[label] = np.asarray(Image.open(path.parent / reference / f"{name}.png"))
        caption = f"{name}: {gain:+.2f} dB over bicubic"
        if max(pictures["ground truth"].shape) > LARGEST_SHOWN:
            pictures = {label: picture[:LARGEST_SHOWN, :LARGEST_SHOWN] for label, picture in pictures.items()}
            caption += f" (the top left {LARGEST_SHOWN} pixels)"
        figures.append(_figure(caption, pictures, [_thumbnail(ref) for ref in example["refs"][:REFERENCES_SHOWN]]))
    page = string.Template(resources.files("rrsr_jax.evaluation").joinpath("page.html").read_text())
    text = page.substitute(
        title=html.escape(test_set.name),
        scores=html.escape(report.as_text({test_set.name: evaluation.result})),
        figures="\n".join(figures),
    )
    write_atomically(path, text)


def _smallest_and_largest_gains(evaluation: Evaluation, shown: int) -> list[tuple[int, float]]:
    """Indices and gains over bicubic, in dB, with the first reference after bicubic: the smallest gains, then the largest."""
    reference = next((reference for reference in evaluation.scores if reference != "bicubic"), "")
    base, rows = evaluation.scores.get("bicubic", {}), evaluation.scores.get(reference, {})
    gains = {name: rows[name]["psnr_y"] - base[name]["psnr_y"] for name in rows if name in base}
    order = sorted(gains, key=gains.__getitem__)
    smallest = order[: min(shown // 2, len(order) // 2)]
    largest = order[len(smallest) :][::-1][: shown - len(smallest)]
    return [(evaluation.names.index(name), gains[name]) for name in smallest + largest]


def _figure(caption: str, pictures: Mapping[str, np.ndarray], refs: Sequence[np.ndarray]) -> str:
    """One comparison as HTML, with its images in it."""
    data = json.dumps({label: _data_url(picture) for label, picture in pictures.items()}).replace("<", "\\u003c")
    thumbnails = "".join(
        f'<div><img src="{_data_url(ref)}" alt=""><br>reference {i + 1}</div>' for i, ref in enumerate(refs)
    )
    return f"""<figure>
<figcaption>{html.escape(caption)}</figcaption>
<script type="application/json">{data}</script>
<div class="comparison"><img alt="right"><img class="over" alt="left">
<div class="handle" role="slider" tabindex="0" aria-label="divide" aria-valuemin="0" aria-valuemax="100"></div></div>
<div class="sides"><label>left <select></select></label><label>right <select></select></label></div>
<div class="references">{thumbnails}</div>
</figure>"""


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(small)


def _data_url(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
