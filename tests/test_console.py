"""How commands end: one message, the exit status, and nothing lost when a signal comes."""

import errno
import signal
import subprocess
import sys

import pytest

from rrsr_jax import console
from rrsr_jax.errors import InputError
from tests.helpers import ROOT, finish


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("no such thing"), "error: no such thing"),
        (FloatingPointError("step 3: not finite"), "error: step 3: not finite"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "free space and give the same command again"),
        (OSError(errno.EIO, "Input/output error", "a"), "error: [Errno 5] Input/output error: 'a'; mend that"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            "error: [Errno 13] Permission denied: 'a'; mend that",
        ),
        (MemoryError("4 GiB"), "error: not enough memory (4 GiB); use smaller images"),
        (MemoryError(), "error: not enough memory; use smaller images"),
    ],
)
def test_what_lies_outside_the_program_is_one_message(error, message, capsys):
    with pytest.raises(SystemExit) as stopped, console.exit_on_error():
        raise error
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), console.exit_on_error():
        1 / 0  # noqa: B018


def test_a_name_that_is_no_text_can_be_printed():
    code = "from rrsr_jax.console import exit_on_error\nwith exit_on_error(): print('a\\udce4.png')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert process.stdout == "a\\udce4.png\n"


# What the command does while the signal comes.
WAITING = {
    "work": "time.sleep(60)",
    "a callback, in which exceptions are lost": """
class Held:
    def __del__(self):
        time.sleep(60)
Held()
time.sleep(60)
""",
    "code that drops exceptions": """
try:
    time.sleep(60)
except BaseException:
    pass
time.sleep(60)
""",
    "code that makes another exception of it": """
try:
    time.sleep(60)
except BaseException as error:
    raise TypeError from error
""",
    "a step, asked a second time": """
with console.StopRequest() as stop:
    signal.raise_signal(signal.SIGTERM)
    assert stop.received()
    time.sleep(60)
""",
}


def test_a_signal_on_the_way_out_of_a_command(tmp_path):
    """It comes before the command's own handling of it begins again, or when that is over."""
    for late in "raise console.Interrupt", "signal.raise_signal(signal.SIGINT)":
        code = (
            "import signal\nfrom rrsr_jax import console\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"with console.exit_on_error('a part is left'): pass\n{late}"
        )
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert (process.returncode, process.stderr) == (130, "interrupted; a part is left\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waiting", WAITING)
def test_signals_end_a_command_with_a_message(waiting, number, tmp_path):
    lines = "".join(f"        {line}\n" for line in WAITING[waiting].strip().splitlines())
    code = f"""
import pathlib, signal, sys, time
from rrsr_jax import console
with console.exit_on_error(interrupted="a part is left"):
    try:
        print("ready", flush=True)
{lines}
    finally:
        pathlib.Path("cleaned").touch()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    status, _, err = finish(process, 60)
    assert err == "interrupted; a part is left\n"
    assert status == 130
    assert (tmp_path / "cleaned").exists()
