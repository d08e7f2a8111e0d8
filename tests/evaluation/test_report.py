"""What an evaluation shows: text beside published figures, pages, sheets."""

import json
import re

from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.evaluation import evaluate, metrics, page, protocols, report
from tests.helpers import nearest, noise, open_set

IDENTITY = {"step": 1}


def result(images, psnr=25.0):
    row = {"psnr_y": psnr, "ssim_y": 0.7, "gmsd_y": 0.125}
    references = {"bicubic": row, "level_1": row | {"psnr_y": psnr + 1.5}}
    return {"images": images, "border": 4, "references": references, "failed": {}, "published_padding": True}


def test_published_figures_stand_beside_complete_benchmarks_only():
    text = report.as_text({"cufed5": result(126)})
    assert re.search(r"level 1 +26\.50 dB +0\.7000 +0\.1250 +\+1\.50 dB", text)
    assert re.search(r"published: RRSR-rec +28\.83 +0\.856", text)
    assert "published" not in report.as_text({"cufed5": result(125), "cufed5/mine": result(126), "photos": result(3)})
    for change in ({"published_padding": False}, {"failed": {"000, level_1": "no memory"}}):
        assert "published" not in report.as_text({"cufed5": result(126) | change})


def test_failed_images_stand_below_the_means():
    text = report.as_text({"photos": result(3) | {"failed": {"3, unrelated": "out of memory"}}, "mine": result(2)})
    assert "FAILED, and in no mean: 1\n  3, unrelated: out of memory\n\nmine: 2 images" in text


def test_what_was_measured_besides_has_columns():
    text = report.as_text({"photos": result(3)})
    assert "lower GMSD is better" in text
    assert not re.search("LPIPS|NIQE", text)
    more = result(3)
    more["references"]["bicubic"] |= {"niqe": 6.5, "lpips": 0.25}
    more["references"]["level_1"] |= {"lpips": 0.125}
    title, columns, bicubic, level_1, notice = report.as_text({"photos": more}).splitlines()
    assert title.endswith("lower GMSD and NIQE and LPIPS are better")
    assert columns.split()[:5] == ["PSNR", "SSIM", "GMSD", "NIQE", "LPIPS"]
    assert bicubic.split() == ["bicubic", "25.00", "dB", "0.7000", "0.1250", "6.50", "0.2500"]
    assert level_1[: columns.index("LPIPS") + 5].split()[-2:] == ["0.1250", "0.1250"]
    assert level_1[columns.index("NIQE") : columns.index("NIQE") + 4].strip() == ""
    assert "University of Texas" in notice


def test_the_page_shows_worst_and_best_and_needs_nothing_else(photos, tmp_path):
    def upscaler(lr, ref, valid):  # image 3 is worst, 4 is best
        index = {(12, 15): 0, (15, 12): 1, (13, 14): 2, (24, 24): 3, (12, 12): 4}[valid]
        hr = protocols.crop_to_multiple(test_set[index]["hr"])
        sr = nearest(lr, ref, valid)
        if index == 4:
            sr[: hr.shape[0], : hr.shape[1]] = hr // 2 + upscale(downscale(hr)) // 2
        return sr // 4 if index == 3 else sr

    test_set = open_set(photos, "photos")
    chosen = metrics.Metrics(True, {"dists": lambda a, b: 0.1})  # all images are too small for NIQE
    outcome = evaluate.evaluate_set(upscaler, test_set, 4, tmp_path, IDENTITY, metrics=chosen)
    page.write_page(tmp_path / "index.html", test_set, outcome, shown=2)
    text = (tmp_path / "index.html").read_text()
    captions = re.findall(r"<figcaption>(.*?): ([+-][\d.]+) dB", text)
    assert [name for name, _ in captions] == ["3", "4"]
    assert float(captions[0][1]) < float(captions[1][1])
    assert not re.search(r"https?://|src=\"(?!data:)", text)
    for data in re.findall(r'<script type="application/json">(.*?)</script>', text):
        pictures = json.loads(data)
        assert len(pictures) == 4
        assert re.match(r"bicubic, \d+\.\d\d dB, GMSD 0\.\d{4}, DISTS 0\.1000$", list(pictures)[1])
        assert all(url.startswith("data:image/jpeg;base64,") for url in pictures.values())
    report.write_sheets(tmp_path, test_set, outcome, 2)
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 2


def test_the_detail_is_where_the_error_falls_most():
    hr = noise(60, 80)
    bicubic = hr.copy()
    bicubic[30:40, 50:60] //= 2
    left, top, right, bottom = report._detail_box(bicubic, hr, hr, side=16)
    assert left <= 50 < 60 <= right
    assert top <= 30 < 40 <= bottom
    assert (right - left, bottom - top) == (16, 16)


def test_bicubic_alone_needs_no_model(photos, tmp_path):
    test_set = open_set(photos, "photos", references="bicubic")
    outcome = evaluate.evaluate_set(None, test_set, 0, tmp_path, IDENTITY)
    page.write_page(tmp_path / "index.html", test_set, outcome, shown=2)
    report.write_sheets(tmp_path, test_set, outcome, 2)
    assert list(outcome.result["references"]) == ["bicubic"]
    assert not (tmp_path / "sheets").exists()
