"""Weights from and to files: imported folders, exports, and the command."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors

from rrsr_jax import weights
from rrsr_jax.errors import InputError
from rrsr_jax.experiments import figures
from rrsr_jax.training import initial, step, train
from rrsr_jax.weights import __main__ as cli
from rrsr_jax.weights import convert, released
from rrsr_jax.weights.kinds import find
from rrsr_jax.weights.readers import read
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.state import TrainState
from tests.helpers import any_bits, get_config, random_params, tiny_config, tiny_rrsr


def same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def files(folder):
    """All files and folders below, by path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def extractor(tmp_path):
    """A PyTorch-layout file of the correspondence network, with every kind of bits."""
    np.savez(tmp_path / "extractor.npz", **any_bits("c2_extractor"))
    return tmp_path / "extractor.npz"


@pytest.fixture
def imported(extractor):
    weights.import_weights("correspondence", str(extractor), str(extractor.with_suffix("")))
    return extractor.with_suffix("")


def save_run(workdir, model, steps=1, **changes):
    """Saves a checkpoint of a model, after `steps` of its steps, as a run would."""
    config = tiny_config(**changes)
    state = step.create_state(config, random_params(model))
    state = state.replace(step=state.step + steps, ema={path: value + 1 for path, value in state.ema.items()})
    checkpoints = Checkpoints(workdir, config)
    checkpoints.save(state)
    checkpoints.close()
    return state


def test_import(extractor, capsys):
    imported = extractor.with_suffix("")
    weights.import_weights("correspondence", str(extractor), str(imported))
    expected = weights.from_torch("c2_extractor", any_bits("c2_extractor"))
    same_bits(weights.load("correspondence", str(imported)), expected)
    same_bits(weights.load("c2_extractor", str(imported)), expected)
    same_bits(weights.load("c2_extractor", str(extractor)), expected)
    digest = hashlib.sha256(extractor.read_bytes()).hexdigest()
    out = capsys.readouterr().out
    assert f"{extractor}: SHA-256 {digest}" in out
    assert f"{imported}: correspondence, 20 arrays, 1,110,656 parameters" in out
    assert files(imported) == ["weights.safetensors"]
    with safetensors.safe_open(imported / "weights.safetensors", framework="np") as opened:
        about = json.loads(opened.metadata()["rrsr_jax"])
        assert "branch_lr/conv1_1/kernel" in opened.keys()  # noqa: SIM118
    assert about["kind"] == "correspondence"
    assert about["source"] == "extractor.npz"
    assert about["sha256"] == digest


