"""All commands that read what others made, or write: names, formats of images, and one writer per folder."""

import ast
import contextlib
import io
import pathlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from rrsr_jax import config_files, upscale, web
from rrsr_jax.data import datasets, decoding, pictures, prepare
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import evaluate, page, report, super_resolution
from rrsr_jax.experiments import figures, table
from rrsr_jax.training import train
from rrsr_jax.weights import export_weights, import_weights
from rrsr_jax.weights.download import fetch
from rrsr_jax.weights.released import pack
from rrsr_jax.workdir import lock
from tests.helpers import ROOT, nearest, noise, open_set, tiny_config, write
from tests.workdir.test_files import HOSTILE

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections


def content(folder):
    """All files, with what is in them, and folders."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def pair(tmp_path):
    """A prepared set of two pairs."""
    images = {f"{kind}/{i}.png": noise(24, 20, 10 * i + len(kind)) for i in range(2) for kind in ("input", "ref")}
    prepare.prepare("ref_pairs", str(write(tmp_path / "in", images)), str(tmp_path / "data"))
    return tmp_path / "data"


class Hostile:
    """A test set whose examples have names that were not checked when they were read."""

    def __init__(self, test_set, name):
        self._test_set, self._name = test_set, name

    def __getattr__(self, name):
        return getattr(self._test_set, name)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {**self._test_set[index], "name": self._name}


def test_records_with_hostile_names(tmp_path, monkeypatch):
    """As somebody else may have prepared them: each is reported, the good one is evaluated, and nothing else is written."""
    names = iter([name for name in HOSTILE if "\udce9" not in name] + ["good", "good"])
    count = len(HOSTILE) + 1
    source = write(tmp_path / "in", {f"{i:02}.png": noise(20, 20, i) for i in range(count)})
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "check_name", lambda name: name)
        original = datasets.Photos.encode.__func__

        def encode(cls, files, smallest, tile):
            (example,), notes = original(cls, files, smallest, tile)
            return [{**example, "name": next(names)}], notes

        patch.setattr(datasets.Photos, "encode", classmethod(encode))
        patch.setattr(prepare, "set", NeverThere, raising=False)  # two of one name
        prepare.prepare("photos", str(source), str(tmp_path / "data"))
    work = tmp_path / "a" / "b" / "c" / "run"
    work.mkdir(parents=True)
    before = content(tmp_path)
    test_set = open_set(tmp_path / "data", "photos", references="bicubic,lr_itself")
    options = dict(workdir=work, identity={"step": 1}, border=0, shown=50, sheets=50)
    found = super_resolution.evaluate_sets(nearest, [test_set], **options)["photos"]
    assert found["images"] == count
    assert len(found["failed"]) == 2 * (count - 1)
    written = content(tmp_path).keys() - before.keys()
    assert {path.relative_to(work).as_posix() for path in written if path.suffix == ".png"} == {
        f"eval/photos/{folder}/good.png" for folder in ("bicubic", "lr_itself", "sheets")
    }
    assert all(work in path.parents for path in written)


class NeverThere(set):
    def intersection(self, *_):
        return set()


# The others are harmless with .png at the end, which is no name that Pillow writes; they are refused when they are read.
@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("", ".", "..", "a/")])
def test_no_writer_follows_a_name_out_of_its_folder(name, pair, tmp_path):
    out = tmp_path / "a" / "b" / "c" / "out"
    out.mkdir(parents=True)
    before = content(tmp_path)
    test_set = Hostile(open_set(pair, "ref_pairs", references="bicubic,lr_itself"), name)
    harmless = len(name) > 100  # short enough with .png at the end
    refused = contextlib.nullcontext() if harmless else pytest.raises(InputError, match="a name: parts")
    with refused:
        evaluate.evaluate_set(nearest, test_set, 0, out, {})
    scores = {reference: {name: {"psnr_y": 1.0, "gmsd_y": 0.5}} for reference in test_set.references}
    found = evaluate.Evaluation({"images": 1, "references": {}, "failed": {}}, [name], scores)
    for draw in (report.write_sheets, lambda *a: page.write_page(out / "index.html", *a[1:])):
        with refused:
            draw(out, test_set, found, 1)
    new = content(tmp_path).keys() - before.keys()
    assert all(out in path.parents for path in new)
    assert harmless or {path.name for path in new} == {"images.csv", "identity.json"}


def test_figures_of_hostile_names(tmp_path, monkeypatch):
    run = tmp_path / "a" / "b" / "run"
    monkeypatch.setattr(figures, "description", lambda _: None)
    monkeypatch.setattr(figures.config_files, "load", lambda *_: tiny_config())
    monkeypatch.setattr(figures, "Checkpoints", lambda _: Anything())
    monkeypatch.setattr(figures, "eval_params", lambda _: {})
    shown = np.zeros((1, 16, 16, 3), np.float32), {"1x": {0: np.zeros((1, 4, 4))}}, {}
    monkeypatch.setattr(figures.jax, "jit", lambda _: lambda *_: shown)
    monkeypatch.setattr(figures, "_inputs", lambda *_: [("../../../x", noise(4, 4), noise(16, 16))])
    with pytest.raises(SystemExit):
        figures.main([f"--workdir={run}"])
    assert content(tmp_path) == {}


class Anything:
    def __getattr__(self, name):
        return lambda *_: None


def test_set_and_run_names_of_a_config(tmp_path):
    for name in ("../cufed5", "cufed5/../x", "cufed5/..", "/cufed5", "cufed5/a/b", "cufed5\n"):
        with pytest.raises(InputError, match=r"^dataset: one of cufed"):
            open_set(tmp_path, name)
        with pytest.raises(InputError, match=r"^dataset: one of cufed"):
            prepare.prepare(name, str(tmp_path), str(tmp_path / "data"))
    rows = "ROWS = {'../../x': 0, '/x': 0}\nfrom tests.helpers import tiny_config\nget_config = lambda row: tiny_config()\n"
    (tmp_path / "rows.py").write_text(rows)
    before = content(tmp_path)
    with pytest.raises(InputError, match="a name: parts"):
        table.run_list([str(tmp_path / "rows.py")], tmp_path / "a" / "runs", [], 1, None)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "url", ["https://host/..", "https://host/a%5cb.pth", "https://host/a%00b.pth", "https://host/%2e%2e"]
)
def test_names_in_addresses(url, tmp_path):
    with pytest.raises(InputError, match=r"--url=.*a name: parts"):
        fetch(url, str(tmp_path), "0123456789")
    assert content(tmp_path) == {}


@pytest.mark.parametrize("link", ["eval", "eval/ref_pairs", "eval/ref_pairs/bicubic", "eval/ref_pairs/bicubic/0.png"])
def test_an_evaluation_follows_no_link_out_of_the_workdir(link, pair, tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "run" / link
    write(outside, {"precious/0.png": b"precious", "0.png": b"precious"})
    path.parent.mkdir(parents=True)
    path.symlink_to(outside / "0.png" if link.endswith(".png") else outside)
    before = content(outside)
    test_set = open_set(pair, "ref_pairs", references="bicubic,lr_itself")
    options = dict(identity={}, border=0, shown=1, sheets=1)
    # An older evaluation in the folder goes first, with the links in it.
    if link.startswith("eval/ref_pairs/"):
        super_resolution.evaluate_sets(nearest, [test_set], workdir=tmp_path / "run", **options)
    else:
        with pytest.raises(InputError, match=r"leads out of .*run to .*outside"):
            super_resolution.evaluate_sets(nearest, [test_set], workdir=tmp_path / "run", **options)
    assert content(outside) == before


@pytest.mark.parametrize("link", ["checkpoints", "tensorboard", "profile"])
def test_a_run_follows_no_link_out_of_the_workdir(link, tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / link).symlink_to(tmp_path / "outside")
    monkeypatch.setattr(train, "place", lambda *_: Anything())
    monkeypatch.setattr(Anything, "step", 0, raising=False)
    with pytest.raises(InputError, match=r"leads out of .*run to .*outside"):
        train.train_and_evaluate(tiny_config(eval__sets=""), str(tmp_path / "run"))
    assert content(tmp_path / "outside") == {}


# What is hidden behind the name of a PNG file.
def disguised(name):
    file = io.BytesIO()
    Image.fromarray(noise(48, 48)).save(file, name)
    return file.getvalue()


FORMATS = ["EPS", "PDF", "TGA", "PCX", "ICO", "SGI", "DDS", "XBM", "SPIDER"]


@pytest.fixture
def no_ghostscript(monkeypatch):
    def trap(*_, **__):
        pytest.fail("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", trap)
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", trap)


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_behind_png_are_refused_by_every_command(name, tmp_path, no_ghostscript, capsys, monkeypatch):
    if name in ("XBM", "SPIDER"):
        file = io.BytesIO()
        Image.fromarray(noise(48, 48)).convert({"XBM": "1", "SPIDER": "F"}[name]).save(file, name)
        raw = file.getvalue()
    else:
        raw = disguised(name)
    bad, good = (
        write(tmp_path, {"in/x.png": raw, "good/y.png": noise(24, 24)}) / path for path in ("in/x.png", "good/y.png")
    )
    expected = "cannot be read as an image: JPEG, PNG, .* expected, got another format"
    for read in (pictures.read_picture, pictures.read_rgb8, lambda path: decoding.decode(path.read_bytes())):
        with pytest.raises(InputError, match=expected):
            read(bad)
    with pytest.raises(InputError, match=expected):
        prepare.prepare("photos", str(bad.parent), str(tmp_path / "data"))
    weights = write(tmp_path, {"weights/model.safetensors": b"1", "weights/config.json": b"{}"}) / "weights"
    for arguments in ((bad,), (bad.parent,), (good, "--ref", bad)):
        with pytest.raises(SystemExit) as ended:
            upscale.main([*map(str, arguments), f"--weights={weights}"], lambda *_, **__: Anything())
        assert ended.value.code in (1, 2)
        assert "expected, got another format" in capsys.readouterr().err
    assert "expected, got another format" in web.thumbnail(bad, web_read, 1.0)
    web.check_files(str(bad), [], web.Limits())
    monkeypatch.setattr(figures, "description", lambda _: None)
    options = figures.argparse.Namespace(lr=str(bad), ref=str(good))
    with pytest.raises(InputError, match=expected):
        next(figures._inputs(options, None))


def web_read(path):
    return (pictures.read_picture(path).rgb * 255).astype(np.uint8)


@pytest.mark.parametrize("name", [*FORMATS[:7], "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
def test_records_hold_png_and_jpeg_only(name, tmp_path, no_ghostscript, monkeypatch):
    """A prepared set of somebody else, with another format in it: the library would decode it with whatever there is."""
    source = write(tmp_path / "in", {"a.png": noise(20, 20), "b.png": noise(20, 20, 1)})
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_read_back", lambda *_: [])
        original = datasets.Photos.encode.__func__

        def encode(cls, files, smallest, tile):
            (example,), notes = original(cls, files, smallest, tile)
            return [example if files.name == "a" else {**example, "hr": io.BytesIO(disguised(name))}], notes

        patch.setattr(datasets.Photos, "encode", classmethod(encode))
        prepare.prepare("photos", str(source), str(tmp_path / "data"))
    prepared = datasets.Prepared("photos", str(tmp_path / "data"))
    np.testing.assert_array_equal(prepared[0]["hr"], noise(20, 20))
    with pytest.raises(InputError, match=r"record 1 of 2 .* is damaged \(PNG or JPEG expected, got another format\)"):
        prepared[1]


def calls(path):
    """Name of what is called, and names of the arguments, of each call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


