"""Downloads from a server in a thread, which breaks them in several ways."""

import hashlib
import http.server
import pathlib
import socket
import struct
import threading

import numpy as np
import pytest
import tqdm

from rrsr_jax.errors import InputError
from rrsr_jax.weights import KINDS
from rrsr_jax.weights import __main__ as cli
from rrsr_jax.weights import download as module
from rrsr_jax.weights.download import fetch

CONTENT = np.random.default_rng(0).bytes(100_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; the next of `server.troubles`, if any, says what goes wrong this time."""

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        trouble = server.troubles.pop(0) if server.troubles else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        status = 206 if start else 200
        if isinstance(trouble, int):
            status = trouble
        elif start and start >= len(server.content):
            status = 416
        self.send_response(status)
        rest = server.content[start:]
        if server.length:
            self.send_header("Content-Length", str(len(rest) if status < 300 else 0))
        self.end_headers()
        if status < 300:
            self.wfile.write(rest[: 40_000 if trouble else None])
        if trouble == "stall":
            server.over.wait()
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.troubles, server.asked = CONTENT, [], []
        server.ranges, server.length, server.over = True, True, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/models/{NAME}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_download(server, tmp_path):
    file = fetch(server.url, str(tmp_path / "new" / "folder"))
    assert file == tmp_path / "new" / "folder" / NAME
    assert file.read_bytes() == CONTENT
    assert files(file.parent) == [NAME]
    assert server.asked == [None]


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(server.url, str(tmp_path)) == tmp_path / NAME
    (tmp_path / "mine.pth").write_bytes(b"mine")
    with pytest.raises(
        InputError, match=rf"mine\.pth: SHA-256 {DIGEST[:8]}\.\.\. expected, got [0-9a-f]{{64}}; move this file away"
    ):
        fetch(server.url, str(tmp_path / "mine.pth"))
    assert (tmp_path / "mine.pth").read_bytes() == b"mine"
    assert server.asked == []


@pytest.mark.parametrize("trouble", ["short", "reset", "stall"])
def test_broken_transfer_goes_on(trouble, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "TIMEOUT", 0.2 if trouble == "stall" else 30)
    monkeypatch.setattr(module, "_CHUNK", 1000)
    server.troubles = [trouble, 503]
    file = fetch(server.url, str(tmp_path))
    assert file.read_bytes() == CONTENT
    assert files(tmp_path) == [NAME]
    first, *later = server.asked
    assert first is None
    assert len(set(later)) == 1
    assert later == ["bytes=40000-"] * 2 if trouble == "short" else len(later) == 2
    err = capsys.readouterr().err
    assert "the transfer broke after" in err
    assert "HTTP 503 Service Unavailable; trying again" in err


def test_a_later_command_goes_on(server, tmp_path):
    server.troubles = ["short"] + [503] * (module.ATTEMPTS - 1)
    with pytest.raises(
        InputError, match=r"HTTP 503 .* this was the last of 4 attempts; .*\.part is kept, and the same"
    ):
        fetch(server.url, str(tmp_path))
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:40_000]
    assert fetch(server.url, str(tmp_path)).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=40000-"


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 50_000)
    server.troubles = ["short"]
    assert fetch(server.url, str(tmp_path)).read_bytes() == CONTENT
    assert server.asked == ["bytes=50000-", "bytes=40000-"]


def test_server_that_does_not_tell_the_length(server, tmp_path):
    server.length = False
    assert fetch(server.url, str(tmp_path)).read_bytes() == CONTENT
    server.troubles = ["short"]
    with pytest.raises(InputError, match="is removed"):
        fetch(server.url, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_nothing_beyond_what_is_kept(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)  # killed before the last step
    assert fetch(server.url, str(tmp_path)).read_bytes() == CONTENT
    assert server.asked == ["bytes=100000-"]
    (tmp_path / "b.pth.part").write_bytes(b"x" * 200_000)
    assert fetch(server.url, str(tmp_path / "b.pth")).read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=200000-", None]
    assert files(tmp_path) == ["b.pth", NAME]


def test_wrong_checksum(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"y" + CONTENT[1:40_000])  # the file has changed since
    with pytest.raises(
        InputError,
        match=rf"SHA-256 {DIGEST[:8]}\.\.\. expected, got (?!{DIGEST})\w{{64}}; what came from .* is removed",
    ):
        fetch(server.url, str(tmp_path))
    assert files(tmp_path) == []
    assert fetch(server.url, str(tmp_path)).read_bytes() == CONTENT


def test_checksum_of_ones_own(server, tmp_path):
    url = server.url.replace(NAME, "net.pth")
    with pytest.raises(InputError, match=r"net\.pth has no checksum in its name; give it as --sha256=HEX"):
        fetch(url, str(tmp_path))
    for digits in ("abc", "x" * 8, DIGEST + "0"):
        with pytest.raises(InputError, match="8 to 64 hex digits expected"):
            fetch(url, str(tmp_path), digits)
    with pytest.raises(InputError, match=r"SHA-256 00000000\.\.\. expected"):
        fetch(server.url, str(tmp_path), "00000000")  # rather than the name's
    assert fetch(url, str(tmp_path), DIGEST.upper()).read_bytes() == CONTENT


def test_file_that_does_not_exist(server, tmp_path):
    server.troubles = [404]
    with pytest.raises(InputError, match=rf"/models/{NAME}: HTTP 404 Not Found$"):
        fetch(server.url, str(tmp_path))
    assert len(server.asked) == 1
    assert files(tmp_path) == []


def test_no_server(server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{NAME}"
    with pytest.raises(InputError, match=r"Connection refused; this was the last of 4 attempts$"):
        fetch(url, str(tmp_path))

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"http://nowhere\.invalid/.*Name or service not known"):
        fetch(f"http://nowhere.invalid/{NAME}", str(tmp_path))
    assert files(tmp_path) == []


@pytest.mark.parametrize("url", ["vgg19", f"file:///tmp/{NAME}", "https://host/", f"ftp://host/{NAME}"])
def test_addresses_that_are_none(url, tmp_path):
    with pytest.raises(InputError, match="the http or https address of a file expected"):
        fetch(url, str(tmp_path))


def test_full_disk_is_not_the_networks_fault(server, tmp_path):
    (tmp_path / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        fetch(server.url, str(tmp_path))
    assert server.asked == [None]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out=.*file.*: a writable folder expected"):
        fetch(server.url, str(tmp_path / "file" / "folder"))


@pytest.mark.parametrize(("kind", "setting"), [("vgg19", "vgg"), ("vgg16", "vgg16")])
def test_command(kind, setting, server, tmp_path, capsys):
    cli.main(["fetch", kind, f"--url={server.url}", f"--out={tmp_path}"])
    out = capsys.readouterr().out
    assert f"{tmp_path / NAME}: SHA-256 {DIGEST}" in out
    assert f"--config.weights.{setting}={tmp_path / NAME}," in out
    assert f"import --kind={kind} --source={tmp_path / NAME} --out={tmp_path / NAME[:-4]}" in out
    server.troubles = [404]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fetch", kind, f"--url={server.url}", f"--out={tmp_path / 'b.pth'}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: http://127.0.0.1")


def test_interruption_keeps_what_there_is(server, tmp_path, monkeypatch, capsys):
    def interrupt(bar, _):
        raise KeyboardInterrupt

    command = ["fetch", "vgg19", f"--url={server.url}", f"--out={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_CHUNK", 1000)
        patch.setattr(tqdm.tqdm, "update", interrupt)
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
    assert stopped.value.code == 130
    assert "the same command resumes it" in capsys.readouterr().err
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:1000]
    cli.main(command)
    assert server.asked == [None, "bytes=1000-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_published_names_have_checksums():
    urls = [kind.url for kind in KINDS if kind.url]
    assert urls
    for url in urls:
        assert len(module._digits(pathlib.PurePosixPath(url).name, None)) == 8
