"""Bad words: fields of configs and options of commands with any values."""

import pathlib
import random
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import safetensors.numpy

from rrsr_jax import config_files, export, upscale, web
from rrsr_jax.data import prepare
from rrsr_jax.errors import InputError
from rrsr_jax.experiments import figures, runs, table
from rrsr_jax.training import train
from rrsr_jax.weights import __main__ as weights
from tests.campaigns import tiny
from tests.campaigns.cases import COMPILING, GIB, Area, Case, CheckpointFiles
from tests.campaigns.mutations import VALUES
from tests.campaigns.works import CONFIG, Nearest, run_main
from tests.golden import recipe
from tests.helpers import noise, write

WHOLE = ("-1", "0", "1", "2", "3", "7", "1000", "99999999", "-99999999999")
REAL = ("-1.0", "0.0", "0.5", "1.0", "1.5", "1e30", "nan", "inf", "-inf")
NAMES = (
    *("", "x", "rrsr", "srcnn", "embedded", "photos", "cufed5", "rec", "gan", "teacher", "float32", "bfloat16", "xla"),
    *(
        "triton",
        "bicubic",
        "reference",
        "level_1",
        "lr_itself,other",
        "none",
        "blocks",
        "cosine",
        "steps",
        "view",
        "warp",
    ),
    *("../x", "a" * 300),
)


class Overrides(Area):
    """Fields of a config, with any values: a run up to its first step, which is traced and not computed, then its evaluation."""

    def __init__(self, base: pathlib.Path, new: bool = True):
        super().__init__(base, new)
        self._configs = {
            row: config_files.load(f"{CONFIG}:{row}") for row in tiny.ROWS if row not in ("student", "gan")
        }

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        row = rng.choice(["single_image"] * 5 + ["teacher", "rec"])
        config = self._configs[row]
        words = [f"--config={CONFIG}:{row}", f"--workdir={rng.choice(['run', 'run', 'a/b/run'])}"]
        for name in rng.sample(sorted(config_files.fields(config)), rng.choice([1, 1, 2, 3])):
            value = config
            for part in name.split("."):
                value = value[part]
            words.append(f"--config.{name}={_value_like(value, rng)}")
        return Case(
            f"main {' '.join(map(repr, words))}", lambda: _first_step(words), memory=12 * GIB, seconds=COMPILING
        )


def _value_like(value: Any, rng: random.Random) -> str:
    """Mostly of the type of the field, so that it gets past the parser."""
    if rng.random() < 0.25:
        return rng.choice(VALUES)
    if isinstance(value, bool):
        return rng.choice(["True", "False"])
    if isinstance(value, int):
        return rng.choice(WHOLE)
    if isinstance(value, float):
        return rng.choice(REAL)
    if isinstance(value, tuple):
        length = rng.choice([len(value), len(value), 0, 1, 5])
        items = [rng.choice(REAL if value and isinstance(value[0], float) else WHOLE) for _ in range(length)]
        return f"({', '.join(items)}{',' * (length == 1)})"
    return rng.choice(NAMES)


def _first_step(words: Sequence[str]) -> None:
    def traced(state, batches, stage, checkpoints, *_) -> Any:
        batch = next(batches)
        batch.pop("skipped", None)
        jax.eval_shape(stage.step(int(state.step)), state, batch)
        return state.replace(step=state.step * 0 + stage.config.steps)

    train._train = traced
    run_main(*words)


def _upscale(words: Sequence[str]) -> None:
    upscale.main(words, upscaler=Nearest)


def _main(words: Sequence[str]) -> None:
    run_main(*words)


