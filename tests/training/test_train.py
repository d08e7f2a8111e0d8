"""The whole run: outputs, interruption and resumption, bad input."""

import functools
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import cufed5, photos
from rrsr_jax.data import prepare
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, metrics
from rrsr_jax.training import train
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.integrity import has_checkpoint
from rrsr_jax.workdir.state import parameter_names
from tests.helpers import damage, finish, initial_state, lines, tiny_config, tiny_rrsr, write


def params(workdir):
    return Checkpoints(pathlib.Path(workdir)).read_state().generator


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    results = train.train_and_evaluate(tiny_config(ema_decay=0.5, eval__every=2), str(workdir))
    return workdir, results


def test_outputs_of_a_run(finished_run):
    workdir, results = finished_run
    written = json.loads((workdir / "results.json").read_text())
    assert (written["step"], written["sets"]) == (3, results)
    means = results["embedded"]["references"]
    assert list(means) == ["bicubic", "reference", "unrelated", "lr_itself"]
    assert all(0 < row["ssim_y"] < 1 and 10 < row["psnr_y"] < 50 for row in means.values())
    assert all(0 < row["gmsd_y"] < 0.5 for row in means.values())
    logged = lines(workdir)
    assert [line["step"] for line in logged] == [1, 2, 3]
    for key in (
        "train/rec",
        "train/rtrr",
        "train/loss",
        "train/grad_norm",
        "images_per_second",
        "seconds_per_step",
        "eta_seconds",
        "memory_gib",
    ):
        assert key in logged[-1], key
    validated = lines(workdir, "val/")
    # Once during training, and in the end.
    assert [line["step"] for line in validated] == [2, 3]
    assert validated[-1]["val/embedded/reference/psnr_y"] == means["reference"]["psnr_y"]
    assert list((workdir / "tensorboard").glob("events.*"))
    assert Checkpoints(workdir).latest() == 3
    (sheet,) = (workdir / "eval" / "embedded" / "sheets").glob("*.png")
    with Image.open(sheet) as picture:
        assert picture.size[0] > 1000
    assert (workdir / "eval" / "embedded" / "index.html").stat().st_size > 20_000


def test_evaluation_alone_gives_the_same_table(finished_run):
    workdir, results = finished_run
    (workdir / "results.json").unlink()
    shutil.rmtree(workdir / "eval")
    assert train.evaluate_only(tiny_config(ema_decay=0.5, eval__every=2), str(workdir)) == results
    assert json.loads((workdir / "results.json").read_text())["sets"] == results


def test_an_evaluation_that_was_cut_off_is_made_up_for(finished_run, tmp_path):
    """The run stopped at step 2, saved, but had not finished evaluating."""
    workdir = shutil.copytree(finished_run[0], tmp_path / "copy")
    shutil.rmtree(workdir / "checkpoints" / "3")
    log = workdir / "metrics.jsonl"
    kept = [line for line in log.read_text().splitlines() if "train/" in line]
    log.write_text("\n".join(kept) + "\n")
    results = train.train_and_evaluate(tiny_config(ema_decay=0.5, eval__every=2), str(workdir))
    assert results == finished_run[1]
    assert [line["step"] for line in lines(workdir, "val/")] == [2, 3]
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3]


def test_the_border_of_the_config_is_left_out(finished_run):
    workdir, results = finished_run
    other = train.evaluate_only(tiny_config(ema_decay=0.5, eval__every=2, eval__border=8), str(workdir))
    assert other["embedded"]["border"] == 8
    assert other["embedded"]["references"]["bicubic"] != results["embedded"]["references"]["bicubic"]


def test_an_image_that_fails_fails_the_command_in_the_end(finished_run, monkeypatch):
    workdir, results = finished_run
    monkeypatch.setattr(metrics, "quality", lambda sr, hr, border: 1 / 0)
    shutil.rmtree(workdir / "eval")
    with pytest.raises(ZeroDivisionError):  # not one of the errors an image may have
        train.evaluate_only(tiny_config(ema_decay=0.5), str(workdir))
    monkeypatch.undo()

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(evaluate, "bucket_inputs", fail)
    with pytest.raises(
        InputError, match=r"6 image\(s\) failed, see above; .*results\.json has the results of the others"
    ):
        train.evaluate_only(tiny_config(ema_decay=0.5), str(workdir))
    means = json.loads((workdir / "results.json").read_text())["sets"]["embedded"]["references"]
    assert means == {"bicubic": {k: results["embedded"]["references"]["bicubic"][k] for k in metrics.ALWAYS}}


def test_a_finished_run_is_only_evaluated_again(finished_run):
    workdir, results = finished_run
    assert train.train_and_evaluate(tiny_config(ema_decay=0.5, eval__every=2), str(workdir)) == results
    assert len(lines(workdir)) == 3
    assert len(lines(workdir, "val/")) == 2


