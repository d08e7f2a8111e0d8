"""Bad photographs, given to every command that reads some."""

import functools
import os
import pathlib
import random
import unittest.mock
from typing import Any

from PIL import Image

from rrsr_jax import upscale, web
from rrsr_jax.data import decoding, prepare
from rrsr_jax.data.images import to_uint8
from rrsr_jax.data.pictures import read_picture
from rrsr_jax.experiments import figures
from tests.campaigns.cases import Area, Case, command_case, reported
from tests.campaigns.mutations import damaged, images, strangers
from tests.campaigns.works import Nearest
from tests.helpers import noise


class Photographs(Area):
    """Image files, given to every command that reads some."""

    def __init__(self, base: pathlib.Path, new: bool = True):
        super().__init__(base, new)
        self._good, self._strangers = images(), strangers()

    def file(self, rng: random.Random, folder: pathlib.Path) -> pathlib.Path:
        """Writes a file, and returns its path."""
        name, raw = rng.choice(list(self._good.items()))
        kind = rng.random()
        if kind < 0.1:
            name, raw = rng.choice(list(self._strangers.items()))
        elif kind < 0.2:  # another ending than what it is
            name = f"{name.partition('.')[0]}{rng.choice(decoding.READ_ENDINGS)}"
        elif kind < 0.95:
            raw = damaged(raw, rng, list(self._good.values()))
        path = folder / f"{rng.randrange(10**6)}_{name}"
        odd = rng.random()
        if odd < 0.005:
            os.mkfifo(path)
        elif odd < 0.01:
            path.symlink_to(rng.choice(["/dev/zero", "/dev/null", path.name, "nowhere", "/proc/self/mem", "."]))
        elif odd < 0.015:
            path.mkdir()
        else:
            path.write_bytes(raw)
        return path

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        good, inputs = folder / "good.png", folder / "input"
        Image.fromarray(noise(24, 20)).save(inputs / "good.png")
        good = inputs / "good.png"
        upscaled = functools.partial(upscale.main, upscaler=Nearest)
        upscaled.__module__ = upscale.__name__
        kind = rng.choice(["input", "reference", "album", "folder", "prepare", "pairs", "web", "figure"])
        if kind == "folder":
            for _ in range(rng.randint(1, 4)):
                self.file(rng, inputs)
            return command_case(upscaled, inputs, "--out=out", *rng.choice([[], ["--compare"]]), statuses=(0, 1, 2))
        if kind == "album":
            album = inputs / "album"
            album.mkdir()
            for _ in range(rng.randint(1, 3)):
                self.file(rng, album)
            return command_case(upscaled, good, "--ref", album, "--out=out.png")
        if kind == "prepare":
            for _ in range(rng.randint(1, 3)):
                self.file(rng, inputs)
            options = rng.choice([[], ["--skip_bad"], ["--tile=16"]])
            return command_case(prepare.main, "--dataset=photos", f"--source={inputs}", "--data_dir=data", *options)
        if kind == "pairs":
            for name in ("input", "ref"):
                (inputs / "pairs" / name).mkdir(parents=True)
                self.file(rng, inputs / "pairs" / name).rename(inputs / "pairs" / name / "a.png")
            source = f"--source={inputs / 'pairs'}"
            return command_case(prepare.main, "--dataset=ref_pairs", source, "--data_dir=data")
        path = self.file(rng, inputs)
        if kind == "web":
            return Case(f"page with {path.name}", lambda: _web(path, good))
        if kind == "figure":
            options = _options(lr=str(path), ref=str(good))
            return Case(f"figure of {path.name}", lambda: reported(lambda: list(figures._inputs(options, None))))
        out = f"--out=out{rng.choice(['.png', '.jpg', '.tif', '.webp', '.avif', '.jp2', '.bmp', '.ppm'])}"
        if kind == "reference":
            return command_case(upscaled, good, "--ref", path, out)
        return command_case(upscaled, path, out, *rng.choice([[], ["--compare"]]))


def _options(**fields: Any) -> Any:
    """Options of a command."""
    return type("Options", (), fields)


def _web(path: pathlib.Path, good: pathlib.Path) -> None:
    """What the page does with an upload; its messages go to the page."""

    def read(path):
        return to_uint8(read_picture(path).rgb)

    assert web.thumbnail(path, read, 24.0)
    with unittest.mock.patch("rrsr_jax.inference.upscaler.Upscaler", Nearest):
        _, job = web.upscaling("")

        def run():
            web.check_files(str(path), [str(good)], web.Limits())
            result = job(path, [good], pathlib.Path())
            assert web.describe(result, [good.name], 1.0)

        reported(run)
