"""The commands that campaigns disturb, in small: what each needs, how it is called, and what it leaves."""

import functools
import json
import os
import pathlib
import re
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from rrsr_jax import main, upscale
from rrsr_jax.data import datasets, prepare
from rrsr_jax.inference.upscaler import Upscaled
from rrsr_jax.weights import __main__ as weights
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import has_checkpoint, newest_intact
from rrsr_jax.workdir.progress import read_records
from tests.campaigns import processes, tiny
from tests.golden import recipe
from tests.helpers import ROOT, noise, write

CONFIG = pathlib.Path(tiny.__file__)
PAIRS = 40  # that are prepared


class Work(NamedTuple):
    """A command, given again until it is done.

    Attributes:
      call: runs it in the current folder, in which `inputs` has been called.
      inputs: puts what it needs into a folder.
      kept: how much of the work is safe in a folder; never falls. AssertionError if something looks whole and is not.
      seen: how much looks whole there, by names and sizes alone; at most what `kept` then finds.
      outcome: what it left in the end: a checksum for each file or array.
      temporary: patterns of files that are there while it writes; after the end none may be left.
    """

    call: Callable[[], Any]
    inputs: Callable[[pathlib.Path], None]
    kept: Callable[[pathlib.Path], int]
    seen: Callable[[pathlib.Path], int]
    outcome: Callable[[pathlib.Path], dict[str, Any]]
    temporary: Sequence[str]


class Nearest:
    """Takes the place of the upscaler: fast, and deterministic."""

    def __init__(self, weights: str, *, search: str = "auto"):
        pass

    def match_scores(self, rgb: np.ndarray, candidates: Sequence[np.ndarray]) -> list[float]:
        return [float(-np.square(candidate).mean()) for candidate in candidates]

    def upscale(self, rgb: np.ndarray, references: Sequence[np.ndarray] = (), progress: Any = None) -> Upscaled:
        return Upscaled(
            rgb.repeat(4, 0).repeat(4, 1), tuple(1.0 for _ in references), "exact", tuple("" for _ in references)
        )


def run_main(*arguments: str) -> None:
    """`python -m rrsr_jax.main` with these arguments; only in a fork."""
    main.run(["main", *arguments])


def fingerprint() -> int:
    """Changes with the code of the program and of the campaigns: outcomes of another code are not comparable."""
    files = sorted(
        path for folder in ("rrsr_jax", "kernels", "tests/campaigns") for path in (ROOT / folder).rglob("*.py")
    )
    return functools.reduce(lambda crc, path: zlib.crc32(path.read_bytes(), crc), files, 0)


def names(folder: pathlib.Path) -> set[str]:
    """All paths in a folder, but for what is in a checkpoint (Orbax's names are random) or TensorBoard's (a file each start)."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in found if "tensorboard" not in path.parts and "checkpoints" not in path.parts[:-2]}


def checksums(folder: pathlib.Path, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """CRC32 of every file by its path in the folder, without the entries of the folder that `leave_out` names.

    The seconds that a page of upscaling tells count for nothing.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    relative = ((path.relative_to(folder), path) for path in files)
    return {
        str(name): zlib.crc32(
            re.sub(rb"\d+\.\d s\b", b"", path.read_bytes()) if path.suffix == ".html" else path.read_bytes()
        )
        for name, path in relative
        if name.parts[0] not in leave_out
    }


def variables(base: pathlib.Path) -> dict[str, str]:
    """The environment of all commands of a campaign in `base`. They share one compilation cache, see `share_cache`."""
    return {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(base)}


