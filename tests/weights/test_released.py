"""Folders of weights: packed from runs, loaded, refused."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from rrsr_jax.errors import InputError
from rrsr_jax.weights import __main__ as cli
from rrsr_jax.weights import released
from rrsr_jax.workdir.checkpoints import Checkpoints
from tests.helpers import ROOT, tiny_rrsr
from tests.weights.test_weights import files, save_run

FILES = ["LICENSE", "README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run with a moving average, which is not its parameters, and its state."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, save_run(workdir, tiny_rrsr(), ema_decay=0.5)


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    (folder / "card.md").write_text("made of näher photographs", encoding="utf-8")
    released.pack(run[0], folder / "tiny", folder / "card.md")
    return folder / "tiny"


@pytest.fixture
def copy(packed, tmp_path):
    """A packed folder of one's own to damage."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((packed / name).read_bytes())
    return folder


def flat(params):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def test_a_packed_run_is_the_run_in_float16(run, packed):
    state = run[1]
    assert sorted(os.listdir(packed)) == FILES
    assert (packed / "README.md").read_text(encoding="utf-8") == "made of näher photographs"
    assert (packed / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert {v.dtype for v in safetensors.numpy.load_file(packed / "model.safetensors").values()} == {
        np.dtype("float16")
    }
    fields = json.loads((packed / "config.json").read_text())["model"]
    assert not {"deform_conv", "match_tile", "remat"} & set(fields), "they belong to the machine that trained"

    loaded = released.load(packed)
    assert loaded.model == tiny_rrsr()
    assert loaded.name == "tiny"
    expected, got = flat(state.generator) | flat(state.ema), flat(loaded.params)
    assert expected.keys() == got.keys()
    assert {v.dtype for v in got.values()} == {np.dtype("float32")}
    for path, value in expected.items():
        np.testing.assert_array_equal(got[path], value.astype(np.float16).astype(np.float32), err_msg=path)


def test_a_run_loads_as_it_is_evaluated(run):
    workdir, state = run
    loaded = released.load(workdir)
    assert loaded.model == tiny_rrsr(remat=loaded.model.remat)
    for path, value in (flat(state.generator) | flat(state.ema)).items():
        np.testing.assert_array_equal(flat(loaded.params)[path], value, err_msg=path)


def test_command(run, tmp_path, capsys):
    """Raw parameters, a licence of one's own, an earlier folder replaced."""
    workdir, state = run
    (tmp_path / "card.md").write_text("card")
    (tmp_path / "mine").write_text("my licence")
    out = tmp_path / "new" / "out"
    call = ["pack", f"--run={workdir}", f"--card={tmp_path / 'card.md'}", f"--out={out}"]
    cli.main(call)
    cli.main([*call, "--raw", "--overwrite", f"--license={tmp_path / 'mine'}"])
    assert "parameters as float16" in capsys.readouterr().out
    assert files(out) == FILES
    assert (out / "LICENSE").read_text() == "my licence"
    path = "context_encoder/conv_first/bias"
    np.testing.assert_array_equal(flat(released.load(out).params)[path], flat(state.generator)[path].astype(np.float16))
    with pytest.raises(SystemExit):
        cli.main(call)
    assert capsys.readouterr().err == f"error: --out={out} holds weights; --overwrite replaces them\n"


def test_packing_leaves_other_folders_alone_and_no_half_folder(run, tmp_path, monkeypatch):
    workdir, _ = run
    (tmp_path / "card.md").write_text("card")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for out in ("out", "card.md"):
        with pytest.raises(InputError, match=r"a new folder or an earlier one of weights expected; it holds something"):
            released.pack(workdir, tmp_path / out, tmp_path / "card.md", overwrite=True)
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"no\.md: a readable text file expected"):
        released.pack(workdir, tmp_path / "new", tmp_path / "no.md")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*new: .*No space left"):
        released.pack(workdir, tmp_path / "new", tmp_path / "card.md")
    assert files(tmp_path) == before


def test_a_folder_that_a_killed_process_moved_aside_comes_back(run, copy, tmp_path):
    """`copy` is a folder of weights; the process that replaced it was killed between two renames."""
    before = files(copy)
    copy.rename(copy.with_name(f".{copy.name}.old"))
    (tmp_path / "card.md").write_text("card")
    with pytest.raises(InputError, match="--overwrite replaces them"):
        released.pack(run[0], copy, tmp_path / "card.md")
    assert files(copy) == before


