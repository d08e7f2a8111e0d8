"""What a step exchanges, and what follows from it."""

import os
import re
import subprocess
import sys
import types

import jax
import pytest
from jax.experimental import topologies

from rrsr_jax.experiments import scale
from tests.helpers import ROOT, tiny_config, tiny_rrsr

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections


def test_collectives_are_counted():
    """Lines as XLA writes them for CPUs, GPUs and TPUs."""
    text = """
  %all-reduce.1 = (f32[64]{0}, bf16[3,3,64,8]{3,2,1,0:T(8,128)(2,1)}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %all-reduce-start.2 = f32[] all-reduce-start(%c), channel_id=2, to_apply=%add
  %all-reduce-done.2 = f32[] all-reduce-done(%all-reduce-start.2)
  ROOT %all-gather-start = (pred[8]{0}, pred[32]{0}) all-gather-start(pred[8]{0} %d), dimensions={0}
  %fusion = f32[9]{0} fusion(%all-reduce.1), kind=kLoop, calls=%fused
"""
    assert scale.collectives(text) == {"all-reduce": (2, 64 * 4 + 9 * 64 * 8 * 2 + 4), "all-gather": (1, 32)}


def test_the_batch_where_communication_takes_a_tenth():
    program = scale.Program({"all-reduce": (1, 10**9)}, 0, 0, operations=10**12)
    link = scale.Link(operations=1e14, bytes=1e11)
    batch = scale.smallest_batch(program, 4, link)
    sending, computing = 2 * 3 / 4 * 1e9 / 1e11, batch * 1e12 / 1e14
    assert sending / (sending + computing) == pytest.approx(0.1)


def test_command_on_two_and_four_devices(tmp_path):
    """Only gradients and metrics are exchanged: their bytes, whatever the number of devices and images; no features."""
    config = tmp_path / "tiny.py"
    config.write_text("from tests.helpers import tiny_config\n\ndef get_config():\n    return tiny_config()\n")
    call = [sys.executable, "-m", "rrsr_jax.experiments.scale", f"--config={config}", "--dtype=float32"]
    done = subprocess.run(
        [*call, "--devices", "2", "4"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if " x cpu | float32" in line]
    assert [r[0] for r in rows] == ["2 x cpu", "4 x cpu"]
    state = jax.eval_shape(
        lambda: scale.create_state(tiny_config(), scale.initialise_model(tiny_rrsr(), jax.random.key(0)))
    )
    trained = sum(a.size for a in jax.tree.leaves(state.opt_state["generator"][0].mu))
    for cells in rows:
        number, size = re.fullmatch(r"(\d+) all-reduce, ([\d.]+) MB", cells[3]).groups()
        assert int(number) <= 2
        assert float(size) == pytest.approx(4 * (trained + 3) / 1e6, abs=0.006)
    assert len([line for line in done.stdout.splitlines() if "cpu, float32" in line]) == 2


def srcnn(tmp_path):
    """A config of a model that compiles at once."""
    path = tmp_path / "tiny.py"
    path.write_text(
        "from configs import srcnn\n\ndef get_config():\n    c = srcnn.get_config()\n"
        "    c.model.features, c.data.patch = (4, 4), 32\n    return c\n"
    )
    return f"--config={path}"


def test_command_for_a_topology(tmp_path, monkeypatch, capsys):
    """With CPUs in place of TPUs, whose compiler only `jax[tpu]` has."""
    asked = []

    def topology(platform, topology_name):
        asked.append((platform, topology_name))
        return types.SimpleNamespace(devices=jax.devices("cpu")[:1])

    monkeypatch.setattr(topologies, "get_topology_desc", topology)
    monkeypatch.syspath_prepend(ROOT)
    scale.main([srcnn(tmp_path), "--topology", "v5e:2x4", "--dtype", "float32", "--batch", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert asked == [("tpu", "v5e:2x4")]
    assert len([line for line in lines if line.startswith("| v5e:2x4 | float32 | 2 | ")]) == 1
    assert "| v5e:2x4, float32 | 0 | 0 | 0 | 0 |" in lines  # one device sends nothing


def test_a_topology_that_cannot_be_had(tmp_path, monkeypatch, capsys):
    def topology(platform, topology_name):
        raise RuntimeError("no libtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", topology)
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(SystemExit):
        scale.main([srcnn(tmp_path), "--topology", "v5e:9x9"])
    assert (
        "--topology=v5e:9x9: a TPU slice such as v5e:2x4 expected, and jax[tpu] in the environment; got no libtpu"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--devices or --topology: at least one expected"),
        (["--devices", "0"], "numbers and --batch of at least 1"),
        (["--devices", "100000"], "--devices: at most the "),
        (["--devices", "1", "--config", str(ROOT / "configs/matcher.py:teacher")], "a config of stage rec expected"),
    ],
)
def test_bad_options(arguments, message, capsys):
    jax.devices()  # a process that has its devices
    with pytest.raises(SystemExit):
        scale.main(arguments)
    assert message in capsys.readouterr().err
