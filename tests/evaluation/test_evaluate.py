"""Evaluation of one test set: what is measured, what fails, and how it continues."""

import csv
import functools
import math
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rrsr_jax import models
from rrsr_jax.data import prepare
from rrsr_jax.data.images import downscale, to_uint8, upscale
from rrsr_jax.evaluation import evaluate, metrics, protocols
from rrsr_jax.evaluation.metrics import quality
from rrsr_jax.evaluation.niqe import niqe
from rrsr_jax.evaluation.sharing import Stopped
from rrsr_jax.training import stages
from rrsr_jax.training.step import make_mesh
from tests.helpers import damage, grey, nearest, noise, open_set, random_params, tiny_config, tiny_rrsr, write

IDENTITY = {"step": 1}


def from_reference(lr, ref, valid):
    """An upscaler that shows which reference it got: the mean of its corner."""
    return np.full((4 * lr.shape[0], 4 * lr.shape[1], 3), ref[:8, :8].mean().round().astype(np.uint8))


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("published", [True, False])
def test_the_part_that_is_no_padding_is_measured(groups, tmp_path, border, published):
    test_set = open_set(groups, "cufed5", published_padding=published, references="bicubic,level_1,level_2")
    seen = []

    def upscaler(lr, ref, valid):
        seen.append((lr, valid))
        # References are smaller than the inputs in width only: both are padded to a common size, or mirrored into buckets.
        assert (lr.shape, ref.shape) in ([((10, 12, 3), (40, 48, 3))] if published else [((16, 16, 3), (64, 64, 3))])
        return nearest(lr, ref, valid)

    outcome = evaluate.evaluate_set(upscaler, test_set, border, tmp_path / "out", IDENTITY)
    for i, name in enumerate(outcome.names):
        hr = protocols.crop_to_multiple(test_set[i]["hr"])
        lr, valid = seen[2 * i]
        assert valid == (hr.shape[0] // 4, hr.shape[1] // 4)
        sr = nearest(lr, None, None)[: hr.shape[0], : hr.shape[1]]
        assert outcome.scores["level_1"][name] == quality(sr, hr, border)
        assert outcome.scores["bicubic"][name] == quality(upscale(downscale(hr)), hr, border)
        with Image.open(tmp_path / "out" / "level_1" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), sr)
    rows = outcome.scores["bicubic"].values()
    assert outcome.result["references"]["bicubic"]["psnr_y"] == pytest.approx(np.mean([row["psnr_y"] for row in rows]))
    assert outcome.result["images"] == 3


def test_worse_than_no_reference_is_counted(groups, tmp_path):
    test_set = open_set(groups, "cufed5", references="level_1,level_5,lr_itself")
    better = {25, 65}  # level_5 of the first two groups

    def upscaler(lr, ref, valid):
        sr = from_reference(lr, ref, valid)
        return sr if sr[0, 0, 0] not in better else 64 + nearest(lr, ref, valid) // 2

    means = evaluate.evaluate_set(upscaler, test_set, 0, tmp_path / "out", IDENTITY).result["references"]
    assert means["level_1"]["worse_than_lr_itself"] == 3
    assert means["level_5"]["worse_than_lr_itself"] == 1
    assert "worse_than_lr_itself" not in means["lr_itself"]


def test_a_failing_image_is_named_and_costs_only_itself(photos, tmp_path):
    def upscaler(lr, ref, valid):
        if valid == (24, 24):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand so on")
        return nearest(lr, ref, valid)

    test_set = open_set(photos, "photos")
    outcome = evaluate.evaluate_set(upscaler, test_set, 4, tmp_path / "out", IDENTITY)
    reason = "RESOURCE_EXHAUSTED: Out of memory"
    assert outcome.result["failed"] == {"3, lr_itself": reason, "3, unrelated": reason}
    assert {reference: len(rows) for reference, rows in outcome.scores.items()} == {
        "bicubic": 5,
        "lr_itself": 4,
        "unrelated": 4,
    }


def test_a_damaged_record_is_named(photos, tmp_path):
    index = damage(photos, "photos")
    test_set = open_set(photos, "photos", references="bicubic,lr_itself")
    outcome = evaluate.evaluate_set(nearest, test_set, 4, tmp_path / "out", IDENTITY)
    assert set(outcome.result["failed"]) == {f"record {index}, bicubic", f"record {index}, lr_itself"}
    assert f"photos: record {index} of 5" in outcome.result["failed"][f"record {index}, bicubic"]
    assert set(outcome.scores["bicubic"]) == set("01234") - {str(index)}


def test_a_damaged_reference_costs_only_itself(photos, tmp_path):
    index = damage(photos, "photos")
    test_set = open_set(photos, "photos", references="unrelated,lr_itself")
    failed = evaluate.evaluate_set(nearest, test_set, 4, tmp_path / "out", IDENTITY).result["failed"]
    own = {f"record {index}, {reference}" for reference in ("bicubic", "unrelated", "lr_itself")}
    assert set(failed) == own | {f"{(index - 2) % 5}, unrelated"}


