"""The benchmark of the kernels measures what it says."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import bench, modulated_deform_conv
from rrsr_jax.experiments import bench as whole_bench
from tests.helpers import ROOT

# ml_collections loads config files so; the message is Python's.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
TINY = bench.Shape(batch=2, size=9, channels=16, layers=3)


def test_the_definition_beside_ours_is_the_same_operation():
    arguments = bench.inputs(TINY)
    for f in (bench.direct, modulated_deform_conv):
        y, vjp = jax.vjp(f, *arguments)
        gradients = [y, *vjp(y)]
        if f is bench.direct:
            expected = gradients
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_floors_count_every_array_once():
    arguments = bench.inputs(TINY)
    arrays = [a for a in arguments if a.ndim > 1]  # the bias is nothing
    y = modulated_deform_conv(*arguments)
    forward, both = (bench.floor(TINY, passes, 4) for passes in bench.PASSES)
    assert forward.bytes == sum(a.nbytes for a in arrays) + y.nbytes
    assert both.bytes - forward.bytes == 2 * sum(a.nbytes for a in arrays) + y.nbytes
    assert bench.floor(TINY, "forward", 2).bytes < forward.bytes
    dense = 2 * y.size * 9 * TINY.channels
    assert dense < forward.operations < 1.5 * dense + 81 * y.size
    assert forward.plain_bytes > 9 * forward.bytes


def test_any_function_can_be_compiled_and_timed():
    a = np.ones((8, 16), np.float32)
    product = bench.timed(lambda a, b: a @ b, a, a.T)
    both = bench.timed(bench.with_gradients(lambda a, b: a @ b), a, a.T)
    assert product.operations >= 2 * 8 * 16 * 8 - 8 * 8
    assert both.operations > 2.5 * product.operations
    seconds = bench.in_turns({"product": product, "both": both}, 1)
    assert all(0 < value < 60 for value in seconds.values())


def test_kernel_benchmark(monkeypatch, tmp_path, capsys):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(bench, "SHAPES", {"tiny": TINY, "other": TINY})
    monkeypatch.setattr(bench, "machine", lambda dtype: (1e10, 1e11))
    monkeypatch.setattr(
        sys, "argv", ["bench", "--shapes=tiny", "--repeats=1", f"--json={path}", "--implementations=xla,direct"]
    )
    bench.main()
    rows = json.loads(path.read_text())["rows"]
    assert [(r["shape"], r["pass"], r["implementation"]) for r in rows] == [
        ("tiny", passes, name) for passes in bench.PASSES for name in ("xla", "direct")
    ]
    assert all(0 < r["percent_of_floor"] < 100 and r["temporary_mib"] > 0 for r in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


def test_floors_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--floors"])
    bench.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * len(bench.SHAPES)


def test_a_step_that_donates_its_state_is_timed():
    """As the training step does: the first argument is gone after a run, the first result takes its place."""

    def step(state, x):
        return {"n": state["n"] + x}, state["n"]

    function = bench.timed(jax.jit(step, donate_argnums=0), {"n": jnp.zeros(3)}, jnp.ones(3), carry=True)
    for count in range(3):
        _, before = function.run()
        np.testing.assert_array_equal(before, count)
    assert function.compile_seconds > 0
    assert function.temporary_bytes is not None


def test_all_parts_of_the_benchmark(monkeypatch, tmp_path, capsys):
    """In one call, as without `--part`: none may spoil what another one needs."""
    config = tmp_path / "tiny.py"
    config.write_text(
        "from tests.helpers import tiny_config\n\n"
        "def get_config():\n    return tiny_config(model__alignments=(1, 1, 1), model__experts=0)\n"
    )
    monkeypatch.setattr(whole_bench, "SIZES", {"step": 32, "inference": 48, "cufed5": 40})
    monkeypatch.setattr(whole_bench, "MATCHED", (16, 8))
    monkeypatch.setattr(whole_bench, "SAMPLES", 20)
    monkeypatch.syspath_prepend(ROOT)
    whole_bench.main([f"--config={config}", f"--json={tmp_path}/rows.json", "--dtype=float32"])
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["about"]["match_dtype"] == "float32"
    names = [row["what"] for row in written["rows"]]
    assert [name for name in names if "PyTorch" not in name] == [
        "reciprocal step, 32 x 32",
        "12 x 12 to 48 x 48",
        "10 x 10 to 40 x 40, one reference",
        "the same, five references",
        "matching 16 x 16 on 16 x 16, exact",
        "matching 16 x 16 on 16 x 16, bfloat16",
        "matching 16 x 16 on 16 x 16, coarse to fine, factor 4",
        next(name for name in names if name.startswith("input pipeline")),
    ]
    assert all(row.get("seconds", row.get("samples_per_second_and_core")) > 0 for row in written["rows"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(names)


def test_configs_that_cannot_be_benchmarked(capsys):
    for arguments, message in (
        ([f"--config={ROOT}/configs/matcher.py:teacher"], "a config of stage rec expected, got one of stage teacher"),
        ([f"--config={ROOT}/configs/masa.py", "--dtype=bfloat16"], "the model masa has no field dtype"),
        ([f"--config={ROOT}/configs/table2.py"], "one of the rows"),
    ):
        with pytest.raises(SystemExit) as end:
            whole_bench.main(arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err