def test_images_are_opened_with_named_formats_everywhere():
    """OpenCV chooses the decoder itself, so it only gets what was checked before."""
    decoders, openers = {}, 0
    for path in [
        path for folder in ("rrsr_jax", "kernels", "configs", "docs") for path in (ROOT / folder).rglob("*.py")
    ]:
        for name, arguments in calls(path):
            if name.endswith("Image.open"):
                assert "formats" in arguments, path
                openers += 1
            if name.endswith("imdecode"):
                decoders[path.name] = decoders.get(path.name, 0) + 1
            assert not name.endswith(
                (".imread", ".imreadmulti", "io.imread", "builder_from_directory", "torch.jit.load")
            ), path
            if name.endswith("torch.load"):
                assert path.name == "readers.py", path
    assert openers >= 5
    assert decoders == {"decoding.py": 1, "records.py": 1, "augment.py": 1}  # the last one decodes what it encoded


def test_files_are_written_whole():
    """By `write_atomically`; a checkpoint gets its name when all is in it."""
    for path in (ROOT / "rrsr_jax").rglob("*.py"):
        written = [name for name, _ in calls(path) if name.endswith((".write_text", ".write_bytes"))]
        assert not written or path.name == "integrity.py", path
        assert ".save(path)" not in path.read_text(), path


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("run/.lock", lambda place: train.train_and_evaluate(tiny_config(), str(place / "run"))),
        ("run/.lock", lambda place: train.evaluate_only(tiny_config(), str(place / "run"))),
        (
            "run/.lock",
            lambda place: train.evaluate_only(
                config_files.load(f"{ROOT}/configs/matcher.py:teacher"), str(place / "run")
            ),
        ),
        ("list/.lock", lambda place: table.run_list([str(ROOT / "configs/demo.py")], place / "list", [], 1, None)),
        (
            "data/.preparing/.photos.lock",
            lambda place: prepare.prepare("photos", str(place / "in"), str(place / "data")),
        ),
        (
            "data/.preparing/.photos-mine.lock",
            lambda place: prepare.prepare("photos/mine", str(place / "in"), str(place / "data")),
        ),
        (".w.lock", lambda place: import_weights("rrsr", place / "x.npz", place / "w")),
        (".w.safetensors.lock", lambda place: export_weights("rrsr", place / "run", place / "w.safetensors")),
        (".w.lock", lambda place: pack(place / "run", place / "w", place / "card")),
        (".a-01234567.pth.lock", lambda place: fetch("http://127.0.0.1:9/a-01234567.pth", str(place))),
    ],
)
def test_each_writer_is_alone(path, command, tmp_path):
    """Whoever comes second is told so, and changes nothing."""
    write(tmp_path, {"in/a.png": noise(20, 20)})
    with lock.only_writer(tmp_path / path, "first"):
        before = content(tmp_path)
        with pytest.raises(InputError, match=r" is in use by process \d+ on .* since 20"):
            command(tmp_path)
        assert content(tmp_path) == before


@pytest.mark.parametrize("command", [figures.main, upscale.main])
def test_each_command_is_alone(command, tmp_path, capsys):
    write(tmp_path, {"in/a.png": noise(20, 20)})
    arguments = {
        figures.main: [f"--workdir={tmp_path}/run", f"--out={tmp_path}/out"],
        upscale.main: [f"{tmp_path}/in", f"--out={tmp_path}/out"],
    }[command]
    with lock.only_writer(tmp_path / "out" / lock.NAME, "first"):
        before = content(tmp_path)
        with pytest.raises(SystemExit) as ended:
            command(arguments)
        assert ended.value.code == 2
        assert "out is in use by process" in capsys.readouterr().err
        assert content(tmp_path) == before


def test_two_data_sets_are_prepared_at_a_time(tmp_path):
    write(tmp_path, {"in/a.png": noise(20, 20)})
    with lock.only_writer(pathlib.Path(tmp_path, "data", ".preparing", ".cufed.lock"), "first"):
        assert prepare.prepare("photos", str(tmp_path / "in"), str(tmp_path / "data")).examples == 1
