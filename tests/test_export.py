"""An exported network runs without this project, for images of any size, and is the same function."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from rrsr_jax import export, models
from rrsr_jax.errors import InputError
from tests.helpers import get_config, largest_file, random_params, tiny_rrsr

SIZES = (((17, 20), (67, 90)), ((24, 16), (64, 65)))
# Runs where nothing of the project can be imported: JAX and NumPy alone.
READER = """
import pathlib, sys
import jax, numpy as np
f = jax.export.deserialize(bytearray(pathlib.Path("f.jaxexport").read_bytes())).call
with np.load("images.npz") as images:
    results = {f"sr{i}": np.asarray(f(images[f"lr{i}"], images[f"ref{i}"])) for i in range(len(images) // 2)}
np.savez("results.npz", **results)
loaded = {name.partition(".")[0] for name in sys.modules} & {"rrsr_jax", "kernels", "flax", "einops", "PIL"}
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def model():
    """With the fields of the weights that ship."""
    return tiny_rrsr(alignments=(1, 1, 1), match_subpixel=True, pre_offsets="smooth")


def pairs(sizes, dtype):
    rng = np.random.default_rng(0)
    drawn = [[rng.integers(0, 256, (*size, 3), np.uint8) for size in pair] for pair in sizes]
    return [[(x / 255).astype(dtype) if dtype == "float32" else x for x in pair] for pair in drawn]


def run_elsewhere(content, images, folder):
    """The results of the exported function in a process that imports JAX and NumPy only, from another folder."""
    (folder / "f.jaxexport").write_bytes(content)
    arrays = {
        f"{name}{i}": image for i, pair in enumerate(images) for name, image in zip(("lr", "ref"), pair, strict=True)
    }
    np.savez(folder / "images.npz", **arrays)
    done = subprocess.run([sys.executable, "-c", READER], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as results:
        return [results[f"sr{i}"] for i in range(len(images))]


def test_the_file_needs_jax_and_numpy_only_and_takes_images_of_any_size(model, tmp_path):
    params, images = random_params(model), pairs(SIZES, "float32")
    exported = export.export_network(model, params)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for (lr, ref), sr in zip(images, run_elsewhere(exported.serialize(vjp_order=0), images, tmp_path), strict=True):
        expected = jax.jit(model.apply)({"params": params}, lr[None], ref[None])[0]
        np.testing.assert_allclose(sr, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    """A folder of weights, as they ship."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    flat = traverse_util.flatten_dict(random_params(model), sep=".")
    safetensors.numpy.save_file({k: v.astype(np.float16) for k, v in flat.items()}, folder / "model.safetensors")
    config = get_config("demo").model.to_dict() | {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    (folder / "config.json").write_text(json.dumps({"model": config}))
    return folder


def test_command(weights, tmp_path, capsys):
    out = tmp_path / "tiny.jaxexport"
    command = ["--weights", str(weights), "--out", str(out), "--dtype", "uint8", "--platforms", "cpu"]
    export.main(command)
    said = capsys.readouterr().out
    assert "tiny.jaxexport: tiny, lr uint8[h,w,3], ref uint8[H,W,3] -> sr uint8[4*h,4*w,3], for cpu" in said
    assert jax.export.deserialize(bytearray(out.read_bytes())).out_avals[0].dtype == np.uint8
    assert list(tmp_path.iterdir()) == [out]

    written = out.read_bytes()
    with largest_file(100), pytest.raises(SystemExit) as ended:  # a full disk
        export.main([*command, "--force", "--size", "16x16", "--ref-size", "64x64"])
    assert ended.value.code == 2
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "there"], "there exists; add --force"),
        (["--out", "."], "a file expected, got the folder"),
        (["--out", "no/where"], "no folder no; make it first"),
        (["--out", "new", "--weights", "nowhere"], "weights 'nowhere': there is no folder nowhere"),
        (["--out", "new", "--size", "16x16"], "--size and --ref-size: both or none expected"),
        (["--out", "new", "--size", "16", "--ref-size", "64x64"], "as in 128x96, got '16'"),
    ],
)
def test_bad_input(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("kept")
    with pytest.raises(SystemExit) as ended:
        export.main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_bytes_in_and_bytes_out(model):
    """For one pair of sizes."""
    params, ((lr, ref),) = random_params(model), pairs(SIZES[:1], "uint8")
    exported = export.export_network(model, params, sizes=SIZES[0], dtype="uint8", platforms=["cpu"])
    assert export.signature(exported) == "lr uint8[17,20,3], ref uint8[67,90,3] -> sr uint8[68,80,3]"
    sr = jax.jit(model.apply)({"params": params}, *((x[None] / 255).astype(np.float32) for x in (lr, ref)))[0]
    expected = np.round(np.clip(sr, 0, 1) * 255)
    got = np.asarray(exported.call(lr, ref))
    assert got.dtype == np.uint8
    assert (got != expected).mean() < 1e-3  # values halfway between two bytes may differ
    assert np.abs(got - expected).max() <= 1


def test_networks_that_ask_for_sizes(model):
    masa = models.build(get_config("table2:masa").model)  # pads by itself
    for network in (masa, model.clone(match_coarse=8)):
        name = type(network).__name__
        with pytest.raises(InputError, match=rf"{name} cannot be exported for images of any size .*--size and --ref-s"):
            export.export_network(network, random_params(network))


def test_sizes_that_the_network_does_not_take(model):
    with pytest.raises(InputError, match=r"RRSR, lr \(2, 9, 3\), .*at least 3x3"):
        export.export_network(model, random_params(model), sizes=((2, 9), (64, 64)))