def test_images_too_small_to_measure(tmp_path):
    prepare.prepare(
        "photos", str(write(tmp_path / "in", {"a.png": noise(16, 40), "b.png": noise(52, 52)})), str(tmp_path)
    )
    outcome = evaluate.evaluate_set(
        nearest, open_set(tmp_path, "photos", references="bicubic"), 4, tmp_path / "out", IDENTITY
    )
    assert outcome.result["failed"] == {"a, bicubic": "at least 11 pixels within borders of 4 expected, got 16x40"}


def test_an_interrupted_evaluation_goes_on(photos, tmp_path):
    calls, out = [], tmp_path / "out"

    def upscaler(lr, ref, valid):
        calls.append(valid)
        return nearest(lr, ref, valid)

    test_set = open_set(photos, "photos")
    with pytest.raises(Stopped):
        evaluate.evaluate_set(upscaler, test_set, 4, out, IDENTITY, stop=lambda: len(calls) == 5)
    text = (out / "images.csv").read_text()
    (out / "images.csv").write_text(text[:-9])  # the last row is cut off
    outcome = evaluate.evaluate_set(upscaler, test_set, 4, out, IDENTITY)
    assert len(calls) == 5 + 1 + 5
    uninterrupted = evaluate.evaluate_set(upscaler, test_set, 4, tmp_path / "uninterrupted", IDENTITY)
    assert outcome == uninterrupted
    assert (out / "images.csv").read_text() == (tmp_path / "uninterrupted" / "images.csv").read_text()
    before = len(calls)
    evaluate.evaluate_set(upscaler, test_set, 4, out, IDENTITY)
    assert len(calls) == before
    evaluate.evaluate_set(upscaler, test_set, 4, out, {"step": 2})
    assert len(calls) == before + 10


def test_results_without_a_metric_are_not_taken_over(photos, tmp_path):
    """Nor those by other weights."""
    test_set = open_set(photos, "photos", references="bicubic")

    def run(folder, value=None):
        distances, checksums = ({}, {}) if value is None else ({"lpips": lambda a, b: value}, {"lpips": int(value)})
        chosen = metrics.Metrics(False, distances, checksums)
        return evaluate.evaluate_set(None, test_set, 4, tmp_path / folder, IDENTITY, metrics=chosen)

    run("out")
    assert run("out", 1.0) == run("fresh", 1.0)
    assert run("out", 2.0).result["references"]["bicubic"]["lpips"] == 2


def test_what_an_image_does_not_have_is_in_no_mean(tmp_path):
    """NIQE needs two blocks of 96 pixels within the border, and none that is flat."""
    large = noise(104, 200)
    images = {"flat.png": grey(9, 104, 200), "large.png": large, "small.png": noise(100, 200)}
    prepare.prepare("photos", str(write(tmp_path / "in", images)), str(tmp_path / "data"))
    test_set, chosen = open_set(tmp_path / "data", "photos", references="bicubic"), metrics.Metrics(niqe=True)
    outcome = evaluate.evaluate_set(None, test_set, 4, tmp_path / "out", IDENTITY, metrics=chosen)
    expected = niqe(upscale(downscale(large)), 4)
    assert outcome.result["references"]["bicubic"]["niqe"] == expected
    assert [name for name, row in outcome.scores["bicubic"].items() if not math.isnan(row["niqe"])] == ["large"]
    assert evaluate.evaluate_set(None, test_set, 4, tmp_path / "out", IDENTITY, metrics=chosen).result == outcome.result
    limited = open_set(tmp_path / "data", "photos", references="bicubic", limit=1)
    result = evaluate.evaluate_set(None, limited, 4, tmp_path / "flat", IDENTITY, metrics=chosen).result
    assert "niqe" not in result["references"]["bicubic"]


def test_results_of_another_choice_of_images_or_references_are_not_taken_over(photos, tmp_path):
    """`unrelated` depends on how many images there are, and buckets on all shapes."""
    fresh = {}
    for limit, references in ((2, ""), (0, ""), (0, "lr_itself"), (0, "")):
        test_set = open_set(photos, "photos", limit=limit, references=references)
        fresh = evaluate.evaluate_set(from_reference, test_set, 4, tmp_path / f"fresh{limit}{references}", IDENTITY)
        assert evaluate.evaluate_set(from_reference, test_set, 4, tmp_path / "same", IDENTITY) == fresh
    names = {path.relative_to(tmp_path / "same").as_posix() for path in (tmp_path / "same").rglob("*.png")}
    assert names == {f"{reference}/{i}.png" for reference in ("bicubic", "lr_itself", "unrelated") for i in range(5)}


