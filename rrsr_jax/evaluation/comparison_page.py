"""A page to compare pictures by dragging a handle: one HTML file that needs no other."""

import base64
import html
import io
import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from importlib import resources

import cv2
import numpy as np
from PIL import Image

from rrsr_jax.data.images import resize_bicubic, to_uint8
from rrsr_jax.workdir.files import write_atomically

THUMBNAIL = 300  # pixels a side of a reference
QUALITY = 95  # of JPEG
LARGEST_WHOLE, DETAIL = 1600, 1000  # pixels a side


def write(path: pathlib.Path, title: str, summary: str, hint: str, figures: Sequence[str]) -> None:
    """Writes the page.

    Args:
      path: of the page.
      title: its heading.
      summary: text below the heading, with its line breaks.
      hint: a sentence or two about what is shown and in which order.
      figures: see `figure`.
    """
    page = string.Template(resources.files("rrsr_jax.evaluation").joinpath("page.html").read_text())
    text = {"title": title, "summary": summary, "hint": hint}
    escaped = {name: html.escape(value) for name, value in text.items()}
    write_atomically(path, page.substitute(escaped, figures="\n".join(figures)))


def write_before_and_after(
    path: pathlib.Path,
    title: str,
    summary: str,
    before: np.ndarray,
    after: np.ndarray,
    references: Mapping[str, np.ndarray],
) -> None:
    """Writes the page of one photograph: the whole of it and, if that is reduced, the part that changed most at full size.

    Args:
      path, title, summary: see `write`.
      before: (h, w, 3) float, sRGB, the photograph; shown enlarged by bicubic interpolation.
      after: (H, W, 3) float, sRGB, the result.
      references: (H, W, 3) float, sRGB, by name.
    """
    result, refs = to_uint8(after), [to_uint8(image) for image in references.values()]
    height, width = result.shape[:2]
    pictures = {"bicubic": resize_bicubic(to_uint8(before), height, width), "result": result}
    hint = f"Drag the handle, or use the arrow keys. The page shows JPEG of quality {QUALITY}; the result is beside it."
    if max(height, width) <= LARGEST_WHOLE:
        figures = [figure(f"{width} x {height} pixels", pictures, refs, list(references))]
    else:
        h, w = (max(1, round(side * LARGEST_WHOLE / max(height, width))) for side in (height, width))
        whole = {label: resize_bicubic(image, h, w) for label, image in pictures.items()}
        top, left = _most_changed(pictures["bicubic"], result, DETAIL)
        detail = {label: image[top : top + DETAIL, left : left + DETAIL] for label, image in pictures.items()}
        figures = [
            figure(f"detail at full size, from ({left}, {top}): where most changed", detail, [], []),
            figure(
                f"the whole image, reduced from {width} x {height} to {w} x {h} pixels", whole, refs, list(references)
            ),
        ]
    write(path, title, summary, hint, figures)


def _most_changed(before: np.ndarray, after: np.ndarray, side: int) -> tuple[int, int]:
    """Top and left of the square of `side` pixels (or less, at borders) in which two (H, W, 3) uint8 images differ most."""
    difference = cv2.absdiff(before, after).mean(-1, dtype=np.float32)
    h, w = (min(side, length) for length in difference.shape)
    sums = cv2.boxFilter(difference, -1, (w, h), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    inside = sums[: difference.shape[0] - h + 1, : difference.shape[1] - w + 1]
    top, left = np.unravel_index(np.argmax(inside), inside.shape)
    return int(top), int(left)


def figure(caption: str, pictures: Mapping[str, np.ndarray], refs: Sequence[np.ndarray], labels: Sequence[str]) -> str:
    """One comparison as HTML, with its images in it.

    Args:
      caption: above it.
      pictures: (H, W, 3) uint8 images of one size by label. One whose label begins with `bicubic` starts on the left, and the
        first other one that is not the `ground truth` on the right.
      refs: (H, W, 3) uint8 references, shown small.
      labels: of the references.
    """
    data = json.dumps({label: _data_url(picture) for label, picture in pictures.items()}).replace("<", "\\u003c")
    thumbnails = "".join(
        f'<div><img src="{_data_url(_thumbnail(ref))}" alt=""><br>{html.escape(label)}</div>'
        for ref, label in zip(refs, labels, strict=True)
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
    Image.fromarray(image).save(file, "jpeg", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