def test_what_float16_cannot_hold_is_not_packed(tmp_path, monkeypatch):
    save_run(tmp_path / "run", tiny_rrsr())
    (tmp_path / "card.md").write_text("card")
    read = Checkpoints.read_state

    def too_large(self):
        state = read(self)
        state.generator["tail2"]["bias"][0] = 7e4
        return state

    monkeypatch.setattr(Checkpoints, "read_state", too_large)
    with pytest.raises(InputError, match=r"at most 6\.55e\+04\), but these are not: tail2/bias"):
        released.pack(tmp_path / "run", tmp_path / "out", tmp_path / "card.md")
    assert not (tmp_path / "out").exists()


def test_runs_of_other_stages(tmp_path, monkeypatch):
    save_run(tmp_path / "run", tiny_rrsr())
    monkeypatch.setattr(released, "description", lambda _: {"stage": "teacher"})
    with pytest.raises(InputError, match="a run of stage rec or gan expected, got one of stage teacher"):
        released.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(feature=3), "rrsr has no feature; it has: features"),
        (
            lambda c: c["model"].update(features="8"),
            r'model\.features: a whole number from 2 to 4096 expected, got "8"',
        ),
        (
            lambda c: c["model"].update(experts=True),
            r"model\.experts: a whole number from 0 to 1024 expected, got true",
        ),
        (lambda c: c["model"].update(context_blocks=10**9), r"model\.context_blocks: .* from 0 to 256 expected"),
        (
            lambda c: c["model"].update(blocks=[1, 1]),
            r"model\.blocks: 3 values, each a whole number from 0 to 256, expected, got \[1, 1\]",
        ),
        (lambda c: c["model"].update(pre_offsets="none"), r"model\.pre_offsets: one of patches, smooth expected, got"),
        (lambda c: c["model"].update(groups=3), "these fields make no model|differences"),
        (lambda c: c["model"].update(features=7), r"do not fit \(\d+ differences\)"),
        (lambda c: c["model"].update(name="swin"), r"model\.name: one of rrsr, .* expected, got 'swin'"),
        (lambda c: c["model"].pop("name"), r"model\.name: one of rrsr, .* expected, got None"),
        (lambda c: c.update(steps=3), r"expected, and nothing else"),
        (lambda c: c.pop("model"), r"expected, and nothing else"),
    ],
)
def test_configs_of_no_model(change, message, copy):
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        released.load(copy)


def test_damaged_folders(copy):
    weights = copy / "model.safetensors"
    whole, arrays = weights.read_bytes(), safetensors.numpy.load_file(weights)
    bias = arrays.pop("tail1.bias")
    safetensors.numpy.save_file(arrays, weights)
    with pytest.raises(InputError, match=r"1 differences\):\n  missing: tail1/bias"):
        released.load(copy)
    arrays["tail1.bias"] = bias * np.float16(np.nan)
    safetensors.numpy.save_file(arrays, weights)
    with pytest.raises(InputError, match=r"finite parameters expected .*: tail1/bias; take another"):
        released.load(copy)
    weights.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as \.safetensors; it may be incomplete"):
        released.load(copy)
    weights.write_bytes(whole)
    (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: JSON expected"):
        released.load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: a readable text file expected"):
        released.load(copy)


def test_names(copy, tmp_path, monkeypatch):
    """A name stands for the folder that is shipped, whatever lies in the working directory."""
    monkeypatch.setattr(released, "SHIPPED", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert released.names() == ["tiny"]
    assert released.load("tiny").name == "tiny"
    (tmp_path / "file").write_text("")
    for wrong, why in {
        "photos": "there is no folder photos",
        ".": "has no model.safetensors",
        "file": "is not a fol",
    }.items():
        with pytest.raises(InputError, match=rf"weights '{wrong}': .*{why}.* names expected: tiny"):
            released.load(wrong)
    monkeypatch.setattr(released, "SHIPPED", tmp_path / "none")
    with pytest.raises(InputError, match="no weights of its own"):
        released.load("photo")


@pytest.mark.parametrize("name", released.names() or [pytest.param("", marks=pytest.mark.skip("none are shipped"))])
def test_shipped_weights(name):
    """Loading them by name does not check the shapes: this does."""
    folder = released.SHIPPED / name
    assert sorted(os.listdir(folder)) == FILES
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4e6
    by_name, by_folder = released.load(name), released.load(f"{folder.parent}/../released/{name}")
    assert by_name.model == by_folder.model
    assert jax.tree.all(jax.tree.map(np.array_equal, by_name.params, by_folder.params))


def test_loading_a_folder_imports_no_training(copy):
    """Orbax, Grain and TFDS take seconds; only a run needs the first two."""
    code = f"""
import sys
from rrsr_jax.weights import released
released.load({str(copy)!r})
print([name for name in ("orbax", "grain", "tensorflow", "tensorflow_datasets", "tensorboardX") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
