"""Scripts outside the program run: the figure of the documentation, the launchers."""

import json
import os
import pathlib
import random
import re
import runpy
import signal
import socket
import subprocess
import sys
import time

import kubernetes_validate
import numpy as np
import pytest
import yaml
from PIL import Image

from rrsr_jax import config_files
from rrsr_jax.main import STOPPED
from rrsr_jax.workdir.checkpoints import Checkpoints
from tests.helpers import ROOT, lines

# Small and quick to compile; a file, because the scripts start processes.
TINY = """
from configs import srcnn

def get_config():
    c = srcnn.get_config()
    c.model.features = (6, 4)
    c.data.update(name="embedded", patch=32, warp_range=(1.0, 4.0), threads=1)
    c.eval.update(sets="embedded", crops=2, patch=48, shown=0)
    c.update(batch_size=2, steps=4, log_every=1)
    return c
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY)
    return path


def start(*call, folder="", cwd=ROOT, **environment):
    """A process; programs in `folder` come before others."""
    path = f"{folder}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    return subprocess.Popen(
        list(map(str, call)),
        cwd=cwd,
        env=os.environ | {"PATH": path} | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


@pytest.mark.parametrize("name", ["warp", "example"])
def test_figures_of_the_documentation(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(tmp_path / "drawn.jpg")])
    runpy.run_path(str(ROOT / f"docs/{name}.py"), run_name="__main__")
    with Image.open(tmp_path / "drawn.jpg") as drawn, Image.open(ROOT / f"docs/{name}.jpg") as kept:
        assert np.abs(np.asarray(drawn, float) - np.asarray(kept, float)).mean() < (2 if name == "warp" else 0.5)


def fake(folder, name, script):
    """A program in place of one that only a cluster has."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}")
    (folder / name).chmod(0o755)


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def check_two_processes(output, workdir):
    """They share each batch, and one of them writes."""
    assert "on 2 cpu device(s)" in output
    assert [line["step"] for line in lines(workdir)] == [1, 2]
    assert json.loads((workdir / "results.json").read_text())["step"] == 2


