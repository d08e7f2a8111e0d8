"""A page in the browser: drop a photo and sharp photos of the same place, compare before and after, download the result.

python -m rrsr_jax.web [--weights photo] [--host 127.0.0.1] [--port 7860]

Needs the extra `web` (Gradio). The page is served to this computer alone unless `--host` says otherwise. Nothing is sent to
anywhere else, neither by the page nor by the program: no telemetry, no version check, fonts and scripts come from the program.
Pictures are kept in a temporary folder, for an hour at most, and removed when the program ends.
"""

import argparse
import atexit
import base64
import dataclasses
import functools
import html
import io
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.console import exit_on_error, log
from rrsr_jax.data import decoding
from rrsr_jax.data.images import to_uint8, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.inference import LITTLE

THUMBNAIL = 160  # pixels of the longer side
PREVIEW = 2400  # pixels of the longer side in the comparison; the download has them all
# The browser itself refuses what is not from this address. Gradio needs inline scripts and styles.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:"
)
CSS = (pathlib.Path(__file__).parent / "web.css").read_text()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
      megabytes: of a file.
      megapixels: of the photo; the result has 16 times as many.
      reference_megapixels: of one reference.
      references: number of them.
      queue: visitors who wait; one is served at a time.
    """

    megabytes: int = 50
    megapixels: float = 2.0
    reference_megapixels: float = 24.0
    references: int = 8
    queue: int = 8


@dataclasses.dataclass(frozen=True)
class Result:
    """What the page shows of one job.

    Attributes:
      before, after: (H, W, 3) uint8, of one size: the photo enlarged by bicubic interpolation, and the result.
      used: share of the result, 0 to 1, that took something from each reference; empty without references.
      file: the complete result.
      notes: what was converted, and what else the visitor should know.
    """

    before: np.ndarray
    after: np.ndarray
    used: Sequence[float]
    file: pathlib.Path
    notes: Sequence[str] = ()


Read = Callable[[pathlib.Path], np.ndarray]  # a file to (H, W, 3) uint8 sRGB
Job = Callable[[pathlib.Path, Sequence[pathlib.Path], pathlib.Path], Result]  # photo, references, folder for the result


@exit_on_error(interrupted="the page is closed")
def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.web", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="photo", help="name of weights, their folder, or the folder of a run")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the network (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    for field in dataclasses.fields(Limits):
        name, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        parser.add_argument(
            name, type=kind, default=field.default, help="the most that is accepted (default: %(default)s)"
        )
    options = parser.parse_args(argv)
    limits = Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})
    if not 0 <= options.port < 2**16:
        parser.error(f"argument --port: 0 to 65535 expected, got {options.port}")
    for name, most in dataclasses.asdict(limits).items():
        if not (most > 0 or (name == "references" and most == 0)):
            parser.error(f"argument --{name.replace('_', '-')}: a number above 0 expected, got {most}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # the usual end, which removes the folder of pictures
    serve(build_page(*upscaling(options.weights), limits), limits, options.host, options.port)


def upscaling(weights: str) -> tuple[Read, Job]:
    """The reader of the page, and its job: read the files, upscale, write the result.

    Raises:
      InputError: no such weights. The two functions raise it for files that cannot be read.
    """
    from rrsr_jax.data.pictures import read_picture, write_picture
    from rrsr_jax.inference.upscaler import Upscaler

    upscaler = Upscaler(weights)

    def read(path):
        return to_uint8(read_picture(path).rgb)

    def job(photo, references, folder):
        picture, others = read_picture(photo), [read_picture(path) for path in references]
        upscaled = upscaler.upscale(picture.rgb, [other.rgb for other in others])
        file = folder / f"{photo.stem}_x{SCALE_FACTOR}.png"
        write_picture(file, picture.enlarged(upscaled.rgb))
        notes = [note for one in (picture, *others) for note in one.notes]
        before, after = upscale(to_uint8(picture.rgb)), to_uint8(upscaled.rgb)
        return Result(before, after, upscaled.used if others else (), file, notes)

    return read, job


def require_gradio() -> Any:
    """Gradio, told to be quiet.

    Raises:
      InputError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            f'the page needs Gradio ({error}); install it with: pip install "rrsr_jax[web]", or -e ".[web]" in a checkout'
        ) from error
    return gradio