def pictures(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_evaluation_loses_nothing(photos, tmp_path, capsys):
    """A narrower one, a wider one, another set of parameters: what was there is kept, and goes on where it was."""
    calls, out = [], tmp_path / "out"

    def upscaler(lr, ref, valid):
        calls.append(valid)
        return nearest(lr, ref, valid)

    def run(identity, **changes):
        return evaluate.evaluate_set(upscaler, open_set(photos, "photos", **changes), 4, out, identity)

    outcome, whole = run(IDENTITY), pictures(out)
    for number, (identity, changes) in enumerate(
        [(IDENTITY, dict(references="bicubic")), (IDENTITY, dict(limit=2)), ({"step": "other"}, {})], start=1
    ):
        run(identity, **changes)
        assert pictures(tmp_path / "out.1") == whole
        assert f"out has other results; they are kept as {out}.{number}" in capsys.readouterr().err
    before = len(calls)
    assert run(IDENTITY) == outcome
    assert pictures(out) == whole
    assert len(calls) == before, "nothing is computed again"
    assert f"{out}.1, of the same evaluation as this one, is {out} again" in capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("out*")} == {"out", "out.2", "out.3", "out.4"}
    (out / "identity.json").write_text("{")  # damaged: neither used nor removed
    run(IDENTITY)
    assert pictures(tmp_path / "out.1").keys() == whole.keys()


def test_of_an_earlier_step_the_scores_are_kept(photos, tmp_path, capsys):
    test_set, out = open_set(photos, "photos", references="bicubic"), tmp_path / "out"
    for step in (1, 2):
        evaluate.evaluate_set(None, test_set, 4, out, {"step": step, "parameters": 10 * step})
        (out / "sheets").mkdir(exist_ok=True)
    assert "pictures of step 2 replace those of step 1" in capsys.readouterr().err
    assert (out / "images.step_1.csv").read_text() == (out / "images.csv").read_text()
    evaluate.evaluate_set(None, test_set, 4, out, {"step": 1, "parameters": 10})
    assert (tmp_path / "out.1" / "images.step_1.csv").exists()


def test_a_damaged_row_is_computed_again(photos, tmp_path):
    test_set = open_set(photos, "photos", references="bicubic")
    outcome = evaluate.evaluate_set(None, test_set, 4, tmp_path / "out", IDENTITY)
    path = tmp_path / "out" / "images.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], "0,bicubic,many,0.5,0.1", "1,bicubic", *rows[3:], ""]))
    assert evaluate.evaluate_set(None, test_set, 4, tmp_path / "out", IDENTITY) == outcome


def test_results_of_another_preparation_are_not_taken_over(tmp_path):
    for seed in (0, 5):
        source = write(tmp_path / f"in{seed}", {"a.png": noise(48, 48, seed), "b.png": noise(48, 48, seed + 1)})
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        prepare.prepare("photos", str(source), str(tmp_path / "data"))
        outcome = evaluate.evaluate_set(nearest, open_set(tmp_path / "data", "photos"), 4, tmp_path / "out", IDENTITY)
        hr = noise(48, 48, seed)
        assert outcome.scores["bicubic"]["a"] == quality(upscale(downscale(hr)), hr, 4)


def test_each_pair_of_sizes_is_compiled_once(photos, tmp_path):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, lr, ref):
            traces.append((lr.shape, ref.shape))
            return jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2)

    run = evaluate.make_upscaler(Counted())
    test_set = open_set(photos, "photos")
    evaluate.evaluate_set(functools.partial(run, {}), test_set, 4, tmp_path / "out", IDENTITY)
    assert len(traces) == len(set(traces)) < 2 * len(test_set)


def test_flat_images_leave_the_mean_finite(tmp_path):
    source = write(tmp_path / "in", {f"{v}.png": grey(v, 48, 48) for v in (0, 128, 255)} | {"b.png": noise(48, 48)})
    prepare.prepare("photos", str(source), str(tmp_path / "data"))
    test_set = open_set(tmp_path / "data", "photos", references="unrelated")
    outcome = evaluate.evaluate_set(from_reference, test_set, 4, tmp_path / "out", IDENTITY)
    for value in ("0", "128", "255"):
        assert outcome.scores["bicubic"][value] == {"psnr_y": 100.0, "ssim_y": 1.0, "gmsd_y": 0.0}
    assert all(np.isfinite(list(means.values())).all() for means in outcome.result["references"].values())


def test_a_result_that_is_not_finite_fails(photos, tmp_path):
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, lr, ref):
            big = jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2)
            return jnp.where(lr.shape[1] == 24, jnp.nan, 1) * big  # of the largest image

    upscaler = functools.partial(evaluate.make_upscaler(Broken()), {})
    test_set = open_set(photos, "photos", references="lr_itself")
    outcome = evaluate.evaluate_set(upscaler, test_set, 4, tmp_path / "out", IDENTITY)
    reason = "the model's result is not finite; evaluate another checkpoint or other weights"
    assert outcome.result["failed"] == {"3, lr_itself": reason}
    assert set(outcome.scores["lr_itself"]) == set("0124")


