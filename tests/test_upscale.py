"""`python -m rrsr_jax.upscale`: files in and out, what is said and refused, folders, signals. The network is a stand-in."""

import contextlib
import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from rrsr_jax import upscale
from rrsr_jax.evaluation import comparison_page
from rrsr_jax.inference import jobs
from tests.helpers import ROOT, finish, largest_file, noise, write


class Nearest:
    """Repeats pixels. Says that references were used for 60 %, 3 %, and nothing; scores them by their mean."""

    opened = 0

    def __init__(self, weights, search):
        type(self).opened += 1
        self.search = search

    def upscale(self, rgb, references, *, progress):
        progress(0.4, "matches")
        used, notes = (0.6, 0.03, 0.0)[: len(references)], ("", "warped", "")[: len(references)]
        return types.SimpleNamespace(rgb=rgb.repeat(4, 0).repeat(4, 1), used=used, search="exact", notes=notes)

    def match_scores(self, rgb, references):
        assert max(rgb.shape) <= 32
        assert all(max(reference.shape) <= 128 for reference in references)
        return [float(reference.mean()) for reference in references]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder as the working directory, with weights that can be told apart but not loaded."""
    write(tmp_path, {"weights/model.safetensors": b"1", "weights/config.json": b"{}"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Nearest, "opened", 0)
    return tmp_path


def run(*arguments, status=0, weights="weights", upscaler=Nearest):
    """Runs the command, which is expected to end so."""
    with pytest.raises(SystemExit) if status else contextlib.nullcontext() as stopped:
        upscale.main([*arguments, f"--weights={weights}"], upscaler)
    assert not stopped or stopped.value.code == status


def image(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_terminal_shows_how_much_of_a_photograph_is_done(place, capsys, monkeypatch):
    write(place, {"small.png": noise()})
    run("small.png")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("small.png", "--force")
    assert "small.png, matches:  40%" in capsys.readouterr().err


def test_the_example(place, capsys):
    run("--example")
    assert image("example/photo_x4.png").shape == (500, 740, 3)
    assert image("example/reference.png").shape == (500, 741, 3)
    assert "reference used for 60 % of the image: example/reference.png" in capsys.readouterr().out
    assert (place / "example/photo_x4.html").exists()
    for wrong in ([], ["--example", "small.png"], ["--example", "--ref", "small.png"]):
        run(*wrong, status=2)
        assert "INPUT expected, or --example without" in capsys.readouterr().err


def test_one_photograph(place, capsys):
    write(place, {"small.png": noise(8, 6), "sharp.png": noise(40, 30, 1), "other.png": noise(20, 20, 2)})
    run("small.png", "--ref", "sharp.png", "other.png")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"small\.png: 6 x 8 to 24 x 32 pixels, exact search, \d+\.\d s", lines[0])
    assert lines[1:] == [
        "  reference used for 60 % of the image: sharp.png",
        "  reference used for 3 % of the image: other.png, warped; it hardly helps",
        "  written: small_x4.png",
    ]
    np.testing.assert_array_equal(image("small_x4.png"), noise(8, 6).repeat(4, 0).repeat(4, 1))
    assert sorted(p.name for p in place.iterdir()) == ["other.png", "sharp.png", "small.png", "small_x4.png", "weights"]


def test_no_reference_and_the_photograph_itself(place, capsys):
    write(place, {"small.png": noise(8, 6), "copy.png": noise(8, 6)})
    run("small.png")
    assert "  no reference: details come from the photograph itself\n" in capsys.readouterr().out
    run("small.png", "--ref", "copy.png", "--force")
    out = capsys.readouterr().out
    assert "  note: reference left out, because it is the photograph itself: copy.png\n  no reference: details" in out


def test_the_best_of_an_album(place, capsys):
    album = {f"album/{value}.png": np.full((300, 40, 3), value, np.uint8) for value in (10, 200, 90, 150, 250)}
    write(place, {"small.png": noise(80, 60), "album/text.png": b"no image", "album/.hidden": b"", **album})
    write(place, {"album/small.png": noise(80, 60)})
    run("small.png", "--ref", "album")
    out = capsys.readouterr().out
    assert "note: candidate left out: album/text.png: cannot be read as an image" in out
    assert "note: reference left out, because it is the photograph itself: album/small.png" in out
    chosen = "album/250.png (0.98), album/200.png (0.78), album/150.png (0.59)"
    assert f"  best of 5 candidates, by match score: {chosen}\n" in out
    assert "reference used for 60 % of the image: album/250.png\n" in out


def test_transparency_depth_and_format(place):
    rgba = np.concatenate([noise(8, 6), np.full((8, 6, 1), 77, np.uint8)], -1)
    write(place, {"rgba.png": rgba, "grey.png": noise(8, 6)[..., 0]})
    run("rgba.png", "--out", "out.tif")
    assert image("out.tif").shape == (32, 24, 4)
    assert (image("out.tif")[..., 3] == 77).all()
    run("grey.png", "--out", "out.jpg")
    assert image("out.jpg").shape == (32, 24)
    run("rgba.png", "--out", "out2.jpg", status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png"], "nothing.png: a photograph expected, but there is no such file"),
        (["link.png"], "link.png: a photograph expected, but it is a link to gone.png, which does not exist"),
        (["text.png"], "text.png: cannot be read as an image"),
        (["cut.jpg"], "cut.jpg: cannot be read as an image"),
        (["/dev/null"], "/dev/null: a photograph expected, but it is no file that can be read"),
        (["empty"], "empty: photographs expected, found nothing; photographs in subfolders do not count"),
        (["above"], "above: photographs expected, found inside/, notes.txt; photographs in subfolders do not count"),
        (["small.png", "--ref", "nothing.png"], "--ref nothing.png: a photograph expected, but there is no such"),
        (["small.png", "--ref", "text.png"], "text.png: cannot be read as an image"),
        (["small.png", "--ref", "empty"], "--ref empty: a folder of photographs expected, but there is no file in it"),
        (
            ["small.png", "--ref", "texts"],
            "--ref: none of the candidates can be read\nnote: candidate left out: texts/",
        ),
        (["small.png", "--out", "done.png"], "done.png: exists"),
        (["small.png", "--out", "out.xyz"], "out.xyz: a name that ends in .png, .jpg"),
        (["small.png", "--out", "out"], "out: a name that ends in .png, .jpg"),
        (["small.png", "--out", "no/out.png"], "no/out.png: there is no folder no"),
        (["small.png", "--out", "taken"], "taken/small_x4.png: exists"),
        (["small.png", "--out", "small.png", "--force"], "small.png: the result would replace a photograph that it is"),
        (["small.png", "--ref", "done.png", "--out", "done.png", "--force"], "done.png: the result would replace a"),
        (["small.png", "--out", "hard.png", "--force"], "hard.png: the result would replace a photograph that it is"),
        (["small.png", "--compare", "--out", "page.png"], "page.html: exists"),
        (["photos", "--out", "small.png"], "--out=small.png: photos is a folder, so a folder expected; this is a file"),
        (["photos", "--out", "photos"], "--out=photos: another folder than INPUT expected"),
        (["photos", "--out", "no/out"], "--out=no/out: there is no folder no; make it, or choose another --out"),
        (["photos", "--weights=none"], "weights 'none': there is no folder none; a folder of weights, the workdir of"),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(arguments, message, place, capsys):
    write(
        place,
        {
            **{name: noise(8, 6) for name in ("small.png", "done.png", "taken/small_x4.png", "photos/a.png")},
            **{name: b"no image" for name in ("text.png", "texts/a.png", "above/notes.txt", "page.html")},
            **{"above/inside/a.png": noise(8, 6), "cut.jpg": noise(80, 60)},
        },
    )
    (place / "cut.jpg").write_bytes((place / "cut.jpg").read_bytes()[:600])
    (place / "empty").mkdir()
    (place / "link.png").symlink_to("gone.png")
    (place / "hard.png").hardlink_to("small.png")
    before = everything(place)
    weights = next((a.partition("=")[2] for a in arguments if a.startswith("--weights")), "weights")
    run(*(a for a in arguments if not a.startswith("--weights")), status=2, weights=weights)
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert Nearest.opened == 0
    assert everything(place) == before
    assert not (place / "photos_x4").exists()


def test_a_folder(place, capsys):
    """One bad file costs the others nothing; finished ones are skipped, unless anything they come from changes."""
    write(place, {"album/a.png": noise(8, 6), "album/b.jpg": noise(8, 6, 1), "album/bad.png": b"no image"})
    write(place, {"album/notes.txt": b"notes", "album/sub/x.png": noise(8, 6), "ref.png": noise(9, 9)})
    (place / "album/c").write_bytes((place / "album/a.png").read_bytes())  # a photograph without an ending
    (place / "album/link.png").symlink_to("gone.png")
    run("album", "--ref", "ref.png", status=1)
    out, err = capsys.readouterr()
    assert "note: album: not photographs, and left out: notes.txt, sub/\n" in out
    assert out.endswith("\nalbum_x4: 3 upscaled\n")
    assert "failed: 2 of 5\n  album/bad.png: cannot be read as an image" in err
    assert "\n  album/link.png: a photograph expected, but it is a link to gone.png" in err
    results = ["a_x4.png", "b_x4.png", "c_x4.png", "upscaled.jsonl"]
    assert sorted(p.name for p in (place / "album_x4").iterdir()) == results
    before = everything(place / "album_x4")

    (place / "album/bad.png").unlink()
    (place / "album/link.png").unlink()
    Nearest.opened = 0
    run("album", "--ref", "ref.png")
    out, _ = capsys.readouterr()
    assert out.endswith(
        "album_x4: 0 upscaled\nskipped, because finished before: 3: album/a.png, album/b.jpg, album/c\n"
    )
    assert Nearest.opened == 0, "nothing to do"

    write(place, {"album/a.png": noise(8, 6, 5), "album/d.png": noise(8, 6, 6)})
    run("album", "--ref", "ref.png", status=1)
    out, err = capsys.readouterr()
    assert "album_x4: 1 upscaled\nskipped, because finished before: 2: album/b.jpg, album/c\n" in out
    assert "failed: 1 of 4\n  album_x4/a_x4.png: exists" in err, "it is of the photograph before, and perhaps wanted"
    for changed in (["--ref", "album/d.png"], ["--ref", "ref.png", "--search", "coarse"], []):
        run("album", *changed, status=1)
        assert "failed: 4 of 4" in capsys.readouterr().err
    write(place, {"weights/model.safetensors": b"2"})
    run("album", "--ref", "ref.png", status=1)
    assert "failed: 4 of 4" in capsys.readouterr().err
    assert (
        before.items()
        <= {**everything(place / "album_x4"), **{p: b for p, b in before.items() if "jsonl" in p.name}}.items()
    )
    run("album", "--ref", "ref.png", "--force")
    assert "album_x4: 4 upscaled\n" in capsys.readouterr().out
    np.testing.assert_array_equal(image("album_x4/a_x4.png")[::4, ::4], noise(8, 6, 5))


def test_finished_photographs_of_a_record_that_was_cut_off(place, capsys):
    write(place, {"album/a.png": noise(8, 6), "album/b.png": noise(8, 6, 1)})
    run("album")
    record = place / "album_x4/upscaled.jsonl"
    record.write_text(record.read_text()[:-5])
    (place / "album_x4/b_x4.png").unlink()
    run("album")
    assert "album_x4: 1 upscaled\nskipped, because finished before: 1: album/a.png\n" in capsys.readouterr().out
    run("album")
    assert "finished before: 2:" in capsys.readouterr().out
    run("album", "--compare")
    assert "album_x4: 2 upscaled\n" in capsys.readouterr().out, "their pages were missing"
    assert (place / "album_x4/b_x4.html").is_file()


def test_the_references_of_a_folder_are_the_others(place, capsys):
    write(place, {"album/a.png": noise(8, 6), "album/b.png": noise(8, 6, 1)})
    run("album", "--ref", "album")
    out = capsys.readouterr().out
    assert re.search(r"album/a\.png: 6 x 8(.|\n)*best of 1 candidates, by match score: album/b\.png", out)
    assert re.search(r"album/b\.png: 6 x 8(.|\n)*best of 1 candidates, by match score: album/a\.png", out)


def test_results_of_like_names_do_not_meet(place):
    names = ["a.png", "A.jpg", "a.png.png", "b.png"]
    write(place, {f"album/{name}": noise(8, 6, seed) for seed, name in enumerate(names)})
    run("album")
    results = ["A.jpg_x4.png", "a.png.png_x4.png", "a.png_x4.png", "b_x4.png", "upscaled.jsonl"]
    assert sorted(p.name for p in (place / "album_x4").iterdir()) == results


def test_the_page_of_one_photograph(place, capsys):
    write(place, {"small.png": noise(8, 6), "sharp.png": noise(40, 30, 1)})
    run("small.png", "--ref", "sharp.png", "--compare")
    assert "  written: small_x4.png, small_x4.html\n" in capsys.readouterr().out
    page = (place / "small_x4.html").read_text()
    assert "<h1>small.png</h1>" in page
    assert "reference used for 60 % of the image: sharp.png" in page
    (pictures,) = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*)</script>', page)]
    assert list(pictures) == ["bicubic", "result"]
    assert "<br>sharp.png</div>" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page needs nothing else"


def test_the_page_of_a_large_result_shows_where_most_changed(tmp_path):
    before = np.zeros((500, 450, 3), np.float32)
    after = np.zeros((2000, 1800, 3), np.float32)
    after[1500:1900, 1200:1700] = 1
    comparison_page.write_before_and_after(tmp_path / "page.html", "t", "s", before, after, {})
    page = (tmp_path / "page.html").read_text()
    place = re.search(r"detail at full size, from \((\d+), (\d+)\)", page)
    left, top = map(int, place.groups())
    assert left <= 1200
    assert left + 1000 >= 1700
    assert top <= 1500
    assert top + 1000 >= 1900
    assert "the whole image, reduced from 1800 x 2000 to 1440 x 1600 pixels" in page


@pytest.mark.parametrize("source", ["photos", "photos/a.png"])
def test_a_full_disk_ends_the_command(source, place, capsys):
    write(place, {"photos/a.png": noise(80, 60), "photos/b.png": noise(80, 60, 1)})
    with largest_file(1000):
        run(source, "--out", "out.png" if source.endswith("png") else "out", status=2)
    err = capsys.readouterr().err
    assert re.match(r"error: out.*a?.*png: cannot be written \(File too large\); free space", err)
    assert "b_x4" not in err
    left = [path.name for path in place.rglob("*") if path.is_file() and "out" in str(path.relative_to(place))]
    assert set(left) <= {upscale.RECORD}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing_unfinished(number, place):
    """While a picture is being written: all of its file but the name is there. An exception that is lost is raised again."""
    write(place, {"photos/a.png": noise(8, 6), "photos/b.png": noise(8, 6, 1)})
    code = """
