"""Weights as PyTorch writes and reads them: every kind from a real .pth file, used, and back."""

import numpy as np
import pytest

from rrsr_jax import models, weights
from rrsr_jax.weights import __main__ as cli
from rrsr_jax.weights.kinds import find
from rrsr_jax.weights.readers import read
from tests.golden import recipe
from tests.helpers import as_float, quick_jit, relative_error
from tests.weights.test_layouts import basicsr, first_esrgan
from tests.weights.test_weights import same_bits

torch = pytest.importorskip("torch", reason="PyTorch is an extra")


def published(layout):
    """A state dict of the published names and shapes, NumPy arrays."""
    state = recipe.state_dict(layout)
    # TTSR's second extractor is a copy of the first.
    return state | {k.replace("LTE.", "LTE_copy."): v for k, v in state.items() if k.startswith("LTE.")}


def save(file, state, wrap=lambda state: state, **options):
    torch.save(wrap({name: torch.from_numpy(value) for name, value in state.items()}), file, **options)


def through_the_command(kind, file):
    """The folder that the command imports `file` to, and the tensors that PyTorch reads from what it exports."""
    from safetensors.torch import load_file

    folder, exported = file.with_suffix(""), file.with_suffix(".safetensors")
    cli.main(["import", f"--kind={kind}", f"--source={file}", f"--out={folder}"])
    cli.main(["export", f"--kind={kind}", f"--source={folder}", f"--out={exported}"])
    return folder, load_file(exported)


@pytest.mark.parametrize("layout", recipe.KEYS)
def test_every_kind_from_a_pth_file_and_back(layout, tmp_path):
    state, kind = published(layout), find(layout).name
    save(tmp_path / "x.pth", state)
    folder, back = through_the_command(kind, tmp_path / "x.pth")
    same_bits(weights.load(kind, folder), weights.from_torch(kind, state))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], torch.from_numpy(value)), name
        assert back[name].dtype == torch.from_numpy(value).dtype


def test_an_imported_network_computes_what_the_published_one_does(tmp_path, golden):
    """The golden result is of PyTorch, with these weights."""
    save(
        tmp_path / "x.pth", published("ranksrgan"), _use_new_zipfile_serialization=False
    )  # as checkpoints of before 2020
    folder, _ = through_the_command("ranksrgan", tmp_path / "x.pth")
    expected = as_float(golden("ranksrgan"))
    params = weights.load("ranksrgan", folder)
    sr = quick_jit(models.published("ranksrgan").apply)({"params": params}, expected["lr"], expected["lr"])
    assert relative_error(sr, expected["sr"]) < 1e-4


@pytest.mark.parametrize("rename", [str, basicsr, first_esrgan], ids=["present", "basicsr", "first"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"params_ema": state, "params": {}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"params": {name: torch.nn.Parameter(value) for name, value in state.items()}},
    ],
    ids=["bare", "params_ema", "state_dict", "params"],
)
def test_names_and_wrappers_of_esrgan(rename, wrap, tmp_path):
    """With blocks as narrow as can be told apart: the names count, not the values."""
    state = {name: value[:2] for name, value in published("esrgan").items()}
    save(tmp_path / "x.pth", {rename(name): value for name, value in state.items()}, wrap)
    got = find("esrgan").renamed(read(tmp_path / "x.pth"))
    assert got.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype, tmp_path):
    """Of tensors that share their memory, or are parts of larger ones, too."""
    whole = torch.arange(24, dtype=dtype).reshape(4, 6)
    torch.save({"whole": whole, "turned": whole.T, "part": whole[1:3, ::2]}, tmp_path / "x.pth")
    got = read(tmp_path / "x.pth")
    expected = np.arange(24, dtype=np.float32).reshape(4, 6)
    for name, value in {"whole": expected, "turned": expected.T, "part": expected[1:3, ::2]}.items():
        np.testing.assert_array_equal(np.asarray(got[name], np.float32), value)
