"""The choice of block sizes: what is tried, and how it is told."""

import json

import pytest

from kernels import bench, tune
from kernels.blocks import Blocks, blocks_for

TINY = bench.Shape(batch=1, size=5, channels=16, layers=1)
LAUNCHES = """
001: kCustomKernel [source | sink] deform_conv_forward_kernel grid: [7200, 1, 1] threads: [256, 1, 1]  shared_memory: 24576 bytes
002: kCustomKernel [source | sink] deform_conv_data_kernel grid: [7200, 1, 1] threads: [128, 1, 1]  shared_memory: 0 bytes
"""
REPORTS = """ptxas info    : Compiling entry function 'deform_conv_forward_kernel' for 'sm_90a'
ptxas info    : Function properties for deform_conv_forward_kernel
    176 bytes stack frame, 216 bytes spill stores, 180 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 176 bytes cumulative stack size
ptxas info    : Compiling entry function 'deform_conv_data_kernel' for 'sm_90a'
ptxas info    : Function properties for deform_conv_data_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
"""


def test_what_a_compiler_says_of_the_kernels():
    found = tune.kernels_in(LAUNCHES, REPORTS)
    assert found == {"forward": tune.Compiled(255, 216, 24576, 256), "data": tune.Compiled(64, 0, 0, 128)}
    assert [kernel.occupancy for kernel in found.values()] == [256 / 2048, 1024 / 2048]
    assert tune.Compiled(32, 0, 100_000, 1024).occupancy == 1.0  # two programs, by threads and by shared memory
    assert tune.Compiled(32, 0, 120_000, 1024).occupancy == 0.5
    assert tune.Compiled(16, 0, 0, 32).occupancy == 0.5  # 32 programs at most


@pytest.fixture
def ran(monkeypatch):
    """Kernels that do nothing; the choice of each call."""
    calls = []

    def pretended(x, offset, mask, weight, *, stride, padding, dilation, choice):
        calls.append(choice)
        if choice.data.pixels == 16 and choice.data.warps == 2:
            raise RuntimeError("too large\nmore")
        return (x * mask[..., 0, :1] + offset[..., 0, 0, :1]) @ weight[0, 0]

    monkeypatch.setattr(tune, "sample_and_multiply", pretended)
    monkeypatch.setattr(tune, "VARIANTS", [Blocks(16, 16, 16, 4), Blocks(16, 16, 16, 2), Blocks(16, 32, 16, 2)])
    return calls


def test_every_variant_is_measured_in_each_kernel(ran):
    rows, chosen = list(tune.measure(TINY, "float32", 1)), blocks_for(TINY.channels, "float32")
    found = {(row["kernel"], *(row[field] for field in Blocks._fields)): row for row in rows}
    assert len(found) == len(rows) == 9
    for kernel in ("forward", "data", "weight"):
        for blocks in (getattr(chosen, kernel), *tune.VARIANTS[:2]):
            row = found[kernel, *blocks]
            if kernel == "data" and blocks.warps == 2:
                assert row["error"] == "too large"
            else:
                assert row["milliseconds"] > 0
            assert chosen._replace(**{kernel: blocks}) in ran
    for kernel in ("forward", "data", "weight"):  # the fastest first
        times = [row["milliseconds"] for row in rows if row["kernel"] == kernel and "error" not in row]
        assert times == sorted(times)


def test_command(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tune.main([])
    assert "a CUDA GPU expected, JAX runs on cpu; or name a GPU" in capsys.readouterr().err
    asked = []

    def compiled_for(gpu, shape, dtype, blocks, ptxas):
        asked.append((gpu, shape.channels, dtype, blocks))
        return tune.kernels_in(LAUNCHES, REPORTS)

    monkeypatch.setattr(tune, "compiled_for", compiled_for)
    tune.main(["--ahead-of-time=H200", "--channels", "64", "--dtypes", "float32", f"--json={tmp_path / 'f.json'}"])
    header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert header == "| layer | dtype | pixels | channels | outs | warps | forward | data |"
    chosen = blocks_for(64, "float32").forward
    assert first.startswith(
        f"| 64 | float32 | {' | '.join(map(str, chosen))} | 255 registers, 216 B spilled, 24 KiB, 12 %"
    )
    assert asked[0] == ("H200", 64, "float32", chosen)
    assert len(asked) == len(set(asked)) > 10
    assert len(json.loads((tmp_path / "f.json").read_text())["rows"]) == len(asked)
