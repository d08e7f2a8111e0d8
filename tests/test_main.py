"""The command line: interruption and resumption, bad flags, a full disk."""

import os
import pathlib
import signal
import socket
import time

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from rrsr_jax import main, processes
from rrsr_jax.errors import InputError
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import has_checkpoint
from tests.helpers import ROOT, finish, lines


def params(workdir):
    return Checkpoints(pathlib.Path(workdir)).read_state().generator


@pytest.mark.timeout(1200)
def test_killed_runs_end_like_an_uninterrupted_one(command, tmp_path):
    def wait_for(workdir, count, process):
        while len(lines(workdir)) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    assert finish(command(f"--workdir={tmp_path}/whole"))[0] == 0

    killed = tmp_path / "killed"
    process = command(f"--workdir={killed}")
    wait_for(killed, 25, process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    stopped = lines(killed)[-1]["step"]
    assert code == main.STOPPED
    assert f"stopped and saved at step {stopped}" in err
    assert 25 <= stopped < 150
    assert Checkpoints(killed).latest() == stopped

    process = command(f"--workdir={killed}")
    wait_for(killed, stopped + 15, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    stopped = lines(killed)[-1]["step"]
    assert code == main.STOPPED
    assert f"stopped and saved at step {stopped}" in err

    process = command(f"--workdir={killed}")
    wait_for(killed, stopped + 15, process)
    process.kill()
    finish(process)

    code, out, err = finish(command(f"--workdir={killed}"))
    assert code == 0, err
    assert "unrelated" in out
    assert [line["step"] for line in lines(killed)] == list(range(1, 151))
    jax.tree.map(np.testing.assert_array_equal, params(killed), params(tmp_path / "whole"))


def test_a_full_disk_stops_a_run(command, tmp_path):
    limit = "bash", "-c", 'ulimit -f 64; exec "$@"', "bash"  # KiB of a file; metrics stay below
    code, _, err = finish(command(f"--workdir={tmp_path}", prefix=limit))
    assert code == 2
    assert f"error: cannot save checkpoint 10 to {tmp_path}/checkpoints: File too large; there is none before it" in err
    assert len(lines(tmp_path)) < 30
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--mode=eval"], "error: no checkpoint in"), ([], "--config=None: a file is needed")]
)
def test_a_command_without_config_or_checkpoint(command, tmp_path, arguments, message):
    code, _, err = finish(command(f"--workdir={tmp_path}/run", *arguments, config=None))
    assert code != 0
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.batchsize=3"], "batch_size"),
        (["--config.batch_size=three"], "three"),
        (["--config.model.featurs=3"], "features"),
        (["--mode=test"], "train|eval"),
        (["--distributed"], "--distributed: a job of SLURM, Open MPI or a TPU pod expected, found none"),
        (["--distributed", "--coordinator=127.0.0.1:8476", "--process=2"], "error: --coordinator, --processes and"),
        (["--processes=0"], "--processes=0"),
        (["--config.model.name=vdsr"], "config.model.name: one of rrsr, c2_matching, "),
        (["--config.model.name=edsr"], "config.model: edsr has no alignments, "),
    ],
)
def test_wrong_command_lines(command, tmp_path, arguments, message):
    code, _, err = finish(command(f"--workdir={tmp_path}/run", *arguments))
    assert code != 0
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


HERE = "127.0.0.1:8476"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((False, HERE, None, 1), "--coordinator, --process: only with --distributed"),
        (
            (True, HERE, None, None),
            "--coordinator, --processes and --process belong together; add --processes, --process",
        ),
        ((True, None, 2, 0), "belong together; add --coordinator"),
        ((True, "127.0.0.1", 2, 0), "--coordinator: HOST:PORT of process 0 expected, such as .*, got 127.0.0.1"),
        ((True, "host:port", 2, 0), "got host:port"),
        ((True, HERE, 2, 2), "--process: 0 to 1 expected, as --processes=2, got 2"),
    ],
)
def test_wrong_ways_to_join_other_processes(flags, message, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR"))]:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=message):
        processes.join(*flags)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"--coordinator=127.0.0.1:{port}: process 0 cannot listen .*another port"
        ):
            processes.join(True, f"127.0.0.1:{port}", 2, 0)


def test_the_paper_run_without_its_data(command, tmp_path):
    flags = f"--workdir={tmp_path}/run", f"--config.data.dir={tmp_path}", "--config.eval.sets="
    process = command(*flags, "--config", str(ROOT / "configs/cufed5.py"), config=None)  # in any order
    code, _, err = finish(process, timeout=60)
    assert code == 2
    assert (
        f"prepare it: python -m rrsr_jax.data.prepare --dataset=cufed --source=DIR --data_dir={tmp_path}, DIR with"
        in err
    )
    assert "input/*.png and ref/*.png with equal names, 11,871 pairs of 160x160 pixels" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    "arguments", [["--nothing"], ["--mode=test"], ["--config.steps=x"], ["here"], ["--config=none.py"], ["--workdir"]]
)
def test_wrong_words_are_one_message_and_status_2(arguments, monkeypatch, capsys):
    argv = ["main", f"--config={ROOT}/configs/demo.py", "--workdir=nowhere", *arguments]
    monkeypatch.setattr("sys.argv", argv)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
        main.parse(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "FATAL" not in said
