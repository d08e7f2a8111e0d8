"""Protocols, tables and pages of the evaluation."""

import csv
import functools
import json
import math
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import cufed5
from rrsr_jax.data import prepare
from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, protocols, report, results
from rrsr_jax.evaluation.metrics import quality, to_uint8
from tests.helpers import damage, noise, tiny_config, tiny_rrsr, write

RUN = {"step": 1}


def nearest(lr, ref, valid):
    """An upscaler that shows which input it got."""
    return lr.repeat(4, 0).repeat(4, 1)


def from_reference(lr, ref, valid):
    """An upscaler that shows which reference it got: the mean of its corner."""
    return np.full((4 * lr.shape[0], 4 * lr.shape[1], 3), ref[:8, :8].mean().round().astype(np.uint8))


def grey(value, height=40, width=36):
    return np.full((height, width, 3), value, np.uint8)


def open_set(data_dir, name, **changes):
    config = cufed5.get_config().eval
    config.update(dir=str(data_dir), **changes)
    return protocols.TestSet(name, config)


@pytest.fixture
def groups(tmp_path):
    """CUFED5's layout: three groups, the k-th reference of group g of grey 40 g + 5 k; odd sizes."""
    images = {f"{g:03}_{k}.png": grey(40 * g + 5 * k, 40 + k, 36 - k) for g in range(3) for k in range(1, 6)}
    images |= {f"{g:03}_0.png": noise(41 + g, 50, g) for g in range(3)}
    prepare.prepare("cufed5", str(write(tmp_path / "in", images)), str(tmp_path / "data"), count=3)
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path):
    """Five photographs, each of another size."""
    sizes = [(48, 60), (60, 48), (55, 57), (96, 99), (50, 50)]
    source = write(tmp_path / "in", {f"{i}.png": noise(*size, i) for i, size in enumerate(sizes)})
    prepare.prepare("photos", str(source), str(tmp_path / "data"))
    return tmp_path / "data"