def test_a_run_that_diverges_stops(tmp_path):
    config = tiny_config(steps=99, checkpoint_every=1, image_every=1000, learning_rates__default=100.0)
    with pytest.raises(FloatingPointError, match=r"step \d+: not finite: .*last good checkpoint is \d") as error:
        train.train_and_evaluate(config, str(tmp_path))
    checkpoint = Checkpoints(tmp_path)
    found = re.fullmatch(
        r"step (\d+): not finite: \{.*'loss': nan.*\}; the largest gradient is that of (\S+) \(a step before: (\S+)\); "
        r"the last good checkpoint is (\d+)\. Look .*",
        str(error.value),
    )
    assert int(found[1]) - 1 == int(found[4]) == checkpoint.latest() == len(lines(tmp_path))
    assert {found[2], found[3]} <= set(parameter_names(checkpoint.read_state()))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(checkpoint.read_state()))


def test_what_is_noticed_a_step_late_is_never_saved(tmp_path):
    """Nothing is logged, so that only the check of every step can notice; checkpoints fall on any step."""
    changes = dict(steps=99, image_every=1000, learning_rates__default=100.0)
    found = set()
    for name, every in (
        ("often", dict(log_every=1, checkpoint_every=1)),
        ("seldom", dict(log_every=99, checkpoint_every=2)),
    ):
        with pytest.raises(FloatingPointError, match=r"step \d+: not finite") as error:
            train.train_and_evaluate(tiny_config(**changes, **every), str(tmp_path / name))
        step = int(re.match(r"step (\d+)", str(error.value))[1])
        kept = 0
        if has_checkpoint(tmp_path / name):
            checkpoint = Checkpoints(tmp_path / name)
            kept = checkpoint.latest()
            assert all(np.isfinite(a).all() for a in jax.tree.leaves(checkpoint.read_state()))
        assert kept == step - 1 - (step - 1) % every["checkpoint_every"]
        found.add(step)
    assert len(found) == 1


def test_a_damaged_checkpoint_costs_a_run_few_steps(finished_run, command, tmp_path):
    """Evaluation, without a config, and training alike take the one before; training comes to the same end."""
    workdir = shutil.copytree(finished_run[0], tmp_path / "copy")
    (workdir / "checkpoints" / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    overrides = "--config.eval.border=8", "--config.model.alignments=(1, 2, 1)"
    code, _, err = finish(command("--mode", "eval", f"-workdir={workdir}", *overrides, config=None))
    assert code == 0, err
    assert "checkpoint 3 is damaged" in err
    written = json.loads((workdir / "results.json").read_text())
    assert written["step"] == 2
    assert written["sets"]["embedded"]["border"] == 8
    assert train.train_and_evaluate(tiny_config(ema_decay=0.5, eval__every=2), str(workdir)) == finished_run[1]
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, params(workdir), params(finished_run[0]))