def build_page(read: Read, job: Job, limits: Limits) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
      read: for the small pictures that show what was dropped; raises InputError for a bad file.
      job: what the button does. It raises InputError for bad files; the page shows its message.
      limits: what is accepted.

    Raises:
      InputError: Gradio is not installed.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rrsr_web_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    gr = require_gradio()

    def show(most, files):
        paths = [files] if isinstance(files, str) else files or []
        return "".join(thumbnail(pathlib.Path(path), read, most) for path in paths[: limits.references + 1])

    def run(photo, references):
        started, paths = time.monotonic(), [pathlib.Path(path) for path in references or []]
        try:
            check_files(photo, references or [], limits)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                result = job(pathlib.Path(photo), paths, pathlib.Path(work))
                pair = tuple(_shrunk(image, PREVIEW) for image in (result.before, result.after))
                text = describe(result, [path.name for path in paths], time.monotonic() - started)
                # A generator: Gradio copies the file into its own folder before the code goes on and removes this one.
                yield text, gr.ImageSlider(pair, visible=True), gr.DownloadButton(value=str(result.file), visible=True)
        except InputError as error:
            yield message(error, photo, *paths), gr.ImageSlider(visible=False), gr.DownloadButton(visible=False)

    with gr.Blocks(title="Sharper photos", analytics_enabled=False, delete_cache=(60, 3600)) as page:
        gr.HTML(
            "<h1>Two photos in, a sharp one out</h1><p>Drop a small photo and, if you have them, sharp photos of the same "
            f"place. You get the small photo at {SCALE_FACTOR} times its width and height.</p>",
            elem_id="title",
            padding=False,
        )
        with gr.Row():
            with gr.Column(min_width=280):
                photo = gr.File(label="1. Your small photo", elem_id="photo", height=150)
                photo_shown = gr.HTML(elem_id="photo-shown", padding=False)
            with gr.Column(min_width=280):
                references = gr.File(
                    label="2. Sharp photos of the same place",
                    file_count="multiple",
                    elem_id="references",
                    height=150,
                )
                references_shown = gr.HTML(elem_id="references-shown", padding=False)
        start = gr.Button("Make it sharp", variant="primary", elem_id="start")
        report = gr.HTML(elem_id="report", padding=False)
        slider = gr.ImageSlider(
            label="Before and after",
            elem_id="slider",
            visible=False,
            interactive=False,
            max_height=640,
            buttons=["fullscreen"],
        )
        download = gr.DownloadButton("Download the full result", variant="primary", elem_id="download", visible=False)
        gr.HTML(
            f"<p>The small photo may have up to {limits.megapixels:g} megapixels. Up to {limits.references} sharp photos are "
            f"taken, of up to {limits.reference_megapixels:g} megapixels. A file may have {limits.megabytes} MB. Your pictures "
            "stay on the computer that serves this page, and are deleted within about an hour.</p>",
            elem_id="limits",
            padding=False,
        )
        for files, shown, most in (
            (photo, photo_shown, limits.megapixels),
            (references, references_shown, limits.reference_megapixels),
        ):
            files.change(functools.partial(show, most), files, shown, show_progress="hidden", api_visibility="private")
        start.click(
            run,
            [photo, references],
            [report, slider, download],
            concurrency_limit=1,
            api_visibility="private",
            show_progress_on=[report],
        )
    return page


def serve(page: Any, limits: Limits, host: str, port: int, *, block: bool = True) -> str:
    """Serves the page until Ctrl-C, or goes on at once with `block=False`.

    Returns:
      The address of the page.

    Raises:
      InputError: the port is taken.
    """
    gr = require_gradio()
    try:
        _, address, _ = page.queue(max_size=limits.queue, api_open=False).launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            max_file_size=limits.megabytes * 1_000_000,
            theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"]),
            css=CSS,
            head=f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        )
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be served ({error}); choose another --port or --host") from error
    log(f"serving {address}; Ctrl-C ends")
    if block:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: the folder of pictures is removed
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    return address


def check_files(photo: str | None, references: Sequence[str], limits: Limits) -> None:
    """Raises InputError if there is no photo, or there are too many files or pixels."""
    if not photo:
        raise InputError("No photo yet: drop a small photo into field 1 first.")
    if len(references) > limits.references:
        raise InputError(f"Up to {limits.references} sharp photos are taken, got {len(references)}: remove some.")
    check_size(photo, limits.megapixels)
    for path in references:
        check_size(path, limits.reference_megapixels)


def check_size(path: str | pathlib.Path, most: float) -> None:
    """Raises InputError for a picture of more than `most` megapixels. Reads its header only."""
    if not pathlib.Path(path).is_file():  # a pipe or a device may never end
        return
    try:
        with Image.open(path, formats=decoding.formats()) as image:
            width, height = image.size
    except Exception:
        return  # the reader says what is wrong
    if width * height > most * 1e6:
        raise InputError(
            f"{pathlib.Path(path).name} has {width} x {height} pixels, {width * height / 1e6:.1f} megapixels; "
            f"here it may have {most:g} megapixels at most."
        )


def describe(result: Result, names: Sequence[str], seconds: float) -> str:
    """What was done, as HTML: sizes, time, how much of each reference was used, notes."""
    height, width = result.after.shape[:2]
    before, after = f"{width // SCALE_FACTOR} x {height // SCALE_FACTOR}", f"{width} x {height}"
    lines = [f"<p><b>{before}</b> pixels became <b>{after}</b> in {seconds:.0f}&nbsp;s.</p>"]
    for name, share in zip(names, result.used, strict=True):
        percent = f"{100 * share:.0f}"
        lines.append(
            f'<p class="used"><span>{html.escape(name)}</span><meter min="0" max="100" value="{percent}"></meter>'
            f"<span>used for {percent}&nbsp;% of the picture</span></p>"
        )
    if names and sum(result.used) < LITTLE:
        lines.append(
            "<p>These sharp photos hardly helped. Photos of the same place, from about the same side, help most.</p>"
        )
    lines += [f"<p>{html.escape(note)}</p>" for note in result.notes]
    return "".join(lines)


def message(error: InputError, *paths: str | pathlib.Path | None) -> str:
    """An error as HTML. Of the files that it is about, the visitor knows the names only, not the folders."""
    text = str(error)
    for path in filter(None, paths):
        text = text.replace(str(path), pathlib.Path(path).name)
    return f'<p class="error" role="alert">{html.escape(text)}</p>'


def thumbnail(path: pathlib.Path, read: Read, most: float) -> str:
    """A picture of at most `most` megapixels in small with its name and size, or what is wrong with it, as HTML."""
    try:
        check_size(path, most)
        rgb = read(path)
    except InputError as error:
        return message(error, path)
    content = io.BytesIO()
    _shrunk(rgb, THUMBNAIL).save(content, "JPEG", quality=85)
    height, width = rgb.shape[:2]
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{html.escape(path.name)}<br>'
        f"{width} x {height}</figcaption></figure>"
    )


def _shrunk(image: np.ndarray, longest: int) -> Image.Image:
    """At most `longest` pixels a side."""
    shrunk = Image.fromarray(image)
    shrunk.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return shrunk


if __name__ == "__main__":
    main()