def test_each_column_takes_its_reference(groups):
    test_set = open_set(groups, "cufed5")
    assert test_set.columns == ("bicubic", "level_1", "stack", "unrelated", "lr_itself")
    for g in range(3):
        example = test_set[g]
        for k in range(1, 6):
            np.testing.assert_array_equal(
                test_set.reference(f"level_{k}", g, example), grey(40 * g + 5 * k, 40 + k, 36 - k)
            )
        np.testing.assert_array_equal(test_set.reference("reference", g, example), example["refs"][0])
        np.testing.assert_array_equal(
            test_set.reference("lr_itself", g, example), downscale(example["hr"][: 40 + g // 3, :48])
        )
        unrelated = test_set.reference("unrelated", g, example)
        np.testing.assert_array_equal(unrelated, test_set[(g + 1) % 3]["refs"][0])
        other = test_set.reference("other", g, example)
        assert any(other is not None and np.array_equal(other, test_set[i]["hr"]) for i in range(3) if i != g)
        stacked = test_set.reference("stack", g, example)
        assert stacked.shape == (2500, 500, 3)
        for k in range(5):
            ref, canvas = example["refs"][k], stacked[500 * k : 500 * (k + 1)]
            np.testing.assert_array_equal(canvas[: ref.shape[0], : ref.shape[1]], ref)
            assert canvas.sum() == ref.sum()
        assert test_set.reference("all_references", g, example).shape == (5 * 45, 35, 3)


def test_the_drawn_reference_is_always_the_same_one(groups):
    test_set = open_set(groups, "cufed5", references="drawn")
    draws = [[test_set.reference("drawn", i, test_set[0])[0, 0, 0] for i in range(40)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert set(draws[0]) == {5, 10, 15, 20, 25}
    # Protocols depend on these: another seed or generator would make published sets other sets.
    assert [int(draw) // 5 for draw in draws[0][:8]] == [2, 4, 4, 1, 4, 2, 1, 2]


def test_references_larger_than_the_canvas():
    with pytest.raises(InputError, match="references of at most 500x500 pixels expected, got 501x20"):
        protocols.stack([noise(501, 20)], 500)


def test_the_paper_pads_before_downsampling():
    hr, ref = noise(41, 50), noise(30, 83, 1)
    lr, padded = protocols.paper_inputs(hr, ref)
    assert (lr.shape, padded.shape) == ((10, 20, 3), (40, 80, 3))
    whole = np.zeros((40, 80, 3), np.uint8)
    whole[:40, :48] = hr[:40, :48]
    np.testing.assert_array_equal(lr, downscale(whole))
    np.testing.assert_array_equal(padded[:28, :80], ref[:28, :80])
    assert not padded[28:].any()
    lr, padded = protocols.paper_inputs(noise(40, 48), noise(40, 48, 1))  # no padding
    np.testing.assert_array_equal(lr, downscale(noise(40, 48)))
    np.testing.assert_array_equal(padded, noise(40, 48, 1))


def test_bucketed_inputs_are_mirrored():
    hr, ref = noise(41, 50), noise(30, 83, 1)
    lr, padded = protocols.bucket_inputs(hr, ref, (64, 64, 32, 96))
    assert (lr.shape, padded.shape) == ((16, 16, 3), (32, 96, 3))
    exact = downscale(hr[:40, :48])
    np.testing.assert_array_equal(lr[:10, :12], exact)
    np.testing.assert_array_equal(lr[10:, :12], exact[:3:-1])
    np.testing.assert_array_equal(padded[:30, 83:], ref[:, :69:-1])


def test_buckets_hold_their_images_and_are_few():
    rng = np.random.default_rng(0)
    shapes = [tuple(int(n) for n in rng.integers(200, 500, 4)) for _ in range(300)]
    chosen = protocols.buckets(shapes)
    for shape, bucket in zip(shapes, chosen, strict=True):
        own = [-(-n // 32) * 32 for n in shape]
        assert all(b >= n and b % 32 == 0 for b, n in zip(bucket, shape, strict=True))
        assert bucket[0] * bucket[1] <= 1.5 * own[0] * own[1]
        assert bucket[2] * bucket[3] <= 1.5 * own[2] * own[3]
    assert len(set(chosen)) < len(set(shapes)) / 3
    assert protocols.buckets([(64, 64, 32, 32)] * 3) == [(64, 64, 32, 32)] * 3


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("exact", [True, False])
def test_the_part_that_is_no_padding_is_measured(groups, tmp_path, border, exact):
    test_set = open_set(groups, "cufed5", exact=exact, references="bicubic,level_1,level_2")
    seen = []

    def upscaler(lr, ref, valid):
        seen.append((lr, valid))
        # References are smaller than the inputs in width only: padded to them, or mirrored to buckets.
        assert (lr.shape, ref.shape) in ([((10, 12, 3), (40, 48, 3))] if exact else [((16, 16, 3), (64, 64, 3))])
        return nearest(lr, ref, valid)

    outcome = evaluate.evaluate(upscaler, test_set, border, tmp_path / "out", RUN)
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
    assert outcome.summary["columns"]["bicubic"]["psnr_y"] == pytest.approx(np.mean([row["psnr_y"] for row in rows]))
    assert outcome.summary["images"] == 3


def test_worse_than_no_reference_is_counted(groups, tmp_path):
    test_set = open_set(groups, "cufed5", references="level_1,level_5,lr_itself")
    better = {25, 65}  # level_5 of the first two groups

    def upscaler(lr, ref, valid):
        sr = from_reference(lr, ref, valid)
        return sr if sr[0, 0, 0] not in better else 64 + nearest(lr, ref, valid) // 2

    columns = evaluate.evaluate(upscaler, test_set, 0, tmp_path / "out", RUN).summary["columns"]
    assert columns["level_1"]["worse_than_lr_itself"] == 3
    assert columns["level_5"]["worse_than_lr_itself"] == 1
    assert "worse_than_lr_itself" not in columns["lr_itself"]


def test_a_failing_image_is_named_and_costs_only_itself(photos, tmp_path):
    def upscaler(lr, ref, valid):
        if valid == (24, 24):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand so on")
        return nearest(lr, ref, valid)

    test_set = open_set(photos, "photos")
    outcome = evaluate.evaluate(upscaler, test_set, 4, tmp_path / "out", RUN)
    reason = "RESOURCE_EXHAUSTED: Out of memory"
    assert outcome.summary["failed"] == {"3, lr_itself": reason, "3, unrelated": reason}
    assert {column: len(rows) for column, rows in outcome.scores.items()} == {
        "bicubic": 5,
        "lr_itself": 4,
        "unrelated": 4,
    }
    text = report.table({"photos": outcome.summary})
    assert "FAILED, and in no mean: 2" in text
    assert "3, unrelated: RESOURCE_EXHAUSTED" in text


def test_a_damaged_record_is_named(photos, tmp_path):
    index = damage(photos, "photos")
    test_set = open_set(photos, "photos", references="bicubic,lr_itself")
    outcome = evaluate.evaluate(nearest, test_set, 4, tmp_path / "out", RUN)
    assert set(outcome.summary["failed"]) == {f"record {index}, bicubic", f"record {index}, lr_itself"}
    assert f"photos: record {index} of 5" in outcome.summary["failed"][f"record {index}, bicubic"]
    assert set(outcome.scores["bicubic"]) == set("01234") - {str(index)}


def test_a_damaged_reference_costs_only_its_column(photos, tmp_path):
    index = damage(photos, "photos")
    test_set = open_set(photos, "photos", references="unrelated,lr_itself")
    failed = evaluate.evaluate(nearest, test_set, 4, tmp_path / "out", RUN).summary["failed"]
    own = {f"record {index}, {column}" for column in ("bicubic", "unrelated", "lr_itself")}
    assert set(failed) == own | {f"{(index - 2) % 5}, unrelated"}


def test_images_too_small_to_measure(tmp_path):
    prepare.prepare(
        "photos", str(write(tmp_path / "in", {"a.png": noise(16, 40), "b.png": noise(52, 52)})), str(tmp_path)
    )
    outcome = evaluate.evaluate(nearest, open_set(tmp_path, "photos", references="bicubic"), 4, tmp_path / "out", RUN)
    assert outcome.summary["failed"] == {"a, bicubic": "at least 11 pixels within borders of 4 expected, got 16x40"}


def test_an_interrupted_evaluation_goes_on(photos, tmp_path):
    calls, out = [], tmp_path / "out"

    def upscaler(lr, ref, valid):
        calls.append(valid)
        return nearest(lr, ref, valid)

    test_set = open_set(photos, "photos")
    with pytest.raises(evaluate.Stopped):
        evaluate.evaluate(upscaler, test_set, 4, out, RUN, stop=lambda: len(calls) == 5)
    text = (out / "images.csv").read_text()
    (out / "images.csv").write_text(text[:-9])  # the last row is cut off
    outcome = evaluate.evaluate(upscaler, test_set, 4, out, RUN)
    assert len(calls) == 5 + 1 + 5
    whole = evaluate.evaluate(upscaler, test_set, 4, tmp_path / "whole", RUN)
    assert outcome == whole
    assert (out / "images.csv").read_text() == (tmp_path / "whole" / "images.csv").read_text()
    before = len(calls)
    evaluate.evaluate(upscaler, test_set, 4, out, RUN)
    assert len(calls) == before
    evaluate.evaluate(upscaler, test_set, 4, out, {"step": 2})
    assert len(calls) == before + 10


def test_results_without_a_metric_are_not_taken_over(photos, tmp_path):
    out, test_set = tmp_path / "out", open_set(photos, "photos", references="bicubic")
    fresh = evaluate.evaluate(None, test_set, 4, out, RUN)
    run = json.loads((out / "run.json").read_text())
    del run["metrics"]  # as written before there was GMSD
    (out / "run.json").write_text(json.dumps(run))
    text = (out / "images.csv").read_text()
    (out / "images.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in text.splitlines()))
    assert evaluate.evaluate(None, test_set, 4, out, RUN) == fresh
    assert (out / "images.csv").read_text() == text


def test_results_of_another_choice_of_images_or_columns_are_not_taken_over(photos, tmp_path):
    """`unrelated` depends on how many images there are, and buckets on all shapes."""
    fresh = {}
    for limit, columns in ((2, ""), (0, ""), (0, "lr_itself"), (0, "")):
        test_set = open_set(photos, "photos", limit=limit, references=columns)
        fresh = evaluate.evaluate(from_reference, test_set, 4, tmp_path / f"fresh{limit}{columns}", RUN)
        assert evaluate.evaluate(from_reference, test_set, 4, tmp_path / "same", RUN) == fresh
    names = {path.relative_to(tmp_path / "same").as_posix() for path in (tmp_path / "same").rglob("*.png")}
    assert names == {f"{column}/{i}.png" for column in ("bicubic", "lr_itself", "unrelated") for i in range(5)}


def test_results_of_another_preparation_are_not_taken_over(tmp_path):
    for seed in (0, 5):
        source = write(tmp_path / f"in{seed}", {"a.png": noise(48, 48, seed), "b.png": noise(48, 48, seed + 1)})
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        prepare.prepare("photos", str(source), str(tmp_path / "data"))
        outcome = evaluate.evaluate(nearest, open_set(tmp_path / "data", "photos"), 4, tmp_path / "out", RUN)
        hr = noise(48, 48, seed)
        assert outcome.scores["bicubic"]["a"] == quality(upscale(downscale(hr)), hr, 4)


def test_a_set_of_one_image_has_no_other(tmp_path):
    prepare.prepare("photos", str(write(tmp_path / "in", {"a.png": noise(48, 48)})), str(tmp_path))
    assert open_set(tmp_path, "photos").columns == ("bicubic", "lr_itself")
    with pytest.raises(
        InputError, match=r"config\.eval\.columns: unrelated takes another image of the set; photos has one only"
    ):
        open_set(tmp_path, "photos", references="unrelated")


def test_columns_that_are_asked_for(groups):
    assert open_set(groups, "cufed5", references="level_2,level_2,bicubic").columns == ("bicubic", "level_2")
    for columns in ("level_0", "level_6", "best"):
        with pytest.raises(InputError, match=r"config\.eval\.columns"):
            open_set(groups, "cufed5", references=columns)


def test_only_published_columns_are_padded_as_published(groups):
    test_set = open_set(groups, "cufed5")
    assert [test_set.exact(column) for column in test_set.columns[1:]] == [True, True, False, False]
    assert not open_set(groups, "cufed5", exact=False).exact("level_1")


def test_each_pair_of_sizes_is_compiled_once(photos, tmp_path):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, lr, ref):
            traces.append((lr.shape, ref.shape))
            return jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2)

    run = evaluate.make_upscaler(Counted())
    test_set = open_set(photos, "photos")
    evaluate.evaluate(functools.partial(run, {}), test_set, 4, tmp_path / "out", RUN)
    assert len(traces) == len(set(traces)) < 2 * len(test_set)


def test_equal_images_leave_the_mean_finite(tmp_path):
    source = write(tmp_path / "in", {"flat.png": grey(255, 48, 48), "b.png": noise(48, 48)})
    prepare.prepare("photos", str(source), str(tmp_path))
    outcome = evaluate.evaluate(None, open_set(tmp_path, "photos", references="bicubic"), 4, tmp_path / "out", RUN)
    assert outcome.scores["bicubic"]["flat"] == {"psnr_y": 100.0, "ssim_y": 1.0, "gmsd_y": 0.0}


def test_per_image_rows(photos, tmp_path):
    outcome = evaluate.evaluate(nearest, open_set(photos, "photos"), 4, tmp_path / "out", RUN)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines()))
    assert len(rows) == 15
    assert len({(row["name"], row["column"]) for row in rows}) == 15
    for row in rows:
        assert list(row) == ["name", "column", *evaluate.METRICS]
        for metric in evaluate.METRICS:
            assert float(row[metric]) == outcome.scores[row["column"]][row["name"]][metric]


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
    params = model.init(jax.random.key(0), lr[None] / 255.0, ref[None] / 255.0)["params"]
    grown = jax.tree.map(lambda a: 3 * a + 0.02 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    assert model.reach == 1 + 2 + 8 + math.ceil(8 + 14 / 2 + 8 / 4) < 140 - 32 - 14
    monkeypatch.setattr(evaluate, "STEP", 1)
    seen = []
    whole = model.apply({"params": grown}, *(a[None].astype(np.float32) / 255 for a in (lr, ref)), np.array([[14, 11]]))
    monkeypatch.setattr(
        type(model),
        "apply",
        lambda self, v, lr, *a, **k: seen.append(lr.shape) or nn.Module.apply(self, v, lr, *a, **k),
    )
    sr = evaluate.make_upscaler(model)(grown, lr, ref, (14, 11))
    assert seen == [(1, 14 + model.reach, 16, 3)]
    np.testing.assert_array_equal(sr[:56, :44], to_uint8(whole[0])[:56, :44])
    assert sr[:56, :44].std() > 5


class PadsItself(nn.Module):
    """Nearest neighbour, plus the mean of all pixels of the reference: any padding shows."""

    pads_itself = True

    @nn.compact
    def __call__(self, lr, ref):
        return jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2) / 2 + ref.mean((1, 2), keepdims=True) / 2


@pytest.mark.parametrize("exact", [True, False])
def test_a_model_that_pads_itself_gets_both_images_bare(tmp_path, exact):
    """A reference of 132 x 148 would lie in a bucket of 160 x 160, and the published protocol would add zeros."""
    images = {"000_0.png": noise(48, 60), **{f"000_{k}.png": noise(132, 148, k) for k in range(1, 6)}}
    prepare.prepare("cufed5", str(write(tmp_path / "in", images)), str(tmp_path / "data"), count=1)
    test_set = open_set(tmp_path / "data", "cufed5", exact=exact, references="level_1,lr_itself")
    config = tiny_config(eval__border=0)
    run = results.super_resolution(PadsItself(), [test_set], config)
    assert not run({}, 0, tmp_path / "run", bool)["cufed5"]["failed"]
    lr = downscale(images["000_0.png"])
    for column, ref in (("level_1", images["000_1.png"]), ("lr_itself", lr)):
        expected = PadsItself().apply({}, *(image[None].astype(np.float32) / 255 for image in (lr, ref)))
        with Image.open(tmp_path / "run" / "eval" / "cufed5" / column / "000.png") as image:
            np.testing.assert_array_equal(np.asarray(image), to_uint8(np.asarray(expected)[0]))


def test_embedded_photographs():
    config = tiny_config(eval__crops=4).eval
    (test_set,) = protocols.test_sets(config)
    names = [example["name"] for example in test_set]
    assert [name.split("_")[0] for name in names] == ["chelsea", "chelsea", "coffee", "coffee"]
    again = protocols.test_sets(config)[0]
    for i, example in enumerate(test_set):
        np.testing.assert_array_equal(example["hr"], again[i]["hr"])
        other = test_set[(i + 2) % 4]
        np.testing.assert_array_equal(test_set.reference("unrelated", i, example), other["refs"][0])


def summary(images, psnr=25.0):
    row = {"psnr_y": psnr, "ssim_y": 0.7, "gmsd_y": 0.125}
    columns = {"bicubic": row, "level_1": row | {"psnr_y": psnr + 1.5}}
    return {"images": images, "border": 4, "columns": columns, "failed": {}, "exact": True}


def test_published_figures_stand_beside_whole_sets_only():
    text = report.table({"cufed5": summary(126)})
    assert re.search(r"level 1 +26\.50 dB +0\.7000 +0\.1250 +\+1\.50 dB", text)
    assert re.search(r"published: RRSR-rec +28\.83 +0\.856", text)
    assert "published" not in report.table({"cufed5": summary(125), "cufed5/mine": summary(126), "photos": summary(3)})
    for change in ({"exact": False}, {"failed": {"000, level_1": "no memory"}}):
        assert "published" not in report.table({"cufed5": summary(126) | change})
    before = summary(3)
    before["columns"] = {"bicubic": {"psnr_y": 25.0, "ssim_y": 0.7}}  # as written before there was GMSD
    assert re.search(r"bicubic +25\.00 dB +0\.7000 +nan\n", report.table({"photos": before}) + "\n")


def test_the_page_shows_worst_and_best_and_needs_nothing_else(photos, tmp_path):
    def upscaler(lr, ref, valid):  # image 3 is worst, 4 is best
        index = {(12, 15): 0, (15, 12): 1, (13, 14): 2, (24, 24): 3, (12, 12): 4}[valid]
        hr = protocols.crop_to_multiple(test_set[index]["hr"])
        sr = nearest(lr, ref, valid)
        if index == 4:
            sr[: hr.shape[0], : hr.shape[1]] = hr // 2 + upscale(downscale(hr)) // 2
        return sr // 4 if index == 3 else sr

    test_set = open_set(photos, "photos")
    outcome = evaluate.evaluate(upscaler, test_set, 4, tmp_path, RUN)
    report.write_page(tmp_path / "index.html", test_set, outcome, shown=2)
    page = (tmp_path / "index.html").read_text()
    captions = re.findall(r"<figcaption>(.*?): ([+-][\d.]+) dB", page)
    assert [name for name, _ in captions] == ["3", "4"]
    assert float(captions[0][1]) < float(captions[1][1])
    assert not re.search(r"https?://|src=\"(?!data:)", page)
    for data in re.findall(r'<script type="application/json">(.*?)</script>', page):
        pictures = json.loads(data)
        assert len(pictures) == 4
        assert re.match(r"bicubic, \d+\.\d\d dB, GMSD 0\.\d{4}$", list(pictures)[1])
        assert all(url.startswith("data:image/jpeg;base64,") for url in pictures.values())
    report.write_sheets(tmp_path, test_set, outcome, 2)
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 2


def test_bicubic_alone_needs_no_model(photos, tmp_path):
    test_set = open_set(photos, "photos", references="bicubic")
    outcome = evaluate.evaluate(None, test_set, 0, tmp_path, RUN)
    report.write_page(tmp_path / "index.html", test_set, outcome, shown=2)
    report.write_sheets(tmp_path, test_set, outcome, 2)
    assert list(outcome.summary["columns"]) == ["bicubic"]
    assert not (tmp_path / "sheets").exists()