import os, sys, time
from rrsr_jax import upscale
from tests.test_upscale import Nearest
replace = os.replace
def stop(source, target):
    if "b_x4" in str(target):
        print("ready", flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        time.sleep(60)
    replace(source, target)
os.replace = stop
upscale.main(["photos", "--weights=weights"], Nearest)
"""
    call = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""}
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line, finish(process)
    time.sleep(0.1)
    process.send_signal(number)
    status, _, err = finish(process, 60)
    assert status == 130, err
    assert err == "interrupted; no unfinished file is left; of a folder, the same command continues\n"
    assert sorted(path.name for path in (place / "photos_x4").iterdir()) == ["a_x4.png", "upscaled.jsonl"]


@pytest.mark.parametrize(("arguments", "status"), [("--help", 0), ("nothing.png", 2), ("small.png --search=fast", 2)])
def test_what_needs_no_network_imports_none(arguments, status, place):
    write(place, {"small.png": noise(8, 6)})
    code = f"""
import sys
from rrsr_jax import upscale
try:
    upscale.main({arguments.split()})
except SystemExit as stopped:
    assert stopped.code == {status}
assert not {{"jax", "numpy", "PIL", "cv2"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=place, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_a_photograph_that_cannot_be_read_is_told_without_jax(place):
    write(place, {"text.png": b"no image"})
    code = """
import sys
from rrsr_jax import upscale
try:
    upscale.main(["text.png"])
except SystemExit as stopped:
    assert stopped.code == 2
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=place, env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_console_script_is_the_command():
    assert "rrsr-upscale = rrsr_jax.upscale:main" in pathlib.Path(ROOT / "setup.cfg").read_text()


@pytest.mark.timeout(120)
def test_a_folder_with_a_pipe(place, capsys):
    write(place, {"album/a.png": noise(8, 6)})
    os.mkfifo(place / "album/b.png")
    os.mkfifo(place / "album/c")
    run("album", status=1)
    said = capsys.readouterr()
    assert "album_x4: 1 upscaled" in said.out
    assert "album/b.png: a photograph expected, but it is no file that can be read" in said.err


def test_a_result_that_was_written_and_not_recorded_is_written_again(place, capsys, monkeypatch):
    """As after a kill between the two, or on a disk that is full for a moment."""
    write(place, {"album/a.png": noise(8, 6)})

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error", "upscaled.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.Record, "finish", fails)
        run("album", status=1)
    assert (place / "album_x4/a_x4.png").is_file()
    capsys.readouterr()
    run("album")
    assert "album_x4: 1 upscaled\n" in capsys.readouterr().out
    run("album")
    assert "finished before: 1:" in capsys.readouterr().out


def test_a_record_of_any_content(place):
    write(
        place,
        {"album/a.png": noise(8, 6), "album_x4/upscaled.jsonl": b'\xff\n[]\n{"result": [], "made_from": 1}\n{}\n'},
    )
    run("album")
    assert (place / "album_x4/a_x4.png").is_file()


def test_a_photograph_that_memory_does_not_hold_stops_no_others(place, capsys):
    write(place, {"album/a.png": noise(8, 6), "album/b.png": noise(16, 6)})

    class Small(Nearest):
        def upscale(self, rgb, references, *, progress):
            if rgb.shape[0] > 8:
                raise MemoryError
            return super().upscale(rgb, references, progress=progress)

    run("album", status=1, upscaler=Small)
    said = capsys.readouterr()
    assert "album_x4: 1 upscaled" in said.out
    assert "failed: album/b.png: not enough memory" in said.err
