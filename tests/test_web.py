"""The page: what it says, and its use in a browser, without a request to anywhere but the page's own address."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import types
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from rrsr_jax import web
from rrsr_jax.errors import InputError
from tests.helpers import ROOT, noise, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The page with a network that repeats pixels. It reports every connection to another machine.
SERVER = """
import pathlib, sys
import numpy as np
from PIL import Image

def report(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
        if isinstance(host, str) and host not in ("127.0.0.1", "localhost"):
            print(f"outside: {event} {host}", flush=True)

sys.addaudithook(report)
from rrsr_jax import web
from rrsr_jax.data.pictures import read_rgb8

def read(path):
    return read_rgb8(path)[0]

def job(photo, references, folder):
    picture, others = read(photo), [read(path) for path in references]
    after = picture.repeat(4, 0).repeat(4, 1)
    file = folder / f"{photo.stem}_x4.png"
    Image.fromarray(after).save(file)
    return web.Result(after // 2, after, [0.25] * len(others), file, ["grey to <RGB>"])

limits = web.Limits(megabytes=1, megapixels=0.01, references=2)
web.serve(web.build_page(read, job, limits), limits, "127.0.0.1", int(sys.argv[1]))
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(folder):
    return os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def page(tmp_path):
    """Its address in a process of its own, the process, and the folder for its temporary files."""
    pytest.importorskip("gradio", reason="needs the extra `web`")
    folder, port = tmp_path / "temporary", free_port()
    folder.mkdir()
    call = [sys.executable, "-c", SERVER, str(port)]
    server = subprocess.Popen(
        call, cwd=ROOT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = ""
        for line in server.stderr:
            said += line
            if "Ctrl-C" in line:
                break
        assert f"serving http://127.0.0.1:{port}" in said, said
        yield f"http://127.0.0.1:{port}", server, folder
    finally:
        server.kill()
        server.communicate()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(page, tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `test`")
    address, server, temporary = page
    photo, large = noise(20, 30, seed=1), noise(100, 120)
    write(tmp_path, {"small.png": photo, "a.png": noise(50, 60), "b.png": noise(40, 44), "large.png": large})
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800})
        hosts, faults = set(), []
        tab.on("request", lambda request: hosts.add(urllib.parse.urlsplit(request.url)[:2]))
        tab.on("websocket", lambda socket: hosts.add(urllib.parse.urlsplit(socket.url)[:2]))
        tab.on("pageerror", lambda error: faults.append(str(error)))

        def drop(field, *names):
            tab.set_input_files(f"#{field} input[type=file]", [tmp_path / name for name in names])

        def text(selector):
            tab.wait_for_selector(selector)
            return tab.inner_text(selector)

        def refused(name):
            tab.goto(address)
            tab.wait_for_selector("#start")
            if name:
                drop("photo", name)
                tab.wait_for_selector("#photo-shown .error")
            tab.click("#start")
            return text("#report .error")

        assert refused(None).startswith("No photo yet")
        assert re.match(r"bad\.png: .*image", refused("bad.png"))
        assert refused("large.png").startswith("large.png has 120 x 100 pixels")
        assert not tab.is_visible("#download")

        tab.goto(address)
        tab.wait_for_selector("#start")
        drop("photo", "small.png")
        drop("references", "a.png", "b.png")
        tab.wait_for_selector("#references-shown figure:nth-of-type(2)")
        tab.click("#start")
        report = text("#report:has-text('became')")  # not the time that runs there before
        assert "30 x 20 pixels became 120 x 80" in report
        assert "grey to <RGB>" in report
        assert report.count("used for 25\N{NO-BREAK SPACE}% of the picture") == 2
        tab.wait_for_selector("#slider img")
        tab.wait_for_selector("#download")
        with tab.expect_download() as downloading:
            tab.click("#download")
        with Image.open(downloading.value.path()) as result:
            np.testing.assert_array_equal(np.asarray(result), photo.repeat(4, 0).repeat(4, 1))
        assert downloading.value.suggested_filename == "small_x4.png"
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        violations = "new Promise(done => {addEventListener('securitypolicyviolation', e => done(e.blockedURI));"
        assert tab.evaluate(violations + "fetch('http://other.invalid/x').catch(() => 0)})") == "http://other.invalid/x"
        browser.close()
    assert hosts - {("data", ""), ("blob", "")} == {("http", address.removeprefix("http://"))}
    assert faults == []
    server.send_signal(signal.SIGTERM)
    out, _ = server.communicate(timeout=60)
    assert out == "", "a connection to another machine"
    assert list(temporary.iterdir()) == [], "pictures are left"


def test_one_address_is_served_and_a_taken_port_is_said(page):
    address, _, folder = page
    port = address.rpartition(":")[2]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", int(port)), timeout=5):
        pass
    call = [
        sys.executable,
        "-c",
        SERVER.replace("web.serve", "from rrsr_jax.console import exit_on_error\nwith exit_on_error(): web.serve"),
    ]
    again = subprocess.run(
        [*call, port], cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 2
    assert f"127.0.0.1:{port} cannot be served" in again.stderr


def test_the_command_serves_this_computer_with_the_limits_that_it_is_given(monkeypatch):
    got = {}
    monkeypatch.setattr(web, "upscaling", lambda weights: (weights, None))
    monkeypatch.setattr(web, "build_page", lambda read, job, limits: (read, limits))
    monkeypatch.setattr(web, "serve", lambda page, limits, host, port: got.update(page=page, host=host, port=port))
    web.main(["--weights", "mine", "--megapixels", "0.5", "--reference-megapixels", "3", "--queue", "1"])
    limits = web.Limits(megapixels=0.5, reference_megapixels=3, queue=1)
    assert got == {"page": ("mine", limits), "host": "127.0.0.1", "port": 7860}


def test_a_job_reads_upscales_and_writes(tmp_path, monkeypatch):
    """With a stand-in for the network."""
    transparent, dark = np.full((6, 8, 4), 64, np.uint8), np.full((9, 7), 128, np.uint8)
    write(tmp_path, {"photo.png": transparent, "ref.png": dark})
    photo, ref = tmp_path / "photo.png", tmp_path / "ref.png"

    class Upscaler:
        def __init__(self, weights):
            assert weights == "mine"

        def upscale(self, rgb, references):
            sr = rgb.repeat(4, 0).repeat(4, 1) + sum(float(ref.max()) for ref in references)
            return types.SimpleNamespace(rgb=sr.astype(np.float32), used=[0.5] if references else [1.0])

    monkeypatch.setitem(sys.modules, "rrsr_jax.inference.upscaler", types.SimpleNamespace(Upscaler=Upscaler))
    read, job = web.upscaling("mine")
    np.testing.assert_array_equal(read(photo), transparent[..., :3])
    result = job(photo, [ref], tmp_path)
    assert (result.file, result.used) == (tmp_path / "photo_x4.png", [0.5])
    assert [note for note in result.notes if "grey" in note or "transparen" in note or "alpha" in note] == result.notes
    np.testing.assert_array_equal(result.before, np.full((24, 32, 3), 64))
    np.testing.assert_array_equal(result.after, np.full((24, 32, 3), 192))
    with Image.open(result.file) as written:
        np.testing.assert_array_equal(np.asarray(written), np.full((24, 32, 4), (192, 192, 192, 64)))
    assert job(photo, [], tmp_path / "..").used == ()


def test_too_much_is_refused(tmp_path):
    limits = web.Limits(megapixels=0.001, reference_megapixels=0.002, references=1)
    write(tmp_path, {"small.png": noise(20, 30), "large.png": noise(40, 50), "huge.png": noise(50, 60)})
    small, large, huge = (str(tmp_path / f"{name}.png") for name in ("small", "large", "huge"))
    web.check_files(small, [large], limits)
    for photo, references, expected in (
        (None, [], "No photo yet"),
        (small, [large, large], "Up to 1 sharp photos"),
        (large, [], r"large\.png has 50 x 40 pixels"),
        (small, [huge], r"huge\.png has 60 x 50 pixels, 0\.0 megapixels; here it may have 0\.002"),
    ):
        with pytest.raises(InputError, match=expected):
            web.check_files(photo, references, limits)


def test_what_the_page_says(tmp_path):
    after = np.zeros((80, 120, 3), np.uint8)
    result = web.Result(after, after, [0.03, 0.004], pathlib.Path("x.png"), ["a & b"])
    said = web.describe(result, ["<i>.png", "b.png"], 12.4)
    for part in ("<b>30 x 20</b>", "12&nbsp;s", "&lt;i&gt;.png", "used for 3&nbsp;%", "hardly helped", "a &amp; b"):
        assert part in said
    assert "hardly" not in web.describe(web.Result(after, after, (), pathlib.Path("x.png")), [], 1)

    write(tmp_path, {"a&b.png": noise(20, 30)})
    shown = web.thumbnail(tmp_path / "a&b.png", lambda path: noise(20, 30), 1.0)
    assert "data:image/jpeg;base64," in shown
    assert "a&amp;b.png<br>30 x 20" in shown

    def fails(path):
        raise InputError(f"{path}: <no> picture")

    assert "bad.png: &lt;no&gt; picture" in web.thumbnail(tmp_path / "bad.png", fails, 1.0)
    assert str(tmp_path) not in web.thumbnail(tmp_path / "bad.png", fails, 1.0)


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"needs Gradio .*rrsr_jax\[web\]"):
        web.require_gradio()


def test_a_preview_checks_the_size_before_it_reads(tmp_path):
    Image.fromarray(noise(200, 200)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")

    def reads(_):
        raise AssertionError("not read")

    assert "here it may have 0.01 megapixels at most" in web.thumbnail(tmp_path / "a.png", reads, 0.01)
    web.check_size(tmp_path / "pipe.png", 1.0)  # returns


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=65536", "argument --port: 0 to 65535 expected, got 65536"),
        ("--megapixels=nan", "argument --megapixels: a number above 0 expected, got nan"),
        ("--queue=0", "argument --queue: a number above 0 expected, got 0"),
        ("--references=-1", "argument --references: a number above 0 expected, got -1"),
    ],
)
def test_limits_that_are_none(option, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        web.main([option])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