def test_import_of_an_export_keeps_every_bit(imported, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    weights.export_weights("correspondence", str(imported), str(out))
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert f"{out}: correspondence, 20 arrays, 1,110,656 parameters, SHA-256 {digest}" in capsys.readouterr().out
    weights.import_weights("correspondence", str(out), str(tmp_path / "again"))
    same_bits(weights.load("correspondence", tmp_path / "again"), weights.load("correspondence", imported))
    weights.export_weights("correspondence", str(tmp_path / "again"), str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


def test_import_of_an_export_with_batch_statistics(tmp_path, state_dict):
    np.savez(tmp_path / "d.npz", **state_dict("c2_discriminator"))
    weights.import_weights("discriminator", str(tmp_path / "d.npz"), str(tmp_path / "d"))
    variables = weights.load("discriminator", str(tmp_path / "d"))
    assert set(variables) == {"params", "batch_stats"}
    weights.export_weights("discriminator", str(tmp_path / "d"), str(tmp_path / "d.safetensors"))
    same_bits(weights.load("discriminator", str(tmp_path / "d.safetensors")), variables)


def test_vgg16_from_torchvisions_file_and_back(tmp_path):
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
    state = {f"features.{i}.weight": np.full((*shape, 3, 3), i, np.float32) for i, shape in shapes.items()}
    state |= {f"features.{i}.bias": np.full(shape[0], i + 0.5, np.float32) for i, shape in shapes.items()}
    more = {"features.17.bias": np.zeros(512, np.float32), "classifier.6.bias": np.zeros(1000, np.float32)}
    np.savez(tmp_path / "vgg16.npz", **state, **more)
    weights.import_weights("vgg16", tmp_path / "vgg16.npz", tmp_path / "vgg16")
    layers = weights.load("vgg16", tmp_path / "vgg16")
    assert (layers["conv3_1"]["kernel"] == 10).all()
    assert (layers["conv2_1"]["bias"] == 5.5).all()
    weights.export_weights("vgg16", tmp_path / "vgg16", tmp_path / "vgg16.safetensors")
    same_bits(read(tmp_path / "vgg16.safetensors"), state)


def test_srntt_from_the_files_of_its_release(tmp_path, state_dict, capsys):
    """Lists without names, kernels as (kH, kW, I, O): the content extractor's, and the other part's."""
    state, files = state_dict("srntt"), [tmp_path / "upscale.npz", tmp_path / "srntt.npz"]
    for file, part in zip(files, ("content_extractor", "texture_transfer"), strict=True):
        arrays = [a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for k, a in state.items() if k.startswith(part)]
        objects = np.empty(len(arrays), dtype=object)
        objects[:] = arrays
        np.savez(file, params=objects)
    cli.main(["import", "--kind=srntt", "--source", *map(str, files), f"--out={tmp_path / 'srntt'}"])
    expected = weights.from_torch("srntt", state)
    same_bits(weights.load("srntt", tmp_path / "srntt"), expected)
    same_bits(weights.load("srntt", *reversed(files)), expected)
    assert "srntt, 482 arrays, 4,395,270 parameters" in capsys.readouterr().out
    weights.export_weights("srntt", tmp_path / "srntt", tmp_path / "srntt.safetensors")
    same_bits(read(tmp_path / "srntt.safetensors"), state)
    with pytest.raises(
        InputError, match=r"upscale\.npz: srntt weights do not fit(.|\n)*missing: texture_transfer\.small"
    ):
        weights.load("srntt", files[0])
    np.savez(tmp_path / "less.npz", params=objects[1:])
    with pytest.raises(InputError, match=r"less\.npz: arrays without names: 173 .* or 309 .* expected, got 308"):
        weights.load("srntt", files[0], tmp_path / "less.npz")


@pytest.mark.parametrize("kind", ["lpips", "dists"])
def test_weights_of_a_metric_from_its_own_file_and_vgg16(kind, tmp_path, state_dict):
    state = state_dict(kind)
    vgg = {name: value for name, value in state.items() if name.startswith("features")}
    np.savez(tmp_path / "vgg16.npz", **vgg, **{"classifier.6.bias": np.zeros(1000, np.float32)})
    np.savez(tmp_path / "own.npz", **{name: value for name, value in state.items() if name not in vgg})
    sources = [str(tmp_path / name) for name in ("own.npz", "vgg16.npz")]
    cli.main(["import", f"--kind={kind}", "--source", *sources, f"--out={tmp_path / kind}"])
    same_bits(weights.load(kind, tmp_path / kind), weights.from_torch(kind, state))


def test_import_replaces_an_earlier_one(imported, tmp_path):
    changed = any_bits("c2_extractor") | {"feature_extraction_image1.model.conv1_1.bias": np.full(64, 7, np.float32)}
    np.savez(tmp_path / "other.npz", **changed)
    weights.import_weights("correspondence", str(tmp_path / "other.npz"), str(imported))
    assert (weights.load("correspondence", str(imported))["branch_lr"]["conv1_1"]["bias"] == 7).all()
    assert files(tmp_path) == ["extractor", "extractor.npz", "extractor/weights.safetensors", "other.npz"]


@pytest.mark.parametrize("there", ["other kind", "other folder", "file", "damaged import"])
def test_import_does_not_replace_anything_else(there, extractor, imported, tmp_path):
    out, kind = tmp_path / "out", "correspondence"
    if there == "other kind":
        out, kind = imported, "vgg19"
    elif there == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        content = (imported / "weights.safetensors").read_bytes()
        (out / "weights.safetensors").write_bytes(content[:-1] if there == "damaged import" else b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"--out={out}(:| holds weights of kind correspondence; choose)"):
        weights.import_weights(kind, str(extractor), str(out))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_import_into_an_empty_folder(extractor, tmp_path):
    (tmp_path / "out").mkdir()
    weights.import_weights("correspondence", str(extractor), str(tmp_path / "out"))
    weights.load("correspondence", str(tmp_path / "out"))


def test_failing_import_leaves_nothing(extractor, tmp_path, monkeypatch):
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"extractor\.npz: vgg19 weights do not fit \(46 differences\)"):
        weights.import_weights("vgg19", str(extractor), str(tmp_path / "new" / "vgg"))
    with pytest.raises(InputError, match=r"nothing\.pth cannot be read"):
        weights.import_weights("vgg19", str(tmp_path / "nothing.pth"), str(tmp_path / "new"))
    assert files(tmp_path) == before

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for out in ("out", "new/folder/out"):
        with pytest.raises(InputError, match=r"cannot write .*out: .*No space left"):
            weights.import_weights("correspondence", str(extractor), str(tmp_path / out))
    assert files(tmp_path) == before


def test_failing_import_keeps_the_earlier_one(imported, extractor, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no")

    before = (imported / "weights.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="cannot write"):
        weights.import_weights("correspondence", str(extractor), str(imported))
    assert (imported / "weights.safetensors").read_bytes() == before
    assert files(tmp_path) == ["extractor", "extractor.npz", "extractor/weights.safetensors"]


def test_folders_that_cannot_be_loaded(imported, tmp_path):
    with pytest.raises(InputError, match=r"extractor holds weights of kind correspondence; vgg19 expected"):
        weights.load("vgg19", str(imported))
    with pytest.raises(InputError, match=r"imported weights expected; .*weights\.safetensors cannot be read: No such"):
        weights.load("vgg19", str(tmp_path))
    with pytest.raises(
        InputError, match="unknown kind of weights 'vgg'; there are: vgg19, vgg16, correspondence, rrsr"
    ):
        weights.load("vgg", str(imported))
    file = imported / "weights.safetensors"
    arrays = weights.load("correspondence", str(imported))
    del arrays["branch_lr"]
    flat = {"branch_ref/conv1_1/bias": arrays["branch_ref"]["conv1_1"]["bias"]}
    file.write_bytes(safetensors.numpy.save(flat, {"rrsr_jax": '{"kind": "correspondence"}'}))
    with pytest.raises(InputError, match=r"19 differences(.|\n)*missing: branch_lr/conv1_1/kernel"):
        weights.load("correspondence", str(imported))
    for metadata in (None, {"rrsr_jax": "no JSON"}, {"rrsr_jax": "[]"}):
        file.write_bytes(safetensors.numpy.save(flat, metadata))
        with pytest.raises(InputError, match="was not made by"):
            weights.load("correspondence", str(imported))


def test_export_does_not_replace_a_file_unasked(imported, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"out\.safetensors exists; --overwrite replaces it"):
        weights.export_weights("correspondence", str(imported), str(out))
    assert out.read_text() == "mine"
    weights.export_weights("correspondence", str(imported), str(out), overwrite=True)
    weights.load("correspondence", str(out))


def test_exports_that_cannot_be(imported, tmp_path):
    with pytest.raises(InputError, match=r"the name of a \.safetensors file expected"):
        weights.export_weights("correspondence", str(imported), str(tmp_path / "out.pth"))
    out = str(tmp_path / "out.safetensors")
    with pytest.raises(InputError, match=r"holds weights of kind correspondence; masa expected"):
        weights.export_weights("masa", str(imported), out)
    with pytest.raises(
        InputError, match=r"a folder of imported weights or the workdir of a run expected; no checkpoint in"
    ):
        weights.export_weights("masa", str(tmp_path), out)
    assert not pathlib.Path(out).exists()


def test_export_of_a_run(tmp_path, capsys):
    state = save_run(tmp_path / "run", tiny_rrsr(), weights__correspondence="a file")
    modules = {"vgg19": "vgg", "correspondence": "correspondence"}
    for kind, module in modules.items():
        weights.export_weights(kind, str(tmp_path / "run"), str(tmp_path / f"{kind}.safetensors"))
        exported = read(tmp_path / f"{kind}.safetensors")
        expected = weights.to_torch(kind, state.generator[module])
        assert exported.keys() == expected.keys()
        assert all(exported[key].tobytes() == np.asarray(value).tobytes() for key, value in expected.items())
    assert "so `import` does not accept them: vgg19 weights do not fit" in capsys.readouterr().err
    weights.export_weights("rrsr", str(tmp_path / "run"), str(tmp_path / "rrsr.safetensors"))
    exported = read(tmp_path / "rrsr.safetensors")
    trained = {k: v for k, v in state.generator.items() if k not in modules.values()}
    assert exported.keys() == weights.to_torch("rrsr_restoration", trained).keys()
    kernel = exported["content_extractor.conv_first.weight"]
    np.testing.assert_array_equal(kernel.transpose(2, 3, 1, 0), trained["context_encoder"]["conv_first"]["kernel"])


def test_export_of_a_run_has_the_parameters_that_it_evaluates(tmp_path):
    state = save_run(tmp_path / "run", tiny_rrsr(), ema_decay=0.5, init_from="a run")
    weights.export_weights("rrsr", str(tmp_path / "run"), str(tmp_path / "x.safetensors"))
    bias = read(tmp_path / "x.safetensors")["content_extractor.conv_first.bias"]
    np.testing.assert_array_equal(bias, state.generator["context_encoder"]["conv_first"]["bias"] + 1)
    weights.export_weights(
        "correspondence", str(tmp_path / "run"), str(tmp_path / "y.safetensors")
    )  # frozen: no average
    bias = read(tmp_path / "y.safetensors")["feature_extraction_image1.model.conv1_1.bias"]
    np.testing.assert_array_equal(bias, state.generator["correspondence"]["branch_lr"]["conv1_1"]["bias"])


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_what_was_never_trained_is_not_handed_on(tmp_path):
    """Neither as weights, nor as a model, nor as a result."""
    save_run(tmp_path / "run", tiny_rrsr())
    with pytest.raises(InputError, match=r"has a random correspondence: the run has neither trained nor loaded it"):
        weights.export_weights("correspondence", tmp_path / "run", tmp_path / "x.safetensors")
    save_run(tmp_path / "new", tiny_rrsr(), steps=0)
    card = tmp_path / "CARD.md"
    card.write_text("")
    for use in (
        lambda: weights.export_weights("rrsr", tmp_path / "new", tmp_path / "x.safetensors"),
        lambda: released.pack(tmp_path / "new", tmp_path / "x", card),
        lambda: released.load(tmp_path / "new"),
        lambda: train.evaluate_only(tiny_config(), str(tmp_path / "new")),
        lambda: figures.draw_figures(tmp_path / "new", tmp_path / "x", argparse.Namespace(set=[])),
        lambda: initial.read_source(tiny_config(init_from=str(tmp_path / "new")), ("rec",)),
    ):
        with pytest.raises(InputError, match="a trained network expected, this run was stopped before its first step"):
            use()
    assert sorted(os.listdir(tmp_path)) == ["CARD.md", "new", "run"]
    assert os.listdir(tmp_path / "new") == ["checkpoints"]


@pytest.mark.parametrize(
    ("pixel_steps", "changes", "random"),
    [
        (1, {}, True),
        (0, {}, False),
        (1, {"init_from": "a run"}, False),
        (1, {"weights": {"discriminator": "x"}}, False),
    ],
)
def test_a_discriminator_that_has_not_been_trained_yet(pixel_steps, changes, random, monkeypatch):
    config = get_config("cufed5_gan").to_dict() | {"pixel_steps": pixel_steps} | changes
    monkeypatch.setattr(convert, "description", lambda workdir: {"config": config, "step": 1})
    with pytest.raises(InputError, match="a random discriminator") if random else contextlib.nullcontext():
        convert._check_trained(find("discriminator"), pathlib.Path("run"))


def test_export_of_a_damaged_checkpoint(tmp_path):
    save_run(tmp_path / "run", tiny_rrsr())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "1" / "state")
    with pytest.raises(InputError, match=r"all checkpoints in .* are damaged"):
        weights.export_weights("rrsr", str(tmp_path / "run"), str(tmp_path / "x.safetensors"))
    assert files(tmp_path) == [path for path in files(tmp_path) if path.startswith("run")]


def test_export_of_what_a_run_does_not_hold(tmp_path):
    save_run(tmp_path / "run", tiny_rrsr())
    missing = {
        kind: rf".* has no counterpart in the PyTorch layout of {kind}" for kind in ("c2_matching", "ttsr", "vgg16")
    }
    missing["discriminator"] = "it has no 'discriminator'"
    for kind, message in missing.items():
        with pytest.raises(InputError, match=rf"run does not hold {kind}: {message}"):
            weights.export_weights(kind, str(tmp_path / "run"), str(tmp_path / "x.safetensors"))
    assert not (tmp_path / "x.safetensors").exists()


def select(name, params, discriminator=(), statistics=()):
    state = TrainState(0, params, dict(discriminator), dict(statistics), {"perceptual": {"conv1_1": 3}}, {}, {})
    return convert._select(find(name), state)


def test_what_a_run_holds():
    """TTSR's checkpoints hold its VGG, RRSR's do not; none hold what the GAN stage adds."""
    params = {"vgg": {"conv1_1": 4}, "head": {"bias": 5}}
    run = params, {"head1": 1}, {"block1_norm1": 2}
    assert select("ttsr", *run) == {"vgg": {"conv1_1": 4}, "head": {"bias": 5}}
    assert select("rrsr", *run) == {"head": {"bias": 5}}
    assert select("vgg19", *run) == {"conv1_1": 4}
    assert select("discriminator", *run) == {"params": {"head1": 1}, "batch_stats": {"block1_norm1": 2}}
    with pytest.raises(KeyError, match="correspondence"):
        select("correspondence", *run)
    with pytest.raises(KeyError, match="discriminator"):
        select("discriminator", params)
    branches = {"branch_lr": {"conv1_1": 1}, "branch_ref": {"conv1_1": 2}}
    assert select("correspondence", branches) == branches


def test_command(extractor, tmp_path, capsys):
    folder, file = tmp_path / "imported", tmp_path / "out.safetensors"
    cli.main(["import", "--kind=correspondence", f"--source={extractor}", f"--out={folder}"])
    cli.main(["export", "--kind=correspondence", f"--source={folder}", f"--out={file}"])
    again = ["export", "--kind=correspondence", f"--source={folder}", f"--out={file}"]
    cli.main([*again, "--overwrite"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(again)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {file} exists; --overwrite replaces it\n"


@pytest.mark.parametrize("arguments", [["import", "--kind=vgg"], ["fetch", "masa"], []])
def test_command_line_that_cannot_be(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