def test_per_image_rows(photos, tmp_path):
    outcome = evaluate.evaluate_set(nearest, open_set(photos, "photos"), 4, tmp_path / "out", IDENTITY)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines()))
    assert len(rows) == 15
    assert len({(row["name"], row["reference"]) for row in rows}) == 15
    for row in rows:
        assert list(row) == ["name", "reference", *metrics.ALWAYS]
        for metric in metrics.ALWAYS:
            assert float(row[metric]) == outcome.scores[row["reference"]][row["name"]][metric]


def test_the_model_gets_the_valid_part():
    class ShowValid(nn.Module):
        @nn.compact
        def __call__(self, lr, ref, valid=None):
            big = jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2)
            return jnp.where(jnp.arange(3) == 0, valid[:, :1], valid[:, 1:])[:, None, None] / 255 + 0 * big

    sr = evaluate.make_upscaler(ShowValid())({}, noise(16, 20), noise(64, 48, 1), (12, 8))
    np.testing.assert_array_equal(sr, np.broadcast_to([12, 8, 8], (64, 80, 3)))


def test_a_model_that_knows_no_padding():
    class Resize(nn.Module):
        @nn.compact
        def __call__(self, lr, ref):
            return jax.image.resize(lr, (lr.shape[0], 4 * lr.shape[1], 4 * lr.shape[2], 3), "nearest")

    lr = noise(5, 6)
    np.testing.assert_array_equal(
        evaluate.make_upscaler(Resize())({}, lr, noise(20, 20), (4, 4)), nearest(lr, None, None)
    )


def test_padding_out_of_reach_is_left_out_and_changes_nothing(monkeypatch):
    """As in the five-reference protocol, where the input is padded to five times its height."""
    model = tiny_rrsr()
    lr = np.zeros((140, 16, 3), np.uint8)
    lr[:14, :11] = noise(14, 11)
    ref = noise(60, 64, 1)
    params = random_params(model)
    assert model.reach == 1 + 2 + 8 + math.ceil(8 + 14 / 2 + 8 / 4) < 140 - 32 - 14
    monkeypatch.setattr(evaluate, "SIZE_MULTIPLE", 1)
    seen = []
    uncut = jax.jit(model.apply)(
        {"params": params}, *(a[None].astype(np.float32) / 255 for a in (lr, ref)), np.array([[14, 11]])
    )
    monkeypatch.setattr(
        type(model),
        "apply",
        lambda self, v, lr, *a, **k: seen.append(lr.shape) or nn.Module.apply(self, v, lr, *a, **k),
    )
    sr = evaluate.make_upscaler(model)(params, lr, ref, (14, 11))
    assert seen == [(1, 14 + model.reach, 16, 3)]
    np.testing.assert_array_equal(sr[:56, :44], to_uint8(uncut[0])[:56, :44])
    assert sr[:56, :44].std() > 5


class PadsItself(nn.Module):
    """Nearest neighbour, plus the mean of all pixels of the reference: any padding shows."""

    pads_itself = True

    @nn.compact
    def __call__(self, lr, ref):
        return jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2) / 2 + ref.mean((1, 2), keepdims=True) / 2


@pytest.mark.parametrize("published", [True, False])
def test_a_model_that_pads_itself_gets_both_images_bare(tmp_path, monkeypatch, published):
    """A reference of 132 x 148 would lie in a bucket of 160 x 160, and the published protocol would add zeros."""
    images = {"000_0.png": noise(48, 60), **{f"000_{k}.png": noise(132, 148, k) for k in range(1, 6)}}
    prepare.prepare("cufed5", str(write(tmp_path / "in", images)), str(tmp_path / "data"), count=1)
    config = tiny_config(eval__sets="cufed5", eval__dir=str(tmp_path / "data"), eval__border=0)
    config.eval.update(published_padding=published, references="level_1,lr_itself")
    model = PadsItself()
    monkeypatch.setattr(models, "build", lambda config: model)
    results = stages.build(config, make_mesh(jax.devices()[:1])).evaluate({}, 0, tmp_path, bool)
    assert not results["cufed5"]["failed"]
    lr = downscale(images["000_0.png"])
    for reference, ref in (("level_1", images["000_1.png"]), ("lr_itself", lr)):
        expected = model.apply({}, *(image[None].astype(np.float32) / 255 for image in (lr, ref)))
        with Image.open(tmp_path / "eval" / "cufed5" / reference / "000.png") as image:
            np.testing.assert_array_equal(np.asarray(image), to_uint8(np.asarray(expected)[0]))
