"""A page to compare pictures by dragging a handle: one HTML file that needs no other."""

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

from rrsr_jax.workdir.files import write_atomically

THUMBNAIL = 300  # pixels a side of a reference
QUALITY = 95  # of JPEG


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
