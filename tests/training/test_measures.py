"""What a config asks an evaluation to measure."""

import numpy as np
import pytest
import safetensors.numpy

from rrsr_jax.errors import InputError
from rrsr_jax.training import measures
from rrsr_jax.workdir import saved_config
from tests.helpers import tiny_config


def test_lpips_by_a_file_of_weights(tmp_path, golden, state_dict):
    """By torchvision's names, or those of the whole network as its authors' package has it."""
    file, expected, state = tmp_path / "lpips.safetensors", golden("quality"), state_dict("lpips")
    safetensors.numpy.save_file(state, file)
    measured = measures.metrics(tiny_config(eval__lpips=str(file), eval__niqe=True).eval)
    assert measured.names == ("psnr_y", "ssim_y", "gmsd_y", "niqe", "lpips")
    values = measured(expected["a"][0], expected["b"][0], 0)
    assert tuple(values) == measured.names
    assert values["lpips"] == pytest.approx(float(expected["lpips"][0]), rel=1e-4)
    assert np.isnan(values["niqe"])
    assert np.isnan(measured(expected["a"][0], expected["b"][0], 9)["lpips"])  # 14 x 22 pixels are left
    state["lin0.model.1.weight"] *= 2
    slices = {"0": 1, "2": 1, "5": 2, "7": 2, "10": 3, "12": 3, "14": 3, "17": 4, "19": 4, "21": 4}
    whole = {}
    for key, value in state.items():
        _, _, index = key.rpartition("features.")
        number = index.partition(".")[0]
        whole[f"net.slice{slices.get(number, 5)}.{index}" if key.startswith("features.") else key] = value
    safetensors.numpy.save_file(whole | {"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}, file)
    other = measures.metrics(tiny_config(eval__lpips=str(file)).eval)
    assert other.identity[:3] == measured.identity[:3]
    assert other.identity[-1] != measured.identity[-1]


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(
        InputError, match=r"config\.eval\.dists: a file or folder of weights expected, there is no nowhere"
    ):
        measures.metrics(tiny_config(eval__dists="nowhere").eval)
    np.savez(tmp_path / "dists.npz", alpha=np.ones((1, 1475, 1, 1), "f4"), beta=np.ones((1, 1475, 1, 1), "f4"))
    with pytest.raises(InputError, match=r"config\.eval\.dists: (.|\n)*missing: features\.0(.|\n)*--kind=dists"):
        measures.metrics(tiny_config(eval__dists=str(tmp_path / "dists.npz")).eval)
    assert measures.metrics(tiny_config().eval).identity == ["psnr_y", "ssim_y", "gmsd_y"]


def test_configs_of_earlier_runs_measure_what_they_did(monkeypatch):
    """They have none of these fields."""
    before = tiny_config().to_dict()
    for field in ("niqe", "lpips", "dists"):
        del before["eval"][field]
    monkeypatch.setattr(saved_config, "description", lambda workdir: {"config": before})
    assert saved_config.get_config("runs/demo").to_dict() == tiny_config().to_dict()