def test_two_processes_on_this_machine(config, tmp_path):
    run = "launch/local.sh", 2, config, tmp_path / "run", "--config.steps=2", "--config.model.features=(4, 4)"
    output = finish(start(*run, PORT=free_port()))
    assert "process 1 of 2: waiting for all of them" in output
    check_two_processes(output, tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["features"] == [4, 4]


def test_the_processes_of_this_machine_end_together(config, tmp_path):
    process = start("launch/local.sh", 2, config, tmp_path, "--config.steps=100000", PORT=free_port())
    while len(lines(tmp_path)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = finish(process, STOPPED)
    assert f"stopped and saved at step {Checkpoints(tmp_path).latest()};" in output
    process = start("launch/local.sh", 2, config, tmp_path, PORT=free_port())
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(pids := children.read_text().split()) < 2:
        time.sleep(0.01)
    os.kill(int(pids[1]), signal.SIGKILL)
    process.communicate(timeout=60)  # JAX waits longer
    assert process.returncode == 128 + signal.SIGKILL


def test_a_job_of_two_tasks(config, tmp_path):
    """`srun` starts them with the environment of SLURM."""
    task = "SLURM_PROCID=$n SLURM_LOCALID=$n SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost"
    fake(tmp_path, "srun", f'for n in 0 1; do {task} "$@" & done\nwait %1 && wait %2\n')
    run = "launch/slurm.sbatch", config, tmp_path / "run", "--config.steps=2"
    output = finish(start(*run, folder=tmp_path, SLURM_JOB_ID=random.randrange(4096)))
    check_two_processes(output, tmp_path / "run")


@pytest.mark.parametrize(("number", "queued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_job_whose_time_ends_is_queued_again(tmp_path, number, queued):
    """A preempted one is queued by SLURM. In both cases the script waits until the tasks have saved."""
    fake(tmp_path, "srun", "trap 'sleep 0.5; echo saved; exit' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n")
    fake(tmp_path, "scancel", 'echo scancel "$@"\nkill "$(< pid)"\n')
    fake(tmp_path, "scontrol", 'echo scontrol "$@"\n')
    job = start(ROOT / "launch/slurm.sbatch", "CONFIG", "WORKDIR", folder=tmp_path, cwd=tmp_path, SLURM_JOB_ID=7)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    job.send_signal(number)
    if not queued:  # SLURM sends it to the tasks, too
        os.kill(int((tmp_path / "pid").read_text()), number)
    said = finish(job).splitlines()
    assert said == (["scancel --signal=TERM 7", "saved", "scontrol requeue 7"] if queued else ["saved"])


@pytest.mark.parametrize(("tasks", "shown"), [(1, "0,1,2,3"), (4, "none")])
def test_one_task_a_node_has_all_its_gpus(tmp_path, tasks, shown):
    fake(tmp_path, "srun", "echo ${JAX_LOCAL_DEVICE_IDS:-none}\n")
    job = dict(SLURM_JOB_ID=7, SLURM_GPUS_ON_NODE=4, SLURM_NTASKS_PER_NODE=tasks)
    assert finish(start("launch/slurm.sbatch", "CONFIG", "WORKDIR", folder=tmp_path, **job)).split() == [shown]


def test_all_workers_of_a_tpu_pod(tmp_path):
    """Arguments come through the shells in between as they are."""
    fake(tmp_path, "gcloud", 'echo "${@:1:7}"\ncd "$HOME"\nexec bash -c "${8#--command=}"\n')
    (tmp_path / "my project/.venv/bin").mkdir(parents=True)
    fake(tmp_path / "my project/.venv/bin", "python", 'echo "$PWD"\nprintf "%s\\n" "$@"\n')
    where = dict(TPU="pod", ZONE="zone", FOLDER="my project", HOME=tmp_path)
    run = "launch/tpu_pod.sh", "configs/demo.py", "/nfs/a run", "--config.model.blocks=(1, 2)"
    said = finish(start(*run, folder=tmp_path, **where)).splitlines()
    assert said == [
        "compute tpus tpu-vm ssh pod --zone=zone --worker=all",
        f"{tmp_path}/my project",
        *("-m", "rrsr_jax.main", "--config=configs/demo.py", "--workdir=/nfs/a run", "--config.model.blocks=(1, 2)"),
        "--distributed",
    ]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_job_sets_fit_kubernetes_and_the_program():
    """The parts that are Kubernetes' own, by its schemas; what JobSet adds, by name; the arguments, by the program."""
    tpu, gpu = yaml.safe_load_all((ROOT / "launch/gke_jobset.yaml").read_text())
    for job_set in (tpu, gpu):
        assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        assert set(job_set) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(job_set["spec"]) <= {"failurePolicy", "network", "replicatedJobs"}
        (workers,) = job_set["spec"]["replicatedJobs"]
        assert set(workers) == {"name", "replicas", "template"}
        assert set(workers["template"]) == {"spec"}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": job_set["metadata"], **workers["template"]}
        kubernetes_validate.validate(job, "1.30", strict=True)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        command = dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])
        overrides = [argument.removeprefix("--config.") for argument in container["args"] if "--config." in argument]
        config = config_files.load(str(ROOT / command["config"]), overrides)
        hosts, (devices,) = job["spec"]["parallelism"], container["resources"]["limits"].values()
        assert job["spec"]["completions"] == hosts
        assert config.batch_size % (hosts * devices) == 0
        given = {"config", "workdir", "distributed"} | (
            {"coordinator", "processes", "process"} if job_set is gpu else set()
        )
        assert {name for name in command if not name.startswith("config.")} == given
    assert command["processes"] == str(hosts)
    name = gpu["metadata"]["name"]
    assert command["coordinator"].startswith(f"{name}-{workers['name']}-0-0.{name}:")
    assert command["process"] == f"$({container['env'][0]['name']})"


def test_the_image_starts_the_program():
    """Its folders are there, and the job sets use its names."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert f"ENTRYPOINT {json.dumps(['python', '-m', 'rrsr_jax.main'])}" in lines
    tags = {tag for line in lines for tag in re.findall(r"--tag=(\S+)", line)}
    images = set(re.findall(r"image: (\S+)", (ROOT / "launch/gke_jobset.yaml").read_text()))
    assert images == tags == {"rrsr_jax:cuda12", "rrsr_jax:tpu"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"rrsr_jax", "kernels", "configs", "setup.cfg", "pyproject.toml", "README.md"} & set(ignored)


# Takes the place of `python3`: notes its arguments, writes figures, and says that the kernels are wrong here.
PRETENDED = """#!/usr/bin/env bash
echo "$@" >> calls
case "$1" in -) exec "$PYTHON" "$@" ;; esac
figures='{"about": {"device": "a GPU"}, "rows": [{"a": 1.23456, "b": "c"}]}'
for argument in "$@"; do
    case "$argument" in --json=*) echo "$figures" > "${argument#--json=}" ;; esac
done
case "$*" in *default_implementation*) exit 1 ;; esac
"""


def test_the_day_on_a_gpu(tmp_path):
    program = tmp_path / "programs/python3"
    program.parent.mkdir()
    program.write_text(PRETENDED.replace(">> calls", f">> {tmp_path}/calls"))
    program.chmod(0o755)

    def day(status, **environment):
        script, environment = ROOT / "kernels/gpu_day.sh", {"PYTHON": sys.executable} | environment
        process = start(script, "out", folder=program.parent, cwd=tmp_path, **environment)
        said = process.communicate(timeout=100)[0]
        assert process.returncode == status, said
        return said, (tmp_path / "calls").read_text()

    said, calls = day(1)
    assert "selfcheck: FAILED with status 1" in said
    commands = re.findall(r"^-m (\S+).*$", calls, re.MULTILINE)
    bench = ["kernels.bench", *["rrsr_jax.experiments.bench"] * 2]
    assert commands == ["pytest", *bench, *bench, "kernels.tune"]
    content = json.loads((tmp_path / "out/gpu.json").read_text())
    assert content["failed"] == ["selfcheck"]
    tables = (tmp_path / "out/gpu.md").read_text()
    for name in ("kernels_float32", "step_bfloat16", "inference_float32", "blocks"):
        assert content["parts"][name]["rows"] == [{"a": 1.23456, "b": "c"}]
        assert f"## {name}\n\ndevice a GPU\n\n| a | b |\n| --- | --- |\n| 1.23 | c |" in tables
    (tmp_path / "calls").unlink()
    _, calls = day(0, ONLY="blocks")
    assert re.findall(r"^-m (\S+)", calls, re.MULTILINE) == ["kernels.tune"]
    assert len(json.loads((tmp_path / "out/gpu.json").read_text())["parts"]) == len(content["parts"])
