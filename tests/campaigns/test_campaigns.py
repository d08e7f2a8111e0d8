"""The campaigns in short, as processes: they fork, which a process that runs JAX must not do."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.campaigns import disks
from tests.helpers import ROOT


def run(module, *arguments):
    call = [sys.executable, "-m", f"tests.campaigns.{module}", *map(str, arguments)]
    ended = subprocess.run(call, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_kills(tmp_path):
    quick = "prepare", "upscale", "weights import"
    assert "12 kills, 0 faults" in run("kills", "--count=12", "--works", *quick, f"--folder={tmp_path}")


def test_kills_of_a_training_run(tmp_path):
    assert "2 kills, 0 faults" in run("kills", "--count=2", "--works", "single_image", f"--folder={tmp_path}")


def test_bad_input(tmp_path):
    areas = "photographs", "weights", "records", "commands"
    said = run("bad_input", "--count=100", "--jobs=1", "--areas", *areas, f"--folder={tmp_path}")
    assert re.search(r"^\d+ cases, 0 faults", said, re.MULTILINE), said


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_disks(tmp_path):
    said = run("disks", "--count=16", "--works", "prepare", "upscale", "weights import", f"--folder={tmp_path}")
    assert "15 calls failed, 0 faults" in said
    assert disks.SOURCE.is_file()


def test_concurrency(tmp_path):
    pairs = "two prepares", "two upscales", "two imports"
    assert "3 pairs, 0 faults" in run("concurrency", "--count=3", "--pairs", *pairs, f"--folder={tmp_path}")


# Faults of the program, each with the campaign that must find it, and what that must say.
PLANTED = {
    "half of a file under its name": (
        "kills --count=25 --works upscale",
        "FAULT upscale",
        """
from rrsr_jax.data import pictures
def write(path, data, force):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.05)
        file.write(data[len(data) // 2 :])
pictures._write = write
""",
    ),
    "a file outside": (
        "bad_input --count=8 --jobs=1 --areas photographs",
        "changed outside: ",
        """
from rrsr_jax.errors import InputError
InputError.__init__ = lambda self, *arguments: pathlib.Path("../written").touch()
""",
    ),
    "an error of the disk that is not told": (
        "disks --count=8 --works upscale",
        "success another outcome",
        """
from rrsr_jax.data import pictures
original = pictures._write
def write(*arguments):
    with contextlib.suppress(OSError, pictures.InputError):
        original(*arguments)
pictures._write = write
""",
    ),
    "two writers": (
        "concurrency --count=6 --pairs 'two prepares'",
        "FAULT two prepares",
        """
from rrsr_jax.workdir import lock
lock.only_writer = lambda path, what: contextlib.nullcontext(path.parent.mkdir(parents=True, exist_ok=True))
""",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_is_found(fault, tmp_path):
    """The campaigns are not blind."""
    command, said, broken = PLANTED[fault]
    name, *arguments = shlex.split(command)
    environment = {**os.environ}
    if name == "disks":
        if shutil.which("cc") is None:
            pytest.skip("needs a C compiler")
        environment["LD_PRELOAD"] = str(disks.compile_layer(tmp_path))
    code = (
        f"import contextlib, pathlib, sys, time\n{broken}\nfrom tests.campaigns import {name}\nsys.exit({name}.main())"
    )
    call = [sys.executable, "-c", code, *arguments, f"--folder={tmp_path}"]
    ended = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert said in ended.stdout