def share_cache(base: pathlib.Path) -> None:
    """All processes that are forked from now on keep compiled programs in `base/cache`.

    JAX reads the variables of the environment when it is imported, so in a fork they come too late.
    """
    jax.config.update("jax_compilation_cache_dir", str(base / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def works(base: pathlib.Path) -> dict[str, Work]:
    """All works by name. Makes their inputs in `base/inputs`; `student` and `gan` need the outcome of others, see `SOURCES`."""
    inputs = base / "inputs"
    _write_inputs(inputs)
    found = {stage: _training(stage, base) for stage in tiny.ROWS}
    found["evaluation"] = _evaluation(base)
    found["prepare"] = _prepare(inputs)
    found["upscale"] = _upscale(inputs)
    source, imported = inputs / "net.safetensors", base / "whole" / "weights import" / "net"
    found["weights import"] = _weights("net", "import", "--kind=correspondence", f"--source={source}", "--out=net")
    found["weights export"] = _weights(
        "out.safetensors",
        "export",
        "--kind=correspondence",
        f"--source={imported}",
        "--out=out.safetensors",
        "--overwrite",
    )
    run = base / "whole" / "single_image" / "run"
    found["weights pack"] = _weights(
        "packed", "pack", f"--run={run}", f"--card={inputs / 'card.md'}", "--out=packed", "--overwrite"
    )
    return found


# What has to be done before.
SOURCES = {
    "student": "teacher",
    "gan": "single_image",
    "evaluation": "single_image",
    "weights export": "weights import",
    "weights pack": "single_image",
}


def _write_inputs(inputs: pathlib.Path) -> None:
    if inputs.is_dir():
        return
    inputs.mkdir(parents=True)
    pairs = {
        f"pairs/{kind}/{i:02}.png": noise(40, 36, seed=2 * i + n)
        for i in range(PAIRS)
        for n, kind in enumerate(("input", "ref"))
    }
    write(inputs, pairs | {f"photos/{i:02}.png": noise(120, 100, seed=i) for i in range(20)})
    import safetensors.numpy

    safetensors.numpy.save_file(recipe.state_dict("c2_extractor"), inputs / "net.safetensors")
    (inputs / "card.md").write_text("Weights of a campaign.\n")


def _training(stage: str, base: pathlib.Path) -> Work:
    def inputs(folder: pathlib.Path) -> None:
        if stage in ("student", "gan"):  # config.init_from is a folder beside the run
            source = SOURCES[stage]
            (folder / source).symlink_to(base / "whole" / source / "run")

    return Work(
        functools.partial(run_main, f"--config={CONFIG}:{stage}", "--workdir=run"),
        inputs,
        lambda folder: newest_step(folder / "run"),
        lambda folder: max(
            (int(path.name) for path in folder.glob("run/checkpoints/*") if path.name.isdigit()), default=0
        ),
        lambda folder: run_outcome(folder / "run", base),
        ("run/checkpoints/*.orbax-checkpoint-tmp*", "run/*.tmp"),
    )


def newest_step(workdir: pathlib.Path) -> int:
    """Step of the newest checkpoint, 0 if there is none; a damaged one must not look like a checkpoint."""
    if not has_checkpoint(workdir):
        return 0
    step, damaged = newest_intact(workdir)
    assert not damaged, f"damaged checkpoints: {damaged}"
    return step


def run_outcome(workdir: pathlib.Path, base: pathlib.Path) -> dict[str, Any]:
    """Of a run: metrics of all steps, results, pictures, and the arrays of the last checkpoint."""
    folder = workdir.with_name("arrays")
    folder.mkdir(exist_ok=True)
    ended = processes.run(lambda: _print_arrays(workdir), folder, variables=variables(base))
    assert not ended.status, ended.err
    kept = ("step", "train/", "val/")
    metrics = [{k: v for k, v in record.items() if k.startswith(kept)} for record in read_records(workdir)]
    files = checksums(workdir, ("metrics.jsonl", "tensorboard", "checkpoints", "lock", ".lock"))
    steps = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    return {"arrays": json.loads(ended.out), "metrics": metrics, "checkpoints": steps} | files


def _print_arrays(workdir: pathlib.Path) -> None:
    state = Checkpoints(workdir).read_state()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    print(json.dumps({jax.tree_util.keystr(path): zlib.crc32(np.asarray(leaf).tobytes()) for path, leaf in leaves}))


def _evaluation(base: pathlib.Path) -> Work:
    def seen(folder: pathlib.Path) -> int:
        return len(list((folder / "run/eval").rglob("*.png")))

    def kept(folder: pathlib.Path) -> int:
        for path in (folder / "run/eval").rglob("*.png"):
            with Image.open(path) as image:
                image.load()
        return seen(folder)

    def inputs(folder: pathlib.Path) -> None:
        run = base / "whole" / "single_image" / "run"
        for name in ("config.json", "checkpoints"):
            (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, _made(folder / "run") / name)

    return Work(
        functools.partial(run_main, "--mode=eval", "--workdir=run", "--config.eval.crops=40", "--config.eval.sheets=2"),
        inputs,
        kept,
        seen,
        lambda folder: checksums(folder / "run", ("checkpoints", "lock", ".lock")),
        ("run/eval/embedded/images.csv", "run/*.tmp", "run/eval/*/*.tmp"),
    )


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    return folder


def _prepare(inputs: pathlib.Path) -> Work:
    arguments = ["--dataset=ref_pairs", f"--source={inputs / 'pairs'}", "--data_dir=data"]
    dataset = pathlib.Path("data/ref_pairs/1.0.0")

    def kept(folder: pathlib.Path) -> int:
        if not (folder / dataset).exists():
            return 0
        # In a fork of its own, because record readers start threads.
        ended = processes.run(lambda: print(len(list(datasets.Prepared("ref_pairs", "data")))), folder)
        assert not ended.status, ended.err
        return int(ended.out)

    return Work(
        lambda: prepare.main(arguments),
        lambda folder: None,
        kept,
        lambda folder: PAIRS if (folder / dataset).exists() else 0,
        lambda folder: checksums(folder / dataset),
        ("data/.preparing/ref_pairs",),
    )


def _upscale(inputs: pathlib.Path) -> Work:
    def kept(folder: pathlib.Path) -> int:
        results = list((folder / "out").glob("*.png"))
        for path in results:
            with Image.open(path) as image:
                image.load()
        return len(results)

    return Work(
        lambda: upscale.main([str(inputs / "photos"), "--out=out", "--compare"], upscaler=Nearest),
        lambda folder: None,
        kept,
        lambda folder: len(list((folder / "out").glob("*.png"))),
        lambda folder: checksums(folder / "out", ("upscaled.jsonl",)),
        ("out/.*", "out/*.tmp"),
    )


def _weights(out: str, *arguments: str) -> Work:
    def kept(folder: pathlib.Path) -> int:
        return sum(path.stat().st_size for path in [folder / out, *(folder / out).rglob("*")] if path.is_file())

    return Work(
        lambda: weights.main(arguments),
        lambda folder: None,
        kept,
        kept,
        lambda folder: {n: v for n, v in checksums(folder).items() if not n.endswith(".lock")},
        (f".{out}.unfinished", f".{out}.old"),
    )


def wait_for(folder: pathlib.Path, patterns: Sequence[str], process: processes.Process, seconds: float) -> None:
    """Waits until the folder has a file of one of the patterns, for so long at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not process.ended() and not any(any(folder.glob(p)) for p in patterns):
        time.sleep(0.0005)
    os.sched_yield()
