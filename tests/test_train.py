"""The whole run: outputs, interruption and resumption, bad input."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from configs import cufed5
from rrsr_jax import evaluate, train
from rrsr_jax.checkpoints import Checkpoints
from rrsr_jax.data import datasets
from rrsr_jax.errors import InputError
from rrsr_jax.metrics import quality
from tests.conftest import tiny_config, tiny_rrsr

ROOT = pathlib.Path(__file__).parent.parent
# A config file for runs in processes of their own.
TINY = """
from tests.conftest import tiny_config

def get_config():
    return tiny_config(steps=150, checkpoint_every=10, image_every=1000)
"""


def lines(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def params(workdir):
    return Checkpoints(pathlib.Path(workdir)).params()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    results = train.train_and_evaluate(tiny_config(ema_decay=0.5), str(workdir))
    return workdir, results


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Starts `main` on a tiny config; compiled programs are shared between the runs."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "tiny.py").write_text(TINY)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}

    def run(*arguments, config=folder / "tiny.py", **options):
        call = [sys.executable, "-m", "rrsr_jax.main", f"--config={config}", *arguments]
        return subprocess.Popen(
            call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    return run


def finish(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def test_outputs_of_a_run(finished_run):
    workdir, results = finished_run
    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results) == {"bicubic", "right_reference", "unrelated_reference"}
    assert all(0 < row["ssim_y"] < 1 and 10 < row["psnr_y"] < 50 for row in results.values())
    logged = lines(workdir)
    assert [line["step"] for line in logged] == [1, 2, 3]
    for key in (
        "train/rec",
        "train/rtrr",
        "train/loss",
        "train/grad_norm",
        "images_per_second",
        "eta_seconds",
        "memory_gib",
    ):
        assert key in logged[-1], key
    assert list((workdir / "tensorboard").glob("events.*"))
    assert Checkpoints(workdir).latest() == 3
    (sheet,) = (workdir / "sheets").glob("*.png")
    with Image.open(sheet) as picture:
        assert picture.size[0] > 1000


def test_evaluation_alone_gives_the_same_table(finished_run):
    workdir, results = finished_run
    (workdir / "results.json").unlink()
    assert train.evaluate_only(tiny_config(ema_decay=0.5), str(workdir)) == results
    assert json.loads((workdir / "results.json").read_text()) == results


def test_a_finished_run_is_only_evaluated_again(finished_run):
    workdir, results = finished_run
    assert train.train_and_evaluate(tiny_config(ema_decay=0.5), str(workdir)) == results
    assert len(lines(workdir)) == 3


@pytest.mark.timeout(1200)
def test_killed_runs_end_like_an_uninterrupted_one(command, tmp_path):
    def wait_for(workdir, count, process):
        while len(lines(workdir)) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    assert finish(command(f"--workdir={tmp_path}/whole"))[0] == 0

    killed = tmp_path / "killed"
    process = command(f"--workdir={killed}")
    wait_for(killed, 25, process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    stopped = lines(killed)[-1]["step"]
    assert code == 0
    assert f"stopped and saved at step {stopped}" in err
    assert 25 <= stopped < 150
    assert Checkpoints(killed).latest() == stopped

    process = command(f"--workdir={killed}")
    wait_for(killed, stopped + 15, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    stopped = lines(killed)[-1]["step"]
    assert code == 0
    assert f"stopped and saved at step {stopped}" in err

    process = command(f"--workdir={killed}")
    wait_for(killed, stopped + 15, process)
    process.kill()
    finish(process)

    code, out, err = finish(command(f"--workdir={killed}"))
    assert code == 0, err
    assert "right reference" in out
    assert [line["step"] for line in lines(killed)] == list(range(1, 151))
    jax.tree.map(np.testing.assert_array_equal, params(killed), params(tmp_path / "whole"))


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny_config(steps=9, checkpoint_every=1, learning_rates__default=1e30)
    with pytest.raises(FloatingPointError, match=r"step [23]: not finite: .*last good checkpoint is [12]"):
        train.train_and_evaluate(config, str(tmp_path))
    checkpoint = Checkpoints(tmp_path)
    assert checkpoint.latest() == len(lines(tmp_path))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(checkpoint.params()))


def test_workdir_of_another_config(finished_run, tmp_path):
    workdir, _ = finished_run
    with pytest.raises(InputError, match=r"another config's run(.|\n)*model\.features: 8 there, 16 here"):
        train.train_and_evaluate(tiny_config(ema_decay=0.5, model__features=16), str(workdir))
    assert json.loads((workdir / "config.json").read_text())["model"]["features"] == 8


def test_a_run_may_be_prolonged(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run[0], tmp_path / "copy")
    train.train_and_evaluate(tiny_config(ema_decay=0.5, steps=4), str(workdir))
    assert lines(workdir)[-1]["step"] == 4


def test_workdir_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match=r"--workdir=.*file/run: a writable folder expected"):
        train.train_and_evaluate(tiny_config(), str(blocked / "run"))


def test_start_from_another_run(finished_run, tmp_path):
    config = tiny_config(init_from=str(finished_run[0]), seed=5)
    jax.tree.map(np.testing.assert_array_equal, train.initial_params(tiny_rrsr(), config), params(finished_run[0]))
    larger = tiny_config(init_from=str(finished_run[0]), model__features=16)
    with pytest.raises(
        InputError, match=r"do not fit(.|\n)*context_encoder/conv_first/kernel: \(3, 3, 3, 16\) expected"
    ):
        train.initial_params(tiny_rrsr(features=16), larger)
    with pytest.raises(InputError, match=r"no checkpoint in .*; the folder of a run expected"):
        train.initial_params(tiny_rrsr(), tiny_config(init_from=str(tmp_path)))


def test_checkpoint_of_another_model(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run[0], tmp_path / "copy")
    (workdir / "config.json").unlink()
    with pytest.raises(InputError, match=r"do not fit(.|\n)*unexpected: .*fas_2x_1"):
        train.train_and_evaluate(tiny_config(ema_decay=0.5, model__alignments=(1, 1, 1)), str(workdir))
    assert not (workdir / "config.json").exists()


def test_weights_of_another_size(tmp_path, state_dict):
    np.savez(tmp_path / "extractor.npz", **state_dict("c2_extractor"))
    config = tiny_config(weights__correspondence=str(tmp_path / "extractor.npz"))
    with pytest.raises(
        InputError, match=r"config\.weights\.correspondence(.|\n)*wrong shape: branch_lr/conv1_1/bias: \(4,\)"
    ):
        train.initial_params(tiny_rrsr(), config)
    full = tiny_rrsr(correspondence_channels=(64, 128, 256))
    loaded = train.initial_params(full, config)["correspondence"]["branch_ref"]["conv1_1"]["bias"]
    np.testing.assert_array_equal(loaded, state_dict("c2_extractor")["feature_extraction_image2.model.conv1_1.bias"])


def test_batch_that_devices_cannot_share(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(InputError, match=r"config\.batch_size: a multiple of 4 devices expected, got 2"):
        train.train_and_evaluate(tiny_config(), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_evaluation_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint in .*; the folder of a run expected"):
        train.evaluate_only(tiny_config(), str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=0), r"config\.batch_size: at least 1 expected, got 0"),
        (dict(log_every=0), r"config\.log_every: at least 1"),
        (dict(loss__rec=0.0, loss__rtrr=0.0), r"config\.loss: weights of at least 0, and one above"),
        (dict(model__groups=3), r"config\.model does not describe a network: .*3 deform groups"),
        (dict(model__alignments=(1, 2)), r"config\.model does not describe a network"),
        (dict(eval__patch=50), r"config\.eval\.patch: a multiple of 4"),
        (dict(eval__patch=16), r"config\.eval\.patch: .* at least 11 larger than two borders"),
        (dict(eval__patch=320), r"chelsea: at least 320x320 pixels expected"),
        (dict(eval__name="set5"), r"config\.eval\.name: embedded"),
    ],
)
def test_configs_that_cannot_work_end_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train.train_and_evaluate(tiny_config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_initial_gain_and_matching_branches():
    once, thrice = (train.initial_params(tiny_rrsr(), tiny_config(init_gain=gain)) for gain in (1.0, 3.0))
    np.testing.assert_allclose(thrice["tail1"]["kernel"], 3 * once["tail1"]["kernel"], rtol=1e-6)
    select = "fas_2x_1", "select", "experts"
    np.testing.assert_allclose(get(thrice, *select), 3 * get(once, *select), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, thrice["vgg"], once["vgg"])
    jax.tree.map(np.testing.assert_array_equal, *once["correspondence"].values())


def get(tree, *path):
    return functools.reduce(lambda node, name: node[name], path, tree)


def test_the_paper_run_on_a_few_pairs(tmp_path, monkeypatch):
    for folder in ("input", "ref"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{i}.png")
    monkeypatch.setattr(datasets, "CUFED_PAIRS", 2)
    config = cufed5.get_config()
    config.model.update({k: getattr(tiny_rrsr(), k) for k in config.model if k != "name"})
    config.data.dir = str(tmp_path / "data")
    config.update(batch_size=1, steps=1)
    assert train.train_and_evaluate(config, str(tmp_path / "run")) is None
    assert lines(tmp_path / "run")[0]["step"] == 1
    assert Checkpoints(tmp_path / "run").latest() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.batchsize=3"], "batch_size"),
        (["--config.batch_size=three"], "three"),
        (["--config.model.featurs=3"], "features"),
        (["--mode=test"], "train|eval"),
        (["--config.model.name=edsr"], "config.model.name: one of rrsr expected, got 'edsr'"),
    ],
)
def test_wrong_command_lines(command, tmp_path, arguments, message):
    code, _, err = finish(command(f"--workdir={tmp_path}/run", *arguments))
    assert code != 0
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_the_paper_run_without_its_data(command, tmp_path):
    process = command(f"--workdir={tmp_path}/run", config=ROOT / "configs/cufed5.py")
    code, _, err = finish(process, timeout=60)
    assert code == 2
    assert (
        "config.data.dir is empty; expected: DIR/input/*.png and DIR/ref/*.png, equal names, 160x160 pixels, 11,871"
        in err
    )
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_columns_and_border_of_the_table():
    config = tiny_config().eval
    test_set = evaluate.samples(config)
    results = evaluate.evaluate(lambda lr, ref: ref, test_set, border=4)
    for column, image in (("right_reference", "ref"), ("unrelated_reference", "unrelated")):
        rows = [quality(getattr(sample, image), sample.hr, 4)["psnr_y"] for sample in test_set]
        assert results[column]["psnr_y"] == pytest.approx(np.mean(rows))
    assert evaluate.evaluate(lambda lr, ref: ref, test_set, border=0) != results


def test_every_test_image_is_counted_once():
    config = tiny_config().eval
    test_set = evaluate.samples(config)
    names = []
    results = evaluate.evaluate(
        lambda lr, ref: names.append(lr.shape) or np.repeat(np.repeat(lr, 4, 0), 4, 1), test_set, border=4
    )
    assert len(names) == 2 * len(test_set) == 2 * config.crops
    assert len({sample.name for sample in test_set}) == config.crops
    right, unrelated = results["right_reference"], results["unrelated_reference"]
    assert right == unrelated
    assert results["bicubic"]["psnr_y"] > right["psnr_y"]
