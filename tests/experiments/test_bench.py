"""The benchmark of the whole runs all its parts."""

import json

import numpy as np
import pytest

from rrsr_jax.experiments import bench
from rrsr_jax.models.srgan import SRResNet
from tests.helpers import ROOT, images, quick_jit

# ml_collections loads config files so; the message is Python's.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_all_parts_of_the_benchmark(monkeypatch, tmp_path, capsys):
    """In one call, as without `--part`: none may spoil what another one needs."""
    config = tmp_path / "tiny.py"
    config.write_text(
        "from tests.helpers import tiny_config\n\n"
        "def get_config():\n    return tiny_config(model__alignments=(1, 1, 1), model__experts=0)\n"
    )
    monkeypatch.setattr(bench, "SIZES", {"step": 32, "inference": 48, "cufed5": 40})
    monkeypatch.setattr(bench, "MATCHED", (16, 8))
    monkeypatch.setattr(bench, "SAMPLES", 20)
    monkeypatch.syspath_prepend(ROOT)
    bench.main([f"--config={config}", f"--json={tmp_path}/rows.json", "--dtype=float32"])
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


def test_random_parameters_give_finite_results():
    """Running variances, which are among them, are positive."""
    model, (lr,) = SRResNet(features=4, blocks=1), images((1, 6, 6))
    params = bench.random_params(model)
    assert np.isfinite(quick_jit(model.apply)({"params": params}, lr, lr)).all()


def test_configs_that_cannot_be_benchmarked(capsys):
    for arguments, message in (
        ([f"--config={ROOT}/configs/matcher.py:teacher"], "a config of stage rec expected, got one of stage teacher"),
        ([f"--config={ROOT}/configs/masa.py", "--dtype=bfloat16"], "the model masa has no field dtype"),
        ([f"--config={ROOT}/configs/table2.py"], "one of the rows"),
    ):
        with pytest.raises(SystemExit) as end:
            bench.main(arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err
