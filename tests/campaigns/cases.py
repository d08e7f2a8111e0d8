"""Bad input, case by case: every area gives a command and the files that it finds, drawn by a seed."""

import json
import pathlib
import random
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from rrsr_jax import config_files
from rrsr_jax.console import exit_on_error
from rrsr_jax.data import datasets, prepare
from rrsr_jax.experiments import figures
from rrsr_jax.training import train
from rrsr_jax.weights import __main__ as weights
from rrsr_jax.weights import released
from tests.campaigns.mutations import damaged
from tests.campaigns.works import CONFIG, run_main
from tests.golden import recipe
from tests.helpers import noise, write

GIB = 2**30
COMPILING = 200  # seconds of processor time for what may compile or trace a network


class Case(NamedTuple):
    """A command on bad input.

    Attributes:
      what: the command and the input, in words.
      call: runs it in the folder `work`, beside the folder `input`.
      statuses: with which it may end.
      memory: bytes that it may take.
      seconds: of processor time that it may take; most take tenths of one.
    """

    what: str
    call: Callable[[], Any]
    statuses: tuple[int, ...] = (0, 2)
    memory: int = 4 * GIB
    seconds: int = 60


class Area:
    """One kind of input.

    Args:
      base: folder for what all cases share.
      new: whether to make that, which may start JAX.
    """

    def __init__(self, base: pathlib.Path, new: bool = True):
        self.base = base
        if new:
            self.make()

    def make(self) -> None:
        """Writes what all cases share."""

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        """Writes the files of a case to `folder/input` and gives its command."""
        raise NotImplementedError


def command_case(function: Callable[[Sequence[str]], None], *arguments: str, **options: Any) -> Case:
    words = [str(argument) for argument in arguments]
    return Case(f"{function.__module__} {' '.join(map(repr, words))}", lambda: function(words), **options)


def reported(function: Callable[[], Any]) -> None:
    """What a command makes of an exception."""
    with exit_on_error():
        function()


class Records(Area):
    """Prepared datasets: damaged files, and records with names that lead elsewhere."""

    NAMES = (
        "../../../x",
        "<work>/../x",  # absolute
        "a/../../b",
        "..",
        ".",
        "",
        "a\\b",
        "a\0b",
        "a" * 300,
        "a\nb",
        "con",
        "\x1b[2J",
        "é" * 200,
        "a/b",
        "-",
        "~",
    )

    def make(self) -> None:
        base = self.base
        pairs = {
            f"pairs/{k}/{i}.png": noise(28, 24, seed=2 * i + n)
            for i in range(3)
            for n, k in enumerate(("input", "ref"))
        }
        write(base, pairs)
        prepare.main(["--dataset=ref_pairs", f"--source={base / 'pairs'}", f"--data_dir={base / 'data'}"])

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        data = folder / "work" / "data"
        files = "wrong names"
        if rng.random() < 0.3:
            names = [name.replace("<work>", str(folder / "work")) for name in rng.sample(self.NAMES, 2)]
            rgb = {"hr": noise(28, 24), "refs": [noise(28, 24)]}
            examples = [{"name": name, **rgb} for name in [*names, rng.choice(["good", names[0], "../escaped"])]]
            call = lambda: datasets.RefPairs(str(data), "", examples).download_and_prepare()  # noqa: E731
            write_dataset(call, folder)
            if not (data / "ref_pairs").exists():
                return Case(f"names {names}: not written", lambda: None)
            files = f"names {names}"
        else:
            shutil.copytree(self.base / "data", data)
            files = damage_files(data, rng)
        sets, limit = rng.choice(["ref_pairs", "ref_pairs", "ref_pairs,embedded"]), rng.choice([0, 1])
        if rng.random() < 0.3:
            source = f"--source={self.base / 'pairs'}"
            case = command_case(prepare.main, "--dataset=ref_pairs", source, f"--data_dir={data}")
        else:
            words = [
                "--mode=eval",
                f"--config={CONFIG}:single_image",
                "--workdir=run",
                "--config.eval.references=bicubic",
            ]
            words += [
                f"--config.eval.sets={sets}",
                f"--config.eval.dir={data}",
                f"--config.eval.limit={limit}",
                "--config.eval.sheets=1",
            ]
            case = Case("evaluation", lambda: run_main(*words), seconds=COMPILING)
        return case._replace(what=f"{case.what}; {files}")