def test_a_damaged_record_stops_the_run_and_loses_no_step(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    prepare.prepare("photos", str(write(tmp_path / "in", {f"{i}.png": p for i, p in enumerate(pixels)})), str(tmp_path))
    damage(tmp_path, "photos")
    config = tiny_config(
        data__name="photos", data__dir=str(tmp_path), batch_size=1, steps=8, checkpoint_every=100, eval__sets=""
    )
    with pytest.raises(InputError, match=r"photos: record \d of 5 .* is damaged"):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    done = len(lines(tmp_path / "run"))
    assert 0 < done < 5
    assert Checkpoints(tmp_path / "run").latest() == done
    config.data.skip_damaged = True
    train.train_and_evaluate(config, str(tmp_path / "run"))
    records = lines(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(1, 9))
    assert records[-1]["train/skipped"] >= 1
    # Other images under the same name.
    shutil.rmtree(tmp_path / "photos")
    Image.fromarray(pixels[0, ::-1]).save(tmp_path / "in" / "0.png")
    prepare.prepare("photos", str(tmp_path / "in"), str(tmp_path))
    config.steps = 9
    with pytest.raises(
        InputError, match=r"another data set named photos: 5 examples .* there, 5 .* here\. To go on, put"
    ):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert Checkpoints(tmp_path / "run").latest() == 8


def test_workdir_of_another_config(finished_run, tmp_path):
    workdir, _ = finished_run
    with pytest.raises(InputError, match=r"another config's run(.|\n)*model\.features: 8 there, 16 here"):
        train.train_and_evaluate(tiny_config(ema_decay=0.5, model__features=16), str(workdir))
    assert json.loads((workdir / "config.json").read_text())["model"]["features"] == 8


def test_a_run_may_go_on_with_other_arithmetic(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run[0], tmp_path / "copy")
    before = (workdir / "eval" / "embedded" / "images.csv").read_text()
    train.evaluate_only(tiny_config(ema_decay=0.5, eval__every=2, model__dtype="bfloat16"), str(workdir))
    assert (workdir / "eval" / "embedded" / "images.csv").read_text() != before
    assert json.loads((workdir / "results.json").read_text())["model"]["dtype"] == "bfloat16"


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
    jax.tree.map(np.testing.assert_array_equal, initial_state(config).generator, params(finished_run[0]))
    larger = tiny_config(init_from=str(finished_run[0]), model__features=16)
    with pytest.raises(
        InputError, match=r"do not fit(.|\n)*context_encoder/conv_first/kernel: \(3, 3, 3, 16\) expected"
    ):
        initial_state(larger)
    with pytest.raises(InputError, match=r"no checkpoint in .*; the folder of a run expected"):
        initial_state(tiny_config(init_from=str(tmp_path)))


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
        initial_state(config)
    config.model.correspondence_channels = (64, 128, 256)
    loaded = initial_state(config).generator["correspondence"]["branch_ref"]["conv1_1"]["bias"]
    np.testing.assert_array_equal(loaded, state_dict("c2_extractor")["feature_extraction_image2.model.conv1_1.bias"])


def test_batch_that_devices_cannot_share(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(InputError, match=r"config\.batch_size: a multiple of 4 devices expected, such as 4, got 2"):
        train.train_and_evaluate(tiny_config(), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_evaluation_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint in .*; the folder of a run expected"):
        train.evaluate_only(tiny_config(), str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=0), r"config\.batch_size: a whole number from 1 to 65536 expected, got 0"),
        (dict(model__groups=3), r"config\.model does not describe a network: .*3 deform groups"),
        (
            dict(weights__vgg="none.pth"),
            r"config\.weights\.vgg: a file or folder of weights expected, there is no none\.pth",
        ),
        (dict(eval__patch=320), r"chelsea: at least 320x320 pixels expected"),
        (dict(eval__sets="set5"), r"dataset: one of cufed, .* expected, got 'set5'"),
        (dict(eval__sets="cufed5", eval__dir="nowhere"), "no prepared dataset cufed5 in nowhere"),
        (
            dict(eval__references="best"),
            r"config\.eval\.references: bicubic, .* or level_1, level_2, \.\.\. expected, got 'best'",
        ),
        (dict(eval__references="level_2"), r"config\.eval\.references: level_2 needs 2 reference\(s\), embedded has 1"),
    ],
)
def test_configs_that_cannot_work_end_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train.train_and_evaluate(tiny_config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_learning_rates_that_reach_nothing(tmp_path):
    config = tiny_config()
    config.learning_rates = ConfigDict(dict(default=1e-3, ofset_1x=0.0))
    with pytest.raises(InputError, match=r"config\.learning_rates\.ofset_1x: the model has no module of that name"):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    config.learning_rates = ConfigDict(dict(default=0.0, discriminator=1e-3))
    with pytest.raises(InputError, match=r"config\.learning_rates: a rate above 0 expected for a module of rrsr"):
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_initial_gain_and_matching_branches():
    once, thrice = (initial_state(tiny_config(init_gain=gain)).generator for gain in (1.0, 3.0))
    np.testing.assert_allclose(thrice["tail1"]["kernel"], 3 * once["tail1"]["kernel"], rtol=1e-6)
    select = "fas_2x_1", "select", "experts"
    np.testing.assert_allclose(get(thrice, *select), 3 * get(once, *select), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, thrice["vgg"], once["vgg"])
    jax.tree.map(np.testing.assert_array_equal, *once["correspondence"].values())


def get(tree, *path):
    return functools.reduce(lambda node, name: node[name], path, tree)


def test_the_paper_run_on_a_few_pairs(tmp_path):
    for i in range(2):
        for name in (f"input/{i}", f"ref/{i}", *(f"cufed5/00{i}_{k}" for k in range(6))):
            path = tmp_path / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            size = (160, 160, 3) if "cufed5" not in name else (48 + 4 * i, 52, 3)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)).save(path)
    prepare.prepare("cufed", str(tmp_path), str(tmp_path / "data"), count=2)
    prepare.prepare("cufed5", str(tmp_path / "cufed5"), str(tmp_path / "data"), count=2)
    config = cufed5.get_config()
    config.model.update({k: getattr(tiny_rrsr(), k) for k in config.model if k != "name"})
    config.data.dir = config.eval.dir = str(tmp_path / "data")
    config.eval.references = "bicubic,level_1"
    config.update(batch_size=1, steps=1)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    assert results["cufed5"]["images"] == 2
    assert lines(tmp_path / "run")[0]["step"] == 1
    assert Checkpoints(tmp_path / "run").latest() == 1


def test_training_on_photographs(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    prepare.prepare("photos", str(tmp_path / "in"), str(tmp_path / "data"))
    config = photos.get_config()
    tiny = tiny_config()
    config.update(model=tiny.model, batch_size=1, steps=1)
    config.data.update(dir=str(tmp_path / "data"), patch=32, warp_range=(1.0, 4.0))
    config.eval.update(crops=2, patch=48)
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    assert results["embedded"]["images"] == 2