# Good command lines; a name in angle brackets is that of a file or folder of the case.
LINES: tuple[tuple[Callable[[Sequence[str]], None], str], ...] = (
    (_upscale, "<good.png> --ref <album> --out=out.png --weights=photo --search=auto"),
    (_upscale, "<album> --ref <good.png> --out=out --compare --force"),
    (prepare.main, "--dataset=ref_pairs --source=<pairs> --data_dir=data --count=1 --smallest=12 --skip_bad"),
    (prepare.main, "--dataset=photos/mine --source=<album> --data_dir=data --tile=16"),
    (weights.main, "import --kind=correspondence --source=<net.safetensors> --out=net"),
    (weights.main, "export --kind=rrsr --source=<run> --out=a.safetensors --overwrite"),
    (weights.main, "pack --run=<run> --card=<card.md> --out=packed --license=<card.md> --raw --overwrite"),
    (weights.main, "fetch vgg19 --out=x.pth --url=http://127.0.0.1:1/x.pth --sha256=00000000"),
    (
        export.main,
        "--weights=photo --out=photo.jaxexport --dtype=uint8 --size=16x16 --ref-size=64x64 --platforms=cpu --force",
    ),
    (web.main, "--weights=photo --host=127.0.0.1 --port=7860 --megabytes=5 --megapixels=1 --references=2 --queue=2"),
    (figures.main, "--workdir=<run> --images=1 --out=figures --set eval.limit=1"),
    (figures.main, "--workdir=<run> --lr=<good.png> --ref=<album/a.png> --out=figures"),
    (table.main, f"--configs={CONFIG}:single_image --workdir=table --seeds=1 --minutes=1 --set batch_size=1"),
    (_main, f"--config={CONFIG}:single_image --workdir=new --mode=train --config.steps=1 --config.eval.sets="),
    (_main, "--mode=eval --workdir=<run> --config.eval.limit=1 --config.eval.crops=2"),
)
WORDS = (
    *(
        "photo",
        "ref_pairs",
        "photos/mine",
        "correspondence",
        "12x12",
        "0x0",
        "99999x99999",
        "train",
        "eval",
        "uint8",
        "cpu",
    ),
    *(
        "auto",
        "steps=1",
        "model.name=x",
        "file:///etc/passwd",
        f"{CONFIG}",
        f"{CONFIG}:rec",
        "none/none/x.png",
        "out.xyz",
    ),
    *("<good.png>", "<album>", "<pairs>", "<run>", "<net.safetensors>", "<card.md>", "<input>"),
    *("--out", "--force", "--overwrite", "--set", "--config.none=1", "--config.steps=x", "--config", "--distributed=2"),
)


class CommandLines(Area):
    """Command lines with one to three words changed, left out or added."""

    def make(self) -> None:
        """A run, and weights."""
        CheckpointFiles(self.base)
        safetensors.numpy.save_file(recipe.state_dict("c2_extractor"), self.base / "net.safetensors")

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        inputs = folder / "work" / "given"  # some results go beside the input
        pairs = {f"pairs/{kind}/a.png": noise(40, 40, seed=n) for n, kind in enumerate(("input", "ref"))}
        write(inputs, {"good.png": noise(24, 20), "album/a.png": noise(40, 40), "card.md": b"card\n"} | pairs)
        shutil.copy(self.base / "net.safetensors", inputs / "net.safetensors")
        shutil.copytree(
            self.base / "run", folder / "work" / "run", ignore=shutil.ignore_patterns("tensorboard", "eval")
        )
        function, line = rng.choice(LINES)
        words = line.split()
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            place, new = rng.randrange(len(words)), rng.choice(WORDS if rng.random() < 0.5 else VALUES)
            change = rng.random()
            if change < 0.6 and "=" in words[place]:
                words[place] = f"{words[place].partition('=')[0]}={new}"
            elif change < 0.8:
                words[place] = new
            elif change < 0.9:
                words.insert(place, new)
            elif len(words) > 1:
                del words[place]
        words = [word.replace("<run>", "run").replace("<input>", str(inputs)) for word in words]
        words = [word.replace("<", f"{inputs}/").replace(">", "") for word in words]
        statuses = (0, 1, 2) if function in (_upscale, table.main) or "--help" in words else (0, 2)
        what = f"{function.__module__}.{function.__name__} {' '.join(map(repr, words))}"
        return Case(what, lambda: _in_short(function, words), statuses=statuses, memory=12 * GIB, seconds=COMPILING)


def _in_short(function: Callable[[Sequence[str]], None], words: Sequence[str]) -> None:
    """Runs a command without what takes long: no step, no server, no waiting. In a fork: nothing is undone."""

    def stop(*_: Any, **__: Any) -> Any:
        raise InputError("left out")

    patches: dict[tuple[Any, str], Any] = {
        (train, "_train"): stop,
        (train, "_evaluate"): lambda *_: {},
        (runs, "execute"): lambda *_: 0,
        (runs, "measure_seconds_per_step"): lambda *_: 1.0,
        (export, "export_network"): stop,
        (web, "serve"): lambda *_: None,
        (web, "build_page"): lambda *_: None,
        (figures, "_observe"): stop,
        (jax.distributed, "initialize"): lambda *_, **__: None,
        (time, "sleep"): lambda _: None,  # between attempts to download
    }
    for (module, attribute), replacement in patches.items():
        setattr(module, attribute, replacement)
    function(words)