def write_dataset(call: Callable[[], Any], folder: pathlib.Path) -> None:
    """Writes a dataset in a fork, because the record writer starts threads."""
    from tests.campaigns import processes

    (folder / "writer").mkdir()
    processes.run(call, folder / "writer")
    for path in (folder / "writer", folder / "writer.out", folder / "writer.err"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def damage_files(folder: pathlib.Path, rng: random.Random) -> str:
    """Damages, removes or replaces one or two files in a folder; says which."""
    done = []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in rng.sample(files, min(len(files), rng.choice([1, 1, 2]))):
        raw, kind = path.read_bytes(), rng.random()
        path.unlink()
        if kind > 0.92:
            path.mkdir()
        elif kind > 0.1:
            text = path.suffix == ".json" and rng.random() < 0.5
            path.write_bytes(odd_json(raw, rng) if text else damaged(raw, rng))
        done.append(str(path.relative_to(folder)))
    return ", ".join(done)


def odd_json(raw: bytes, rng: random.Random) -> bytes:
    """JSON with one value replaced by another."""
    try:
        content = json.loads(raw)
    except ValueError:
        return raw
    value: Any = rng.choice(
        [None, True, 0, -1, 2**70, 1e308, "", "x", "../x", "a" * 300, "\0", "\ud800", [], [1, [2]], {}, {"a": 1}]
    )
    if rng.random() < 0.1:
        return json.dumps(value).encode()
    here = content
    while isinstance(here, dict | list) and here:
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        if not isinstance(here[key], dict | list) or not here[key] or rng.random() < 0.2:
            if isinstance(here, dict) and rng.random() < 0.2:
                here[rng.choice(["new", ""])] = here.pop(key)
            else:
                here[key] = value
            break
        here = here[key]
    return json.dumps(content).encode()


class CheckpointFiles(Area):
    """A run's folder with damaged files, checksums included in half of the cases."""

    def make(self) -> None:
        self.base.joinpath("card.md").write_text("card\n")
        train.train_and_evaluate(config_files.load(f"{CONFIG}:single_image", ["steps=6"]), str(self.base / "run"))

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        from rrsr_jax.workdir import integrity

        run = folder / "work" / "run"
        shutil.copytree(self.base / "run", run, ignore=shutil.ignore_patterns("tensorboard", "eval"))
        newest, *older = sorted((run / "checkpoints").iterdir(), key=lambda path: -int(path.name))
        for path in older if rng.random() < 0.5 else ():
            shutil.rmtree(path)
        files = damage_files(rng.choice([run, newest, newest, newest]), rng)
        if rng.random() < 0.5 and newest.is_dir():
            integrity.write_checksums(newest)
        config = f"--config={CONFIG}:single_image"
        case = rng.choice(
            [
                lambda: Case(
                    "evaluation", lambda: run_main("--mode=eval", f"--workdir={run}", "--config.eval.limit=1")
                ),
                lambda: Case(
                    "evaluation", lambda: run_main("--mode=eval", config, f"--workdir={run}", "--config.eval.limit=1")
                ),
                lambda: Case("training", lambda: run_main(config, f"--workdir={run}", "--config.eval.limit=1")),
                lambda: command_case(
                    weights.main, "pack", f"--run={run}", f"--card={self.base / 'card.md'}", "--out=packed"
                ),
                lambda: command_case(weights.main, "export", "--kind=rrsr", f"--source={run}", "--out=a.safetensors"),
                lambda: Case(f"load {run}", lambda: reported(lambda: released.load(run))),
                lambda: Case(f"fingerprint {run}", lambda: reported(lambda: released.fingerprint(run))),
                lambda: Case("figures", lambda: figures.main([f"--workdir={run}", "--images=1", "--out=figures"])),
            ]
        )()
        return case._replace(what=f"{case.what}; {files}", memory=12 * GIB, seconds=COMPILING)


class WeightFiles(Area):
    """Files and folders of weights."""

    def make(self) -> None:
        base, state = self.base, recipe.state_dict("c2_extractor")
        safetensors.numpy.save_file(state, base / "net.safetensors")
        np.savez(base / "net.npz", **state)
        np.savez(base / "objects.npz", a=np.array([object()], dtype=object))
        weights.main(
            ["import", "--kind=correspondence", f"--source={base / 'net.safetensors'}", f"--out={base / 'net'}"]
        )
        try:
            import torch
        except ImportError:
            pass
        else:
            torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, base / "net.pth")

    def case(self, rng: random.Random, folder: pathlib.Path) -> Case:
        inputs, kind = folder / "input", rng.random()
        if kind < 0.25:  # a folder that upscaling takes
            shutil.copytree(released.SHIPPED / released.names()[0], inputs / "weights")
            files = damage_files(inputs / "weights", rng)
            return Case(f"load {files}", lambda: reported(lambda: released.load(inputs / "weights")))
        if kind < 0.35:
            shutil.copytree(self.base / "net", inputs / "net")
            files = damage_files(inputs / "net", rng)
            words = ["export", "--kind=correspondence", f"--source={inputs / 'net'}", "--out=a.safetensors"]
            return command_case(weights.main, *words)._replace(what=f"export; {files}")
        endings = [path.suffix for path in sorted(self.base.glob("net.*[zhs]"))]
        ending = rng.choice(endings)
        raw = (self.base / f"net{ending}").read_bytes()
        if kind < 0.5 and ending == ".safetensors":  # its header, as JSON
            size = int.from_bytes(raw[:8], "little")
            header = odd_json(raw[8 : 8 + size], rng)
            raw = len(header).to_bytes(8, "little") + header + raw[8 + size :]
        elif kind < 0.55:
            raw = (self.base / "objects.npz").read_bytes()
        else:
            raw = damaged(raw, rng)
        path = inputs / f"net{rng.choice([ending, ending, ending, ending, *endings])}"
        path.write_bytes(raw)
        chosen = rng.choice(["correspondence", "correspondence", "correspondence", "vgg19", "rrsr", "discriminator"])
        return command_case(weights.main, "import", f"--kind={chosen}", f"--source={path}", "--out=out")
