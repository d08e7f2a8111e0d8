"""The benchmark of the kernels measures what it says."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from kernels import bench, modulated_deform_conv

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
